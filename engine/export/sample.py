"""The run's own text, and hidden states and logits of it in padded form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ... import ConfigError
from ...data import Example, ItemView, PackedBatch, TokenStore, inference_batches
from ...model import TaskModel
from ...tasks import per_word
from ..prediction.predictor import Predictor
from ..reading.read_file import first_of_each
from ..vocabulary.texts import read_texts, run_texts

COMPARED = 64
"""So many texts, evenly spaced, are read by the exported model and by ours."""
TEXTS = 4000
"""So many texts, evenly spaced, at most; a linear head learns from them."""


@dataclass(frozen=True)
class Padded:
    """The texts that are compared, as a rectangle: `ids`, `mask` and `segments` are int64 [B, L]."""

    batch: PackedBatch
    ids: Tensor
    mask: Tensor
    segments: Tensor

    def inputs(self, model: TaskModel) -> dict[str, Tensor]:
        """What the model's layout reads, by the names that transformers has for it."""
        inputs = {"input_ids": self.ids, "attention_mask": self.mask}
        return inputs | ({"token_type_ids": self.segments} if model.config.num_segments > 1 else {})

    def spread(self, values: Tensor) -> Tensor:
        """Values of the packed tokens, [T, ...], in the rectangle, with zeros beside them."""
        out = values.new_zeros(*self.mask.shape, *values.shape[1:])
        out[self.mask.bool()] = values
        return out

    def items(self, values: Tensor) -> Tensor:
        """Of values in the rectangle, [B, L, C] or one for each text, [B, C], those of the items, [K, C]."""
        batch = self.batch
        if values.dim() == 2:
            return values[batch.item_example]
        return values[batch.item_example, batch.item_index - batch.cu_seqlens[batch.item_example]]


def read_sample(
    predictor: Predictor, source: Path, texts: Sequence[str | Path], encoding: str, text: str
) -> list[Example]:
    """At most `TEXTS` different texts without labels: of the files, else the unlabelled ones of the stage's run.

    Raises:
        ConfigError: there is no text, or no file is named and the folder lies in no run.
        DataError: a file is missing or wrong.
    """
    examples = read_texts(texts, encoding, text) if texts else list(run_texts(source, ("train", "unlabelled")))
    if not examples:
        raise ConfigError("there is no text; give some with --text")
    examples = [examples[i] for i in first_of_each(examples)]
    examples = [replace(e, labels=None) for e in examples[:: -(-len(examples) // TEXTS)]]
    if per_word(predictor.task):
        return [e if e.words is not None else replace(e, words=predictor.words(e.plain), text=None) for e in examples]
    return [replace(e, words=None, text=e.plain) for e in examples]


def padded(store: TokenStore, padding: int) -> Padded:
    """`COMPARED` texts of a store, evenly spaced."""
    chosen = np.unique(np.linspace(0, len(store) - 1, COMPARED).round().astype(np.int64))
    ((batch, _),) = inference_batches(ItemView(store), chosen, token_budget=2**31)
    return rectangle(batch, padding)


def rectangle(batch: PackedBatch, padding: int) -> Padded:
    """The sequences of a batch below each other."""
    lengths = batch.cu_seqlens.diff()
    mask = (torch.arange(batch.max_seqlen) < lengths[:, None]).long()
    made = Padded(batch, torch.full_like(mask, padding), mask, torch.zeros_like(mask))
    made.ids[mask.bool()], made.segments[mask.bool()] = batch.token_ids, batch.segments
    return made
