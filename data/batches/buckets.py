"""Static shapes: a packed batch is padded up to one of a few buckets, so that a step can be captured and replayed.

Padding is at the end and changes no result. Its tokens belong to sequences of their own, since attention writes the
rows of no others, and whatever is in an unwritten row would reach the gradients of the weights; its items read token 0
with label -100 or weight 0, so that their loss and everything behind it is zero. Dropout masks are keyed by rows, and
the rows of the real tokens stay where they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..store.store import IGNORE
from .batch import PackedBatch

FILLER = 0
"""Token of the padding; any id of the vocabulary would do."""
MOST_BUCKETS = 8
TOKEN_MULTIPLE = 64
"""Matrix products work in tiles of 64 to 256 rows: a bucket between two multiples would cost as much as the next."""
ITEM_MULTIPLE = 16
_EDGES = 128


class BatchSize(NamedTuple):
    """What a bucket has to hold: tokens, sequences, items, and the longest sequence."""

    tokens: int
    sequences: int
    items: int
    longest: int

    @classmethod
    def of(cls, batch: PackedBatch) -> BatchSize:
        sequences, items = batch.cu_seqlens.shape[0] - 1, batch.item_index.shape[0]
        return cls(int(batch.token_ids.shape[0]), int(sequences), int(items), batch.max_seqlen)


class Bucket(BatchSize):
    """The sizes of every batch that is padded to it."""

    __slots__ = ()

    def fits(self, size: BatchSize) -> bool:
        """Whether a batch of this size can be padded to the bucket."""
        return (
            size.tokens <= self.tokens
            and size.items <= self.items
            and size.longest <= self.longest
            and size.sequences + padding_sequences(self.tokens - size.tokens, self.longest) <= self.sequences
        )


def padding_sequences(tokens: int, longest: int) -> int:
    """How many sequences so many tokens of padding make, each of at most `longest`."""
    return -(-tokens // max(longest, 1))


def choose_buckets(sizes: Sequence[BatchSize], most: int = MOST_BUCKETS) -> tuple[Bucket, ...]:
    """At most `most` buckets for batches of these sizes, with the least padding there can be.

    Edges lie on multiples of 64 tokens (of more where the largest batch has over 8,192, so that there are at most 128
    candidates), and of all ways to choose `most` of them the one is taken that pads the fewest tokens, by dynamic
    programming. A bucket's other sizes are the largest of its batches. Each batch fits at least one bucket.

    Args:
        sizes: of the batches to come, or of a sample of them.
        most: largest number of buckets, at least 1.

    Returns:
        Buckets in order of their tokens; none without sizes.

    Raises:
        ValueError: `most` is less than 1.
    """
    if most < 1:
        raise ValueError(f"choose_buckets needs at least one bucket, got {most}")
    if not sizes:
        return ()
    tokens = np.array([size.tokens for size in sizes])
    multiple = TOKEN_MULTIPLE * -(-int(tokens.max()) // (TOKEN_MULTIPLE * _EDGES))
    edge_of = -(-tokens // multiple) * multiple
    edges, counts = np.unique(edge_of, return_counts=True)
    chosen = [int(edges[i]) for i in _cuts(edges, counts, most)]
    found = []
    for low, high in zip([0, *chosen], chosen, strict=False):
        members = [size for size in sizes if low < size.tokens <= high]
        longest = max(size.longest for size in members)
        found.append(
            Bucket(
                high,
                max(size.sequences + padding_sequences(high - size.tokens, longest) for size in members),
                -(-max(size.items for size in members) // ITEM_MULTIPLE) * ITEM_MULTIPLE,
                longest,
            )
        )
    return tuple(found)


def _cuts(edges: np.ndarray, counts: np.ndarray, most: int) -> list[int]:
    """Which edges to keep, at most `most` and the last among them, so that the sum of `count * edge` is least."""
    below = np.concatenate([[0], np.cumsum(counts)])
    best = np.concatenate([[0.0], np.full(len(edges), np.inf)])
    choices = []
    for _ in range(min(most, len(edges))):
        # cost[i, j]: the first i edges are settled, those from i to j - 1 are padded up to edge j - 1.
        cost = best[:, None] + (below[None, 1:] - below[:, None]) * edges[None, :]
        cost[np.arange(len(best))[:, None] > np.arange(len(edges))[None, :]] = np.inf
        choice = cost.argmin(axis=0)
        choices.append(choice)
        best = np.concatenate([[np.inf], cost.min(axis=0)])
    kept = []
    end = len(edges)
    for choice in reversed(choices):
        kept.append(end - 1)
        end = int(choice[end - 1])
    return kept[::-1]


def find_bucket(sizes: Sequence[BatchSize], buckets: Sequence[Bucket]) -> Bucket | None:
    """The first bucket that fits all of `sizes`, or None."""
    return next((bucket for bucket in buckets if all(bucket.fits(size) for size in sizes)), None)


def padding_share(sizes: Sequence[BatchSize], buckets: Sequence[Bucket]) -> float:
    """The share of padding among the tokens that are computed; batches that fit no bucket are not padded."""
    computed = real = 0
    for size in sizes:
        bucket = find_bucket([size], buckets)
        computed += size.tokens if bucket is None else bucket.tokens
        real += size.tokens
    return 1 - real / computed if computed else 0.0


def pad_step(batches: Sequence[PackedBatch], buckets: Sequence[Bucket]) -> list[PackedBatch]:
    """The micro-batches of a step, all padded to the smallest bucket that fits them all; as they are if none does."""
    bucket = find_bucket([BatchSize.of(batch) for batch in batches], buckets)
    return list(batches) if bucket is None else [pad_to_bucket(batch, bucket) for batch in batches]


def pad_to_bucket(batch: PackedBatch, bucket: Bucket) -> PackedBatch:
    """The same batch in the shapes of the bucket; loss, gradients and `num_targets` are those of `batch`.

    `example_ids` and `item_example` stay as they are: they name what is real, and no kernel reads them. Where soft
    targets have no weights they get some, 1 for real items and 0 for padding.

    Raises:
        ValueError: the batch does not fit.
    """
    size = BatchSize.of(batch)
    if not bucket.fits(size):
        raise ValueError(f"{size} does not fit {bucket}")
    padding, items = bucket.tokens - size.tokens, bucket.items - size.items
    places = torch.arange(padding)
    ends = torch.arange(1, bucket.sequences - size.sequences + 1) * bucket.longest
    weights, soft = batch.weights, batch.soft_targets
    if soft is not None:
        # Any distribution will do, but zeros have no logarithm.
        soft = torch.cat([soft, torch.full((items, soft.shape[1]), 1 / soft.shape[1])])
        weights = torch.ones(size.items) if weights is None else weights
    return replace(
        batch,
        token_ids=_extended(batch.token_ids, padding, FILLER),
        positions=torch.cat([batch.positions, places % bucket.longest]),
        segments=_extended(batch.segments, padding, 0),
        cu_seqlens=torch.cat([batch.cu_seqlens, (size.tokens + ends.clamp(max=padding)).to(torch.int32)]),
        max_seqlen=bucket.longest,
        item_index=_extended(batch.item_index, items, 0),
        labels=None if batch.labels is None else _extended(batch.labels, items, IGNORE),
        soft_targets=soft,
        weights=None if weights is None else _extended(weights, items, 0),
    )


def pad_to_few_sizes(batch: PackedBatch) -> PackedBatch:
    """The batch with up to a sixteenth more tokens and items, so that few sizes occur among many batches.

    A library that compiles for every number of rows, as oneDNN does for 16-bit products, would fill the memory.
    """
    size = BatchSize.of(batch)
    tokens, items = (_with_five_bits(count) for count in (size.tokens, size.items))
    more = padding_sequences(tokens - size.tokens, size.longest)
    return pad_to_bucket(batch, Bucket(tokens, size.sequences + more, items, size.longest))


def _with_five_bits(count: int) -> int:
    """The least number of five binary digits and zeros that is not below `count`."""
    step = 1 << max(0, count.bit_length() - 5)
    return -(-count // step) * step


def _extended(values: Tensor, count: int, value: int) -> Tensor:
    return torch.cat([values, values.new_full((count,), value)])
