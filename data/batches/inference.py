"""What is read without learning from it: sequences of similar length together, long sentences in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .batch import PackedBatch, pack
from .rows import ItemView, Rows
from .windows import Row

INFERENCE_TOKENS = 4096
GPU_INFERENCE_TOKENS = 32768
"""A GPU is busy only with large products; without a backward pass so many tokens take little of its memory."""


def inference_tokens(device_type: str) -> int:
    """Tokens of a batch without a backward pass, by the type of the device."""
    return GPU_INFERENCE_TOKENS if device_type == "cuda" else INFERENCE_TOKENS


def inference_batches(
    view: ItemView,
    examples: np.ndarray | None = None,
    *,
    token_budget: int = INFERENCE_TOKENS,
    part: int = 0,
    parts: int = 1,
) -> Iterator[tuple[PackedBatch, np.ndarray]]:
    """Batches of about `token_budget` tokens, sorted by length, with the flat item numbers of their rows.

    The sentences of a store that keeps them whole are read in windows where they are longer than its maximum length.
    Of the batches, which do not depend on `part` and `parts`, those number `part`, `part + parts` and so on.

    Yields:
        A batch, and int64 [K]: where the result of each of its items belongs on the flat item axis of the store.
    """
    rows = Rows(view, np.arange(len(view.store)) if examples is None else examples)
    return row_batches(rows.lengths, rows.__getitem__, token_budget, part=part, parts=parts)


def row_batches(
    lengths: np.ndarray, row: Callable[[int], Row], token_budget: int, *, part: int = 0, parts: int = 1
) -> Iterator[tuple[PackedBatch, np.ndarray]]:
    """Batches of rows, as of `inference_batches`.

    Args:
        lengths: int [n], tokens in each row.
        row: makes the row of a number below n when its batch is due.
    """
    order = np.argsort(lengths, kind="stable")
    group = (np.cumsum(lengths[order]) - 1) // token_budget
    for members in np.split(order, np.flatnonzero(np.diff(group)) + 1)[part::parts]:
        if not len(members):
            continue
        rows = [row(int(number)) for number in members]
        paired = any(r.segments is not None for r in rows)
        batch = pack(
            [r.ids for r in rows],
            [np.zeros(len(r.ids), dtype=np.int64) if r.segments is None else r.segments for r in rows]
            if paired
            else None,
            items=[r.positions for r in rows],
            example_ids=[r.example for r in rows],
        )
        yield batch, np.concatenate([np.asarray(r.items, dtype=np.int64) for r in rows])
