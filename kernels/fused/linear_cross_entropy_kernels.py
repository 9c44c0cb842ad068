"""Triton kernels of `linear_cross_entropy`. The operator's file says how they fit together.

Names: N rows, V classes, H features. A tile is BLOCK_N rows by BLOCK_V classes; row tiles run fastest over the grid, so
that a block of the matrix is read from memory once and then from cache. A row tile without a row that counts leaves.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .linear_cross_entropy_tiles import (
    FP16_LIFT,
    LOG2_E,
    MINUS_INF,
    REPAIR_ABOVE,
    exponentials_of_tile,
    logits_tile,
    nothing_counts,
    place_in_tile,
    store_tile,
)


@triton.jit
def _log1p(x):
    """Accurate for small x: the rounding of 1 + x is divided out."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit(do_not_specialize=["rows", "vocabulary", "ignore_index"])
def target_logits_kernel(
    hidden_ptr,  # (N, H)
    weight_ptr,  # (V, H)
    bias_ptr,  # (V,)
    target_ptr,  # (N,) int64
    target_logit_ptr,  # (N,) fp32, out: NaN where the target is no class, 0 where it is ignored
    rows,
    vocabulary,
    ignore_index,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    present = row < rows
    target = tl.load(target_ptr + row, mask=present, other=ignore_index)
    counted = target != ignore_index
    known = counted & (target >= 0) & (target < vocabulary)
    safe = tl.where(known, target, 0)
    k = tl.arange(0, BLOCK_H)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, SIZE, BLOCK_H):
        inside = known[:, None] & (start + k < SIZE)[None, :]
        x = tl.load(hidden_ptr + row.to(tl.int64)[:, None] * SIZE + start + k[None, :], mask=inside, other=0.0)
        w = tl.load(weight_ptr + safe[:, None] * SIZE + start + k[None, :], mask=inside, other=0.0)
        total += tl.sum(x.to(tl.float32) * w.to(tl.float32), 1)
    if HAS_BIAS:
        total += tl.load(bias_ptr + safe, mask=known, other=0.0).to(tl.float32)
    total = tl.where(known, total, tl.where(counted, float("nan"), 0.0))
    tl.store(target_logit_ptr + row, total, mask=present)


