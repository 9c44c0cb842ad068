"""Packed batches: the only shape in which text reaches the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..store.store import IGNORE


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """`S` sequences laid end to end, `T` tokens in all, and the `K` rows that the head reads.

    Attributes:
        token_ids: int64 [T].
        positions: int64 [T], position of each token in its own sequence.
        segments: int64 [T], 0, or 1 for the second text of a pair.
        cu_seqlens: int32 [S + 1], where each sequence starts; the last entry is T.
        max_seqlen: length of the longest sequence, known on the host.
        item_index: int64 [K], rows of the packed axis that the head reads.
        labels: int64 [K], -100 where there is no target, or None.
        soft_targets: float32 [K, C] teacher probabilities, or None.
        weights: float32 [K], or None for all ones.
        example_ids: int64 [S], the caller's number of each sequence.
        item_example: int64 [K], index into the S sequences of each item.
        num_targets: number of items that count in the loss, known on the host.
        first_token, first_item: tokens and items of the step's batch before those of this part of it; 0 in a whole one.
            Dropout counts its rows from there. Tensors in a captured step.
        starts: the numbers in `cu_seqlens`, known on the host, of a batch that was sent to a device; else None.
    """

    token_ids: Tensor
    positions: Tensor
    segments: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    item_index: Tensor
    labels: Tensor | None = None
    soft_targets: Tensor | None = None
    weights: Tensor | None = None
    example_ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    item_example: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    num_targets: int = 0
    first_token: int | Tensor = 0
    first_item: int | Tensor = 0
    starts: Sequence[int] | None = None

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        names = self.__dataclass_fields__
        return {name: value for name in names if isinstance(value := getattr(self, name), Tensor)}

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on `device`; itself where it already is there."""
        if self.token_ids.device == torch.device(device):
            return self
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in self.tensors().items()}
        if self.cu_seqlens.device.type == "cpu":
            moved["starts"] = self.cu_seqlens.tolist()
        return replace(self, **moved)


def pack(
    sequences: Sequence[Sequence[int] | np.ndarray],
    segments: Sequence[Sequence[int] | np.ndarray] | None = None,
    *,
    items: Sequence[Sequence[int] | np.ndarray] | None = None,
    labels: Sequence[Sequence[int] | np.ndarray] | None = None,
    soft_targets: Sequence[np.ndarray] | None = None,
    weights: Sequence[Sequence[float] | np.ndarray] | None = None,
    example_ids: Sequence[int] | np.ndarray | None = None,
) -> PackedBatch:
    """Lays sequences of token ids end to end, in the given order.

    Args:
        sequences: token ids of each sequence, special tokens included; none may be empty.
        segments: segment id of each token; zeros when omitted.
        items: for each sequence the positions that the head reads; position 0 ([CLS]) when omitted.
        labels: for each sequence one label per item, -100 to ignore.
        soft_targets: for each sequence a float array [items, C] of teacher probabilities.
        weights: for each sequence one weight per item.
        example_ids: the caller's number of each sequence; 0..S-1 when omitted.

    Raises:
        ValueError: there is no sequence, or one is empty.
    """
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    if not len(lengths) or lengths.min() == 0:
        raise ValueError("pack needs at least one sequence, and none may be empty")
    return pack_joined(
        lengths,
        _join(sequences, np.int64),
        np.zeros(len(lengths), dtype=np.int64) if items is None else _join(items, np.int64),
        np.array([1] * len(lengths) if items is None else [len(i) for i in items], dtype=np.int64),
        segments=None if segments is None else _join(segments, np.int64),
        labels=None if labels is None else _join(labels, np.int64),
        soft_targets=None if soft_targets is None else _join(soft_targets, np.float32),
        weights=None if weights is None else _join(weights, np.float32),
        example_ids=np.arange(len(lengths)) if example_ids is None else np.asarray(example_ids, dtype=np.int64),
    )


def pack_joined(
    lengths: np.ndarray,
    token_ids: np.ndarray,
    items: np.ndarray,
    counts: np.ndarray,
    *,
    example_ids: np.ndarray,
    segments: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    soft_targets: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> PackedBatch:
    """The batch of sequences that lie end to end already, in the dtypes of a batch.

    Args:
        lengths: int64 [S], tokens of each sequence.
        token_ids: [T].
        items: [K], positions that the head reads, each in its own sequence.
        counts: int64 [S], how many of them each sequence has.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    return PackedBatch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(np.zeros_like(positions) if segments is None else segments),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        max_seqlen=int(lengths.max()),
        item_index=torch.from_numpy(items + np.repeat(starts[:-1], counts)),
        labels=None if labels is None else torch.from_numpy(labels),
        soft_targets=None if soft_targets is None else torch.from_numpy(soft_targets),
        weights=None if weights is None else torch.from_numpy(weights),
        example_ids=torch.from_numpy(example_ids),
        item_example=torch.from_numpy(np.repeat(np.arange(len(lengths)), counts)),
        num_targets=len(items) if labels is None else int((labels != IGNORE).sum()),
    )


def _join(parts: Sequence[Sequence[int] | Sequence[float] | np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts])


def cut(batch: PackedBatch, sequences: int) -> list[PackedBatch]:
    """A batch in parts of at most `sequences` sequences, in their order; the batch itself where it has no more.

    Each part is what `pack` makes of its sequences alone, but knows where it begins, so that dropout is that of the
    batch; the numbers of targets add up to that of the batch. Padding of a static shape is left out.
    """
    count = len(batch.example_ids)
    if not 0 < sequences < count:
        return [batch]
    starts = batch.cu_seqlens.tolist()
    ends = [0, *torch.bincount(batch.item_example, minlength=count).cumsum(0).tolist()]
    return [_part(batch, a, min(a + sequences, count), starts, ends) for a in range(0, count, sequences)]


def _part(batch: PackedBatch, first: int, last: int, starts: Sequence[int], ends: Sequence[int]) -> PackedBatch:
    """The sequences from `first` to `last - 1`; sequence i has tokens from `starts[i]`, items from `ends[i]` on."""
    tokens, items = slice(starts[first], starts[last]), slice(ends[first], ends[last])
    labels = None if batch.labels is None else batch.labels[items]
    return PackedBatch(
        token_ids=batch.token_ids[tokens],
        positions=batch.positions[tokens],
        segments=batch.segments[tokens],
        cu_seqlens=batch.cu_seqlens[first : last + 1] - starts[first],
        max_seqlen=max(b - a for a, b in zip(starts[first:last], starts[first + 1 : last + 1], strict=True)),
        item_index=batch.item_index[items] - starts[first],
        labels=labels,
        soft_targets=None if batch.soft_targets is None else batch.soft_targets[items],
        weights=None if batch.weights is None else batch.weights[items],
        example_ids=batch.example_ids[first:last],
        item_example=batch.item_example[items] - first,
        num_targets=ends[last] - ends[first] if labels is None else int((labels != IGNORE).sum()),
        first_token=batch.first_token + starts[first],
        first_item=batch.first_item + ends[first],
    )
