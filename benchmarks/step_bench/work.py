"""What the step benchmark computes: shapes, tasks, sequences of given lengths, and the batches of each order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xlt_engine.data import (
    BatchSize,
    Corpus,
    ItemView,
    MlmBatches,
    PackedBatch,
    Part,
    TaskBatches,
    TokenStore,
    pack,
    rng_for,
)
from xlt_engine.data.batches.sources import mask_tokens
from xlt_engine.engine.bench.case import lengths
from xlt_engine.model import EncoderConfig

CLASSES = 9
SPECIAL = 5
"""Ids 0 to 4: [PAD] [UNK] [CLS] [SEP] [MASK]."""
PAD, CLS, SEP, MASK = 0, 2, 3, 4
KINDS = ("conll", "review")
ORDERS = ("random", "sorted")
WINDOW = 50
"""Batches of a window, as the engine's sampler has it."""
KEPT = 0.8
"""Share of the teacher's probability that the label keeps; the rest is spread over the classes."""

SHAPES = {
    "mbert": EncoderConfig(vocab_size=119_547),
    "small": EncoderConfig(
        vocab_size=20_000,
        hidden_size=192,
        num_layers=4,
        num_heads=6,
        intermediate_size=768,
        max_positions=256,
    ),
    # ModernBERT's kind: gates, rotary positions, every third layer sees all and the others 64 tokens to both sides.
    "modern": EncoderConfig.from_hf(
        {
            "model_type": "modernbert",
            "vocab_size": 20_000,
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "intermediate_size": 576,
            "max_position_embeddings": 1024,
            "pad_token_id": PAD,
        }
    ),
    "tiny": EncoderConfig(
        vocab_size=500,
        hidden_size=32,
        num_layers=4,
        num_heads=2,
        intermediate_size=96,
        max_positions=256,
    ),
}


@dataclass(frozen=True)
class Task:
    """A kind of step: what it is, the languages of its text, and whether it trains."""

    text: str
    languages: tuple[str, ...]
    trains: bool = True


TASKS = {
    "btf": Task("masked-LM step on two languages", ("en", "de")),
    "finetune": Task("NER fine-tuning step, 9 classes", ("en",)),
    "soft": Task("soft-label step, 3 voters, 9 classes", ("de",)),
    "hard": Task("hard-label step, 3 voters, 9 classes", ("en", "de")),
    "teacher": Task("teacher inference, 9 classes", ("de",), trains=False),
}
"""All training freezes the embeddings, with them the tied decoder, and the lowest quarter of the layers."""


@dataclass(frozen=True)
class Text:
    """Token ids with [CLS] and [SEP], and the position and class (0 to 8) of each word's first token."""

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Row:
    """One sequence of a task: what goes in, which positions have a target, and the targets."""

    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.ids)


Texts = Mapping[str, Sequence[Text]]
"""Sequences by language."""
Step = list[list[Row]]
"""The batches of a step; several for the teacher."""


def frozen_layers(config: EncoderConfig) -> int:
    """The lowest quarter: 3 of mBERT's 12, as in arXiv 2310.04726."""
    return config.num_layers // 4


def draw_texts(kind: str, count: int, *, vocabulary: int, scale: str = "full") -> dict[str, list[Text]]:
    """Random ids in sequences whose lengths are of this kind (`case.lengths`); the same on every machine."""
    found = {}
    for language in ("en", "de"):
        rng = rng_for(0, "bench step", kind, language)
        drawn = rng.permutation(lengths(kind, count, scale=scale))
        found[language] = [_draw(int(length), vocabulary, rng) for length in drawn]
    return found


def _draw(length: int, vocabulary: int, rng: np.random.Generator) -> Text:
    ids = np.concatenate([[CLS], rng.integers(SPECIAL, vocabulary, length - 2), [SEP]])
    positions = np.flatnonzero(rng.random(length - 2) < 0.8) + 1
    positions = positions if len(positions) else np.array([1])
    return Text(ids, positions, rng.integers(CLASSES, size=len(positions)))


def special_tokens(vocabulary: int) -> np.ndarray:
    """bool [V]: what is never masked."""
    found = np.zeros(vocabulary, dtype=bool)
    found[:SPECIAL] = True
    return found


def make_row(task: str, text: Text, number: int, vocabulary: int) -> Row:
    """A text as an example of `task`; its masks depend on `number` alone."""
    if task != "btf":
        return Row(text.ids, text.positions, text.labels)
    rng = rng_for(0, "bench mask", number)
    corrupted, targets = mask_tokens(text.ids, special_tokens(vocabulary), rng, mask_id=MASK, vocab_size=vocabulary)
    positions = np.flatnonzero(targets >= 0)
    return Row(corrupted, positions, targets[positions])


def soft_targets(row: Row) -> np.ndarray:
    """[K, C] probabilities around the labels, as of a teacher."""
    spread = np.full((len(row.targets), CLASSES), (1 - KEPT) / CLASSES, dtype=np.float32)
    spread[np.arange(len(row.targets)), row.targets] += KEPT
    return spread