@triton.jit(do_not_specialize=["rows", "vocabulary", "ignore_index"])
def exponentials_kernel(
    hidden_ptr,  # (N, H)
    weight_ptr,  # (V, H)
    bias_ptr,  # (V,)
    target_ptr,  # (N,) int64
    reference_ptr,  # (N,) fp32, what is subtracted from the row's logits
    flag_ptr,  # (ceil(N / SETTLE_N),) int32, read in the repair pass only
    out_ptr,  # (N, stride), out: exp(logit - reference), 0 at targets, padding and ignored rows
    max_ptr,  # (column tiles, N) fp32, out: largest logit - reference among the tile's other classes
    sum_ptr,  # (column tiles, N) fp32, out: sum of exponentials; relative to the tile's largest without STORE
    rows,
    vocabulary,
    stride,
    ignore_index,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    SETTLE_N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STORE: tl.constexpr,
    REPAIR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_tiles = tl.cdiv(rows, BLOCK_N)
    row_tile = tl.program_id(0) % row_tiles
    column_tile = tl.program_id(0) // row_tiles
    first_row = row_tile * BLOCK_N
    row = first_row + tl.arange(0, BLOCK_N)
    present = row < rows
    if REPAIR:
        flags = tl.load(flag_ptr + row // SETTLE_N, mask=present, other=0)
        if tl.max(flags, 0) == 0:
            return
        present = flags != 0
    elif nothing_counts(target_ptr, row, present, ignore_index):
        partial = column_tile.to(tl.int64) * rows + row
        tl.store(max_ptr + partial, MINUS_INF, mask=present)
        tl.store(sum_ptr + partial, 0.0, mask=present)
        if STORE:
            zeros = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
            store_tile(out_ptr, zeros, first_row, column_tile * BLOCK_V, present, stride, BLOCK_N, BLOCK_V)
        return
    logits = logits_tile(
        hidden_ptr, weight_ptr, bias_ptr, first_row, column_tile * BLOCK_V, rows, vocabulary,
        SIZE, BLOCK_N, BLOCK_V, BLOCK_H, HAS_BIAS, PRECISION,
    )  # fmt: skip
    value = exponentials_of_tile(
        logits, target_ptr, reference_ptr, max_ptr, sum_ptr, first_row, column_tile, present,
        rows, ignore_index, BLOCK_N, BLOCK_V, STORE,
    )  # fmt: skip
    if STORE:
        store_tile(out_ptr, value, first_row, column_tile * BLOCK_V, present, stride, BLOCK_N, BLOCK_V)


@triton.jit(do_not_specialize=["rows", "vocabulary", "tiles", "ignore_index"])
def settle_kernel(
    target_ptr,  # (N,) int64
    target_logit_ptr,  # (N,) fp32
    reference_ptr,  # (N,) fp32; without FINAL a row that needs repair gets a new one here
    flag_ptr,  # (ceil(N / SETTLE_N),) int32, out without FINAL: whether a row of the block needs repair
    max_ptr,  # (tiles, N) fp32
    sum_ptr,  # (tiles, N) fp32
    out_ptr,  # (N, stride): the target's entry becomes (p - 1) times the row's sum
    loss_ptr,  # (N,) fp32, out; 0 for ignored rows
    scale_ptr,  # (N,) fp32, out: STORE: the row's sum of exponentials; else the probability mass off the target
    rows,
    vocabulary,
    stride,
    tiles,
    ignore_index,
    SETTLE_N: tl.constexpr,
    SETTLE_T: tl.constexpr,
    STORE: tl.constexpr,
    FINAL: tl.constexpr,
):
    block = tl.program_id(0)
    row = block * SETTLE_N + tl.arange(0, SETTLE_N)
    present = row < rows
    if FINAL:  # noqa: SIM102 - the first condition is known when the kernel is compiled
        if tl.load(flag_ptr + block) == 0:
            return
    largest = tl.zeros((SETTLE_N,), tl.float32)  # that of the target, relative to itself
    total = tl.zeros((SETTLE_N,), tl.float32)
    start = 0
    while start < tiles:
        tile = start + tl.arange(0, SETTLE_T)
        inside = (tile < tiles)[:, None] & present[None, :]
        partial = tile.to(tl.int64)[:, None] * rows + row[None, :]
        above = tl.load(max_ptr + partial, mask=inside, other=MINUS_INF)
        part = tl.load(sum_ptr + partial, mask=inside, other=0.0)
        largest_now = tl.maximum(largest, tl.max(above, 0))
        if STORE:
            total += tl.sum(part, 0)
        else:
            total = total * tl.exp(largest - largest_now) + tl.sum(part * tl.exp(above - largest_now[None, :]), 0)
        largest = largest_now
        start += SETTLE_T
    target = tl.load(target_ptr + row, mask=present, other=ignore_index)
    own = tl.load(target_logit_ptr + row, mask=present, other=0.0)
    counted = present & (target != ignore_index)
    known = counted & (target >= 0) & (target < vocabulary)
    if STORE:
        reference = tl.load(reference_ptr + row, mask=present, other=0.0)
        if not FINAL:
            beyond = counted & (largest > REPAIR_ABOVE)
            tl.store(reference_ptr + row, reference + largest, mask=beyond)
            tl.store(flag_ptr + block, tl.max(beyond.to(tl.int32), 0))
        largest = reference - own
    mine = tl.exp(-largest)
    mass = total + mine
    loss = tl.where(largest == 0.0, _log1p(total), tl.log(mass) + largest)
    tl.store(loss_ptr + row, tl.where(counted, loss, 0.0), mask=present)
    if STORE:
        tl.store(scale_ptr + row, mass, mask=present)
        place = out_ptr + row.to(tl.int64) * stride + tl.where(known, target, 0)
        tl.store(place, (-total).to(out_ptr.dtype.element_ty), mask=known)
    else:
        tl.store(scale_ptr + row, total / mass, mask=present)


@triton.jit(do_not_specialize=["rows", "vocabulary", "first", "width", "ignore_index"])
def probabilities_kernel(
    hidden_ptr,  # (N, H)
    weight_ptr,  # (V, H)
    bias_ptr,  # (V,)
    target_ptr,  # (N,) int64
    target_logit_ptr,  # (N,) fp32
    loss_ptr,  # (N,) fp32
    off_target_ptr,  # (N,) fp32, 1 - p at the target
    grad_ptr,  # (N,) fp32, upstream
    out_ptr,  # (N, stride), out: softmax - onehot for classes first .. first + width
    column_ptr,  # (row tiles, stride) fp32, out: the tile's part of the bias gradient
    rows,
    vocabulary,
    first,
    width,
    stride,
    ignore_index,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LIFTED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_tiles = tl.cdiv(rows, BLOCK_N)
    row_tile = tl.program_id(0) % row_tiles
    first_row = row_tile * BLOCK_N
    first_local = (tl.program_id(0) // row_tiles) * BLOCK_V
    row = first_row + tl.arange(0, BLOCK_N)
    local = first_local + tl.arange(0, BLOCK_V)
    present = row < rows
    if nothing_counts(target_ptr, row, present, ignore_index):
        zeros = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
        store_tile(out_ptr, zeros, first_row, first_local, present, stride, BLOCK_N, BLOCK_V)
        if COLUMNS:
            tl.store(column_ptr + row_tile.to(tl.int64) * stride + local, 0.0, mask=local < stride)
        return
    logits = logits_tile(
        hidden_ptr, weight_ptr, bias_ptr, first_row, first + first_local, rows, vocabulary,
        SIZE, BLOCK_N, BLOCK_V, BLOCK_H, HAS_BIAS, PRECISION,
    )  # fmt: skip
    target = tl.load(target_ptr + row, mask=present, other=ignore_index)
    own = tl.load(target_logit_ptr + row, mask=present, other=0.0)
    loss = tl.load(loss_ptr + row, mask=present, other=0.0)
    off_target = tl.load(off_target_ptr + row, mask=present, other=0.0)
    grad = tl.load(grad_ptr + row, mask=present, other=0.0)
    counted = target != ignore_index
    log_sum = own + loss
    grad = tl.where(counted, grad, 0.0)
    value = tl.exp2(tl.where(counted[:, None], logits - log_sum[:, None], MINUS_INF) * LOG2_E)
    mine = place_in_tile(target, counted, first + first_local, BLOCK_V)
    value = tl.where(tl.arange(0, BLOCK_V)[None, :] == mine[:, None], -off_target[:, None], value)
    scaled = value * grad[:, None]
    stored = value * FP16_LIFT if LIFTED else scaled
    if COLUMNS:
        tl.store(column_ptr + row_tile.to(tl.int64) * stride + local, tl.sum(scaled, 0), mask=local < stride)
    store_tile(out_ptr, stored, first_row, first_local, present, stride, BLOCK_N, BLOCK_V)


@triton.jit(do_not_specialize=["rows", "ignore_index"])
def scale_rows_kernel(
    x_ptr,  # (N, H)
    grad_ptr,  # (N,) fp32
    divisor_ptr,  # (N,) fp32
    factor_ptr,  # (1,) fp32
    target_ptr,  # (N,) int64
    out_ptr,  # (N, H), out: x * grad / divisor * factor * constant, each where given; 0 for ignored rows
    rows,
    constant,
    ignore_index,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    HAS_DIVISOR: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    present = row < rows
    counted = present & (tl.load(target_ptr + row, mask=present, other=ignore_index) != ignore_index)
    scale = tl.full((BLOCK_N,), 1.0, tl.float32) * constant
    if HAS_GRAD:
        scale *= tl.load(grad_ptr + row, mask=counted, other=0.0)
    if HAS_DIVISOR:
        scale /= tl.load(divisor_ptr + row, mask=counted, other=1.0)
    if HAS_FACTOR:
        scale *= tl.load(factor_ptr)
    inside = (column < SIZE)[None, :]
    offset = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    x = tl.load(x_ptr + offset, mask=counted[:, None] & inside, other=0.0).to(tl.float32)
    out = tl.where(counted[:, None], x * scale[:, None], 0.0)
    tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=present[:, None] & inside)


@triton.jit(do_not_specialize=["rows", "width"])
def column_sums_kernel(
    values_ptr,  # (N, stride); read beyond the width: a mask that ends anywhere has each element loaded alone
    grad_ptr,  # (N,) fp32, where HAS_GRAD
    divisor_ptr,  # (N,) fp32, where HAS_GRAD
    out_ptr,  # (width,), out: sum over the rows of values * grad / divisor, in fp32, in order
    rows,
    width,
    stride,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_GRAD: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_C,), tl.float32)
    start = 0
    while start < rows:
        row = start + tl.arange(0, BLOCK_N)
        present = row < rows
        inside = present[:, None] & (column < stride)[None, :]
        values = tl.load(values_ptr + row.to(tl.int64)[:, None] * stride + column[None, :], mask=inside, other=0.0)
        values = values.to(tl.float32)
        if HAS_GRAD:
            grad = tl.load(grad_ptr + row, mask=present, other=0.0)
            values *= (grad / tl.load(divisor_ptr + row, mask=present, other=1.0))[:, None]
        total += tl.sum(values, 0)
        start += BLOCK_N
    tl.store(out_ptr + column, total.to(out_ptr.dtype.element_ty), mask=column < width)
