"""Small models with their objectives, batches for them, and what a run of their loop has left."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from xlt_engine.data import PackedBatch, pack
from xlt_engine.engine import Loop
from xlt_engine.engine.training.objectives import cross_entropy, masked_lm, soft_labels
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, MaskedLM, TaskModel, VoterHeads
from xlt_engine.model.weights import tensors_hash

VOCABULARY, HIDDEN, LABELS = 60, 16, ("O", "B-X", "I-X")


def encoder(dropout: float = 0.0, layers: int = 2, spread: float = 0.1) -> Encoder:
    config = EncoderConfig(
        VOCABULARY,
        HIDDEN,
        layers,
        2,
        32,
        max_positions=32,
        dropout=dropout,
        attention_dropout=dropout,
        initializer_range=spread,
    )
    return Encoder(config, seed=1)


def tagger(dropout: float = 0.0, voters: bool = True, layers: int = 2, fresh: bool = False) -> TaskModel:
    """With outputs far from each other, or as drawn for training."""
    spread, of_head = (0.02, 0.02) if fresh else (0.1, 0.5)
    if voters:
        head: Any = VoterHeads(HIDDEN, 3, (12, 13, 14), dropout, seed=2, initializer_range=of_head)
    else:
        head = LinearHead(HIDDEN, 3, dropout, seed=2, initializer_range=of_head)
    return TaskModel(encoder(dropout, layers, spread), head, "ner", LABELS)


KINDS: dict[str, tuple[Callable[..., Any], Any]] = {
    "mlm": (lambda *given, **more: MaskedLM(encoder(*given, **more), seed=3), masked_lm),
    "hard": (tagger, cross_entropy),
    "soft": (tagger, soft_labels),
    "linear": (lambda *given: tagger(*given, voters=False), cross_entropy),
}


def rows(seed: int, count: int, kind: str = "hard", *, ignored: float = 0.0) -> list[dict[str, Any]]:
    """Sequences of 3 to 11 tokens with items, labels of which some are ignored, and soft labels with weights."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        length = int(rng.integers(3, 12))
        items = np.arange(1, length - 1)
        labels = rng.integers(VOCABULARY if kind == "mlm" else 3, size=len(items))
        labels[rng.random(len(items)) < ignored] = -100
        found.append(
            {
                "ids": [2, *rng.integers(5, VOCABULARY, size=length - 2).tolist(), 3],
                "segments": (np.arange(length) > 4).astype(np.int64),
                "items": items,
                "labels": labels,
                "soft": rng.dirichlet(np.ones(3), size=len(items)).astype(np.float32),
                "weights": rng.random(len(items)).astype(np.float32),
            }
        )
    return found


def packed(
    chosen: Sequence[dict[str, Any]], kind: str = "hard", *, names: Sequence[int] | None = None, bare: bool = True
) -> PackedBatch:
    """One batch; unless it is bare, with segments (but for hard labels) and with weights of soft ones."""
    columns: dict[str, Any] = {"labels": [r["labels"] for r in chosen]}
    if kind == "soft":
        columns = {"soft_targets": [r["soft"] for r in chosen]}
        columns |= {} if bare else {"weights": [r["weights"] for r in chosen]}
    segments = None if bare or kind == "hard" else [r["segments"] for r in chosen]
    items = [r["items"] for r in chosen]
    return pack([r["ids"] for r in chosen], segments, items=items, example_ids=names, **columns)


class Words:
    """Steps of eight sentences in equal parts, with a rule to learn: a word's class is its id modulo three.

    The sentences of a step have from so many words to fewer than so many; steps take their `lengths` in turn.
    """

    def __init__(
        self, count: int, parts: int = 1, kind: str = "hard", lengths: Sequence[tuple[int, int]] = ((2, 8),)
    ) -> None:
        self.count, self.parts, self.kind, self.lengths = count, parts, kind, lengths

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> list[PackedBatch]:
        rng = np.random.default_rng([7, step])
        least, most = self.lengths[step % len(self.lengths)]
        words = [rng.integers(5, VOCABULARY, size=rng.integers(least, most)) for _ in range(8)]
        size = 8 // self.parts
        return [self._pack(words[a : a + size], rng, a + 100 * step) for a in range(0, 8, size)]

    def _pack(self, words: list[np.ndarray], rng: np.random.Generator, first: int) -> PackedBatch:
        targets: dict[str, Any] = {"labels": [w if self.kind == "mlm" else w % 3 for w in words]}
        if self.kind == "soft":
            targets = {"soft_targets": [rng.dirichlet(np.ones(3), len(w)).astype(np.float32) for w in words]}
        return pack(
            [np.concatenate([[2], w, [3]]) for w in words],
            items=[np.arange(1, len(w) + 1) for w in words],
            example_ids=np.arange(first, first + len(words)),
            **targets,
        )


def outcome(loop: Loop) -> tuple[str, dict[str, Any]]:
    """Weights with all that the optimiser remembers, and the trace."""
    return tensors_hash(loop.state()[0]), vars(loop.trace)


def restore(loop: Loop, stopped: Loop) -> None:
    """Goes on where another loop was stopped, whose state goes through no file."""
    tensors, meta = stopped.state()
    given: dict[str, torch.Tensor] = {name: tensor.clone() for name, tensor in tensors.items()}
    trace = {name: list(values) for name, values in meta["trace"].items()}
    loop.restore(stopped.step, given, meta | {"trace": trace})
