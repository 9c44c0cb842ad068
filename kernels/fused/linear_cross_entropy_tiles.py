"""What the kernels of `linear_cross_entropy` do with one tile: BLOCK_N rows by BLOCK_V classes."""

from __future__ import annotations

import triton
import triton.language as tl

# A logit may exceed the row's reference by this much before the row is done again with a better one.
REPAIR_ABOVE = tl.constexpr(30.0)
# Exact power of two that lifts probabilities into the range of fp16 normals.
FP16_LIFT = tl.constexpr(2048.0)
MINUS_INF = tl.constexpr(float("-inf"))
# exp(x) is exp2(x * LOG2_E) without the branch for results below 2**-126, which are 0 here.
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def logits_tile(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    first_row,
    first_column,
    rows,
    vocabulary,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The logits of a tile in fp32; rows beyond the end repeat the last one, columns are minus infinity.

    Pointers are a 64-bit scalar and 32-bit offsets inside the tile, which halves the registers that addresses take.
    """
    row = tl.minimum(first_row + tl.arange(0, BLOCK_N), rows - 1) - first_row
    column = tl.minimum(first_column + tl.arange(0, BLOCK_V), vocabulary - 1) - first_column
    k = tl.arange(0, BLOCK_H)
    x_ptr = hidden_ptr + first_row.to(tl.int64) * SIZE + row[:, None] * SIZE + k[None, :]
    w_ptr = weight_ptr + first_column.to(tl.int64) * SIZE + column[None, :] * SIZE + k[:, None]
    acc = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for start in range(0, SIZE, BLOCK_H):
        if SIZE % BLOCK_H == 0:
            x = tl.load(x_ptr)
            w = tl.load(w_ptr)
        else:
            inside = start + k < SIZE
            x = tl.load(x_ptr, mask=inside[None, :], other=0.0)
            w = tl.load(w_ptr, mask=inside[:, None], other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
        x_ptr += BLOCK_H
        w_ptr += BLOCK_H
    return acc + column_shift(bias_ptr, first_column, vocabulary, BLOCK_V, HAS_BIAS)[None, :]


@triton.jit
def column_shift(bias_ptr, first_column, vocabulary, BLOCK_V: tl.constexpr, HAS_BIAS: tl.constexpr):
    """What is added to a tile's columns: the bias, and minus infinity beyond the vocabulary in place of a mask."""
    column = first_column + tl.arange(0, BLOCK_V)
    known = column < vocabulary
    if HAS_BIAS:
        return tl.load(bias_ptr + column, mask=known, other=MINUS_INF).to(tl.float32)
    return tl.where(known, 0.0, MINUS_INF)


@triton.jit
def place_in_tile(target, counted, first_column, BLOCK_V: tl.constexpr):
    """The column of the tile that is the row's target, -1 where none is: 32 bits take half the comparisons of 64."""
    place = target - first_column
    return tl.where(counted & (place >= 0) & (place < BLOCK_V), place, -1).to(tl.int32)


@triton.jit
def nothing_counts(target_ptr, row, present, ignore_index):
    """Whether all rows of a tile are ignored, as at the end of a batch that was padded: it then skips its product."""
    target = tl.load(target_ptr + row, mask=present, other=ignore_index)
    return tl.max((target != ignore_index).to(tl.int32), 0) == 0


@triton.jit
def store_tile(out_ptr, value, first_row, first_column, present, stride, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr):
    column = tl.arange(0, BLOCK_V)
    corner = out_ptr + first_row.to(tl.int64) * stride + first_column
    offset = tl.arange(0, BLOCK_N)[:, None] * stride + column[None, :]
    inside = present[:, None] & (first_column + column < stride)[None, :]
    tl.store(corner + offset, value.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def exponentials_of_tile(
    logits,
    target_ptr,
    reference_ptr,
    max_ptr,
    sum_ptr,
    first_row,
    column_tile,
    present,
    rows,
    ignore_index,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    STORE: tl.constexpr,
):
    """What is kept of a tile's logits, with the arguments of `exponentials_kernel`; `present` are the rows to write."""
    first_column = column_tile * BLOCK_V
    row = first_row + tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_V)
    target = tl.load(target_ptr + row, mask=present, other=ignore_index)
    reference = tl.load(reference_ptr + row, mask=present, other=0.0)
    counted = target != ignore_index
    mine = place_in_tile(target, counted, first_column, BLOCK_V)
    others = (column[None, :] != mine[:, None]) & counted[:, None]
    above = tl.where(others, logits - reference[:, None], MINUS_INF)
    largest = tl.max(above, 1)
    if STORE:
        # A NaN stays one, so that the loss shows it.
        value = tl.exp2(tl.minimum(above, REPAIR_ABOVE, propagate_nan=tl.PropagateNan.ALL) * LOG2_E)
    else:
        value = tl.exp2((above - tl.where(largest == MINUS_INF, 0.0, largest)[:, None]) * LOG2_E)
    partial = column_tile.to(tl.int64) * rows + row
    tl.store(max_ptr + partial, largest, mask=present)
    tl.store(sum_ptr + partial, tl.sum(value, 1), mask=present)
    return value
