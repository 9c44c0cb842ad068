"""A dictionary of a target that the model itself gives, for code switching without parallel data.

Words are compared by the means of their states in the task text of both languages; who is each other's nearest
neighbour by CSLS, clearly enough, makes a pair (`data.induced`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from ...data import Tokenizer, TokenStore, pack
from ...data.augment.code_switch import NEIGHBOURS, csls, frequent_words, mutual_pairs, words_of
from ...model import Encoder
from ..evaluation.inference import AHEAD
from ..plan import Stage
from ..pseudolabels.diagnostics import no_induced_pairs
from ..recipe.config import RunConfig, TargetConfig
from ..stages.context import Context
from ..stages.kind import Addition, StageRun, register_addition
from ..training.device import Arriving

DICTIONARY = "dictionary.json"
CHUNK = 64
"""Sentences in one forward pass."""
WORDS, COUNT = 2000, 5
"""The most frequent words of each language that are compared, and the occurrences that such a word must have."""
MARGIN = 0.1
"""What a pair's CSLS score must exceed."""


class InducedDictionary(Addition):
    """The source training texts with words of the target, by the stage's own dictionary, learned beside the source."""

    name = "induce"
    role = "mixed"
    tables = ("augment.code_switch.rate",)

    def joins(self, config: RunConfig, kind: str) -> bool:
        return kind == "finetune" and config.augment.code_switch.induce

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        """The text that decides the dictionary."""
        text = context.data.task_text(*context.config.targets_of(stage.targets))
        return {"words.source": text[0], "words.target": text[-1]}

    def stores(self, run: StageRun, encoder: Encoder) -> dict[str, TokenStore]:
        """The mixed texts, by a dictionary that is made unless it is there; none where it is empty."""
        context, stage = run.context, run.stage
        (target,) = context.config.targets_of(stage.targets)
        if (decided := run.decided(DICTIONARY)) is None:
            said = len(context.warnings)
            found = context.processes.rank_zero_only(lambda: induce(context, stage, target, encoder))
            lines = "".join(f"{e['source']}\t{e['target']}\n" for e in found["entries"])
            decided = run.keep(DICTIONARY, found, lines.encode(), said)
        record, path = decided
        context.warn(no_induced_pairs(record["pairs"], record["margin"]))
        if not record["pairs"]:
            return {}
        return {self.role: context.processes.rank_zero_first(lambda: context.data.source_mixed([path]))}

    def reads(self, context: Context, stage: Stage) -> list[int]:
        return [int(store.offsets[-1]) for store in self.inputs(context, stage).values()]


def induce(context: Context, stage: Stage, target: TargetConfig, encoder: Encoder) -> dict[str, Any]:
    """The pairs of a target, the surest first, with what they were chosen from, as JSON values.

    A pair of equal words takes part, since no other word is the translation of either, and is left out in the end.
    """
    source = context.config.source
    # States of the middle say what a word means, those of the last layer which word of which language is to be guessed.
    layer = round(2 * encoder.config.num_layers / 3)
    assert source.train is not None
    texts = [
        [words_of(e) for e in context.data.sentences([source.train, *source.unlabelled], source.language)],
        [words_of(e) for e in context.data.sentences(target.unlabelled, target.language)],
    ]
    words = [frequent_words(sentences, WORDS, COUNT) for sentences in texts]
    context.progress.note(f"{stage.id}: compares {len(words[0])} with {len(words[1])} words of {target.language}")
    ours, theirs = (word_states(context, encoder, layer, s, w) for s, w in zip(texts, words, strict=True))
    pairs = mutual_pairs(csls(ours, theirs), MARGIN) if all(words) else []
    named = [(words[0][p.source], words[1][p.target], p.score) for p in pairs]
    entries = [{"source": a, "target": b, "score": round(score, 6)} for a, b, score in named if a != b]
    return {
        "target": target.language,
        "layer": layer,
        "margin": MARGIN,
        "neighbours": NEIGHBOURS,
        "words": [len(w) for w in words],
        "pairs": len(entries),
        "equal": len(named) - len(entries),
        "entries": entries,
    }


def word_states(
    context: Context, encoder: Encoder, layer: int, sentences: Sequence[Sequence[str]], words: Sequence[str]
) -> np.ndarray:
    """The mean state of each word over its occurrences, float64 [words, H]; of an occurrence over its sub-tokens.

    Args:
        layer: 0 for the embeddings, n for what layer n gives.
    """
    row = {word: i for i, word in enumerate(words)}
    total = torch.zeros(len(words), encoder.config.hidden_size, dtype=torch.float64)
    count = torch.zeros(len(words), dtype=torch.float64)
    length = min(context.config.max_length, encoder.config.max_length)
    arriving = deque[tuple[np.ndarray, np.ndarray, Arriving]]()

    def settle(behind: int) -> None:
        while len(arriving) > behind:
            owners, shares, states = arriving.popleft()
            at = np.flatnonzero(owners >= 0)
            index, share = torch.from_numpy(owners[at]), torch.from_numpy(shares[at])
            hidden = states.wait(context.processes.wait).double()
            total.index_add_(0, index, hidden[torch.from_numpy(at)] * share[:, None])
            count.index_add_(0, index, share)

    for start in range(0, len(sentences), CHUNK):
        context.poll()
        part = [s for s in sentences[start : start + CHUNK] if s and not row.keys().isdisjoint(s)]
        if not part:
            continue
        tokens, owners, shares = _occurrences(context.tokenizer, part, row, length)
        with torch.inference_mode():
            batch = pack(tokens).to(context.device)
            arriving.append((owners, shares, Arriving(next(islice(encoder.layer_states(batch), layer, None)))))
            settle(0 if context.device.type == "cpu" else AHEAD)
    settle(0)
    means: np.ndarray = (total / count.clamp(min=1)[:, None]).numpy()
    return means


def _occurrences(
    tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], row: Mapping[str, int], length: int
) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """Token ids of each sentence; and of each token of all sentences the row of its word, or -1, and its share of it.

    A share is one divided by the number of the word's sub-tokens.
    """
    tokens, owners, shares = [], list[int](), list[float]()
    for words, encoded in zip(sentences, tokenizer.encode_words(sentences, max_length=length), strict=True):
        owner, share = [-1] * len(encoded.ids), [0.0] * len(encoded.ids)
        ends = [*encoded.positions[1:], len(encoded.ids) - 1]
        for first, end, word in zip(encoded.positions, ends, encoded.words, strict=True):
            owner[first:end] = [row.get(words[word], -1)] * (end - first)
            share[first:end] = [1 / (end - first)] * (end - first)
        tokens.append(encoded.ids)
        owners += owner
        shares += share
    return tokens, np.array(owners, dtype=np.int64), np.array(shares)


register_addition(InducedDictionary())