def make_work(
    task: str, texts: Texts, order: str, *, vocabulary: int, repeats: int, batch_size: int, batches: int
) -> list[Step]:
    """For each repeat its batches. Both orders draw from one window of 50 batches, as the engine's sampler does.

    "random" takes batches of the window as they come, "sorted" those at evenly spaced places of the sorted window.
    """
    languages = TASKS[task].languages
    share = WINDOW * batch_size // len(languages)
    drawn = [text for language in languages for text in texts[language][:share]]
    permutation = rng_for(0, "window", task).permutation(len(drawn))
    rows = [make_row(task, drawn[i], int(i), vocabulary) for i in permutation]
    rows = [row for row in rows if len(row.positions)]
    if order == "sorted":
        rows.sort(key=lambda row: row.length)
    cut = [rows[i : i + batch_size] for i in range(0, len(rows) - batch_size + 1, batch_size)]
    wanted = repeats * batches
    if order == "random":
        chosen = [cut[i % len(cut)] for i in range(wanted)]
    else:
        # A teacher's pass goes through the sorted sentences: the batches of one repeat are neighbours.
        first = ((np.arange(repeats) + 0.5) * (len(cut) - batches + 1) / repeats).astype(int)
        chosen = [cut[f + k] for f in first for k in range(batches)]
    return [chosen[i : i + batches] for i in range(0, wanted, batches)]


def packed(task: str, rows: Sequence[Row]) -> PackedBatch:
    """The rows as the engine's batches of this task are."""
    soft = [soft_targets(row) for row in rows] if task == "soft" else None
    labels = None if task == "soft" else [row.targets for row in rows]
    weights = [np.ones(len(row.targets), dtype=np.float32) for row in rows] if task == "hard" else None
    ids, items = [row.ids for row in rows], [row.positions for row in rows]
    return pack(ids, items=items, labels=labels, soft_targets=soft, weights=weights)


def make_store(texts: Sequence[Text]) -> TokenStore:
    """The texts as a store that lies in memory."""
    counts = np.array([len(text.positions) for text in texts])
    arrays: dict[str, Any] = {
        "token_ids": np.concatenate([text.ids for text in texts]),
        "offsets": np.concatenate([[0], np.cumsum([len(text.ids) for text in texts])]),
        "item_offsets": np.concatenate([[0], np.cumsum(counts)]),
        "item_positions": np.concatenate([text.positions for text in texts]),
        "item_words": np.concatenate([np.arange(n) for n in counts]),
        "labels": np.concatenate([text.labels for text in texts]),
        "num_words": counts,
    }
    labels = [str(i) for i in range(CLASSES)]
    manifest: dict[str, Any] = {"task": "ner", "labels": labels, "max_length": 256, "cut": {}, "tokenizer": ""}
    return TokenStore(Path(), manifest, arrays)


class Drawn:
    """`steps` batches of a training task from the engine's own sources, which sample, mask and pack as in a run."""

    def __init__(self, task: str, texts: Texts, *, vocabulary: int, batch_size: int, steps: int) -> None:
        window = max(WINDOW, steps) * batch_size
        stores = [make_store(texts[language][:window]) for language in TASKS[task].languages]
        share = max(1.0, steps * batch_size / sum(len(store) for store in stores) + 1)
        self._steps = steps
        self._source: MlmBatches | TaskBatches
        if task == "btf":
            corpora = [Corpus(store) for store in stores]
            special = special_tokens(vocabulary)
            self._source = MlmBatches(
                corpora, special=special, mask_id=MASK, batch_size=batch_size, epochs=share, seed=0
            )
        else:
            parts = [_part(task, store) for store in stores]
            self._source = TaskBatches(parts, batch_size=batch_size, epochs=share, seed=0)
        assert len(self._source) >= steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int, /) -> list[PackedBatch]:
        return self._source[step]

    def sizes(self, step: int, /) -> list[BatchSize]:
        """As the sources of a run."""
        return self._source.sizes(step)


def _part(task: str, store: TokenStore) -> Part:
    assert store.item_labels is not None
    labels = np.asarray(store.item_labels)
    view, examples = ItemView(store), np.arange(len(store))
    if task == "soft":
        row = Row(store.token_ids, store.item_positions, labels)
        return Part(view, examples, soft_targets=soft_targets(row))
    weights = np.ones(len(labels), dtype=np.float32) if task == "hard" else None
    return Part(view, examples, labels=labels, weights=weights)


class Listed:
    """A batch source that holds its steps."""

    def __init__(self, steps: Sequence[Sequence[PackedBatch]]) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int, /) -> Sequence[PackedBatch]:
        return self._steps[step]

    def sizes(self, step: int, /) -> list[BatchSize]:
        """As the sources of a run."""
        return [BatchSize.of(batch) for batch in self._steps[step]]
