"""The kernels of `LayerNorm(dropout(x) + residual)`, and the pieces that every norm shares.

An RMS norm is a LayerNorm whose mean is 0.

Blocks are [ROWS, COLUMNS]: whole rows, COLUMNS the next power of 2 of SIZE, the width of a row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..masks import keep, row_keys, site_keys


@triton.jit
def statistics(total, inside, eps, SIZE: tl.constexpr, RMS: tl.constexpr = False):
    """Mean, reciprocal deviation and centred values of each row; the variance is that of the centred values."""
    if RMS:
        mean = tl.zeros([total.shape[0]], tl.float32)
        centred = total
    else:
        mean = tl.sum(total, 1) / SIZE
        centred = tl.where(inside[None, :], total - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, 1) / SIZE
    return mean, tl.math.rsqrt(variance + eps), centred


@triton.jit
def total_gradient(grad, normal, weight, rstd, SIZE: tl.constexpr, RMS: tl.constexpr = False):
    """The gradient of what was normalised; `grad` and `weight` are zero outside the row."""
    scaled = grad * weight[None, :]
    slope = tl.sum(scaled * normal, 1) / SIZE
    if RMS:
        d_total = (scaled - normal * slope[:, None]) * rstd[:, None]
    else:
        shift = tl.sum(scaled, 1) / SIZE
        d_total = (scaled - normal * slope[:, None] - shift[:, None]) * rstd[:, None]
    return d_total


@triton.jit
def store_partial(partials_ptr, slot, sums, column, SIZE: tl.constexpr):
    """One program's column sums into its place of `partials` (slots, programs, SIZE)."""
    place = (slot * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * SIZE + column
    tl.store(partials_ptr + place, sums, mask=column < SIZE)


@triton.jit(do_not_specialize=["rows", "site", "dropped"])
def forward_kernel(
    x_ptr,  # (rows, SIZE)
    residual_ptr,  # (rows, SIZE), or None
    weight_ptr,  # (SIZE,)
    bias_ptr,  # (SIZE,), or None
    seed_ptr,  # (2,) int64, or None
    out_ptr,  # (rows, SIZE)
    total_ptr,  # (rows, SIZE): dropout(x) + residual
    mean_ptr,  # (rows,) fp32
    rstd_ptr,  # (rows,) fp32
    rows,
    site,
    dropped,
    scale,
    eps,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DROPOUT: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SAVE_TOTAL: tl.constexpr,
    SAVE_STATISTICS: tl.constexpr,
    BIAS: tl.constexpr,
    RMS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < SIZE
    offset = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    both = (row < rows)[:, None] & inside[None, :]
    total = tl.load(x_ptr + offset, mask=both, other=0.0).to(tl.float32)
    if RESIDUAL:
        residual = tl.load(residual_ptr + offset, mask=both, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        bias = tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if DROPOUT:
        a, b, before = site_keys(seed_ptr, site)
        key0, key1 = row_keys(a, b, before + row)
        total = tl.where(keep(key0[:, None], key1[:, None], column[None, :], dropped), total * scale, 0.0)
    if RESIDUAL:
        total += residual
    if SAVE_TOTAL:
        tl.store(total_ptr + offset, total, mask=both)
    mean, rstd, centred = statistics(total, inside, eps, SIZE, RMS)
    out = centred * rstd[:, None] * weight[None, :]
    if BIAS:
        out += bias[None, :]
    tl.store(out_ptr + offset, out, mask=both)
    if SAVE_STATISTICS:
        tl.store(mean_ptr + row, mean, mask=row < rows)
        tl.store(rstd_ptr + row, rstd, mask=row < rows)


@triton.jit
def _load_rows(grad_ptr, total_ptr, mean_ptr, rstd_ptr, row, column, rows, SIZE: tl.constexpr):
    offset = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    both = (row < rows)[:, None] & (column < SIZE)[None, :]
    grad = tl.load(grad_ptr + offset, mask=both, other=0.0)
    total = tl.load(total_ptr + offset, mask=both, other=0.0)
    mean = tl.load(mean_ptr + row, mask=row < rows, other=0.0)
    rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)
    return grad, total, mean, rstd


@triton.jit(do_not_specialize=["rows", "blocks", "site", "dropped"])
def backward_kernel(
    grad_ptr,  # (rows, SIZE)
    total_ptr,  # (rows, SIZE)
    mean_ptr,  # (rows,) fp32
    rstd_ptr,  # (rows,) fp32
    weight_ptr,  # (SIZE,)
    seed_ptr,  # (2,) int64, or None
    beside_ptr,  # (rows, SIZE): the gradient of the sum as a result of its own, or None
    d_total_ptr,  # (rows, SIZE)
    d_x_ptr,  # (rows, SIZE)
    partials_ptr,  # (slots, programs, SIZE) fp32: weight and bias if AFFINE, x_bias if X_BIAS
    rows,
    blocks,
    site,
    dropped,
    scale,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DROPOUT: tl.constexpr,
    D_TOTAL: tl.constexpr,
    D_X: tl.constexpr,
    AFFINE: tl.constexpr,
    X_BIAS: tl.constexpr,
    BESIDE: tl.constexpr,
    RMS: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    weight = tl.load(weight_ptr + column, mask=column < SIZE, other=0.0).to(tl.float32)
    d_weight = tl.zeros([COLUMNS], tl.float32)
    d_bias = tl.zeros([COLUMNS], tl.float32)
    d_x_bias = tl.zeros([COLUMNS], tl.float32)
    if DROPOUT:
        a, b, before = site_keys(seed_ptr, site)
    block = tl.program_id(0)
    first = block * ROWS + tl.arange(0, ROWS)
    grad, total, mean, rstd = _load_rows(grad_ptr, total_ptr, mean_ptr, rstd_ptr, first, column, rows, SIZE)
    while block < blocks:
        row = block * ROWS + tl.arange(0, ROWS)
        # The rows of the next round are under way while these are computed.
        block += tl.num_programs(0)
        ahead = block * ROWS + tl.arange(0, ROWS)
        next_grad, next_total, next_mean, next_rstd = _load_rows(
            grad_ptr, total_ptr, mean_ptr, rstd_ptr, ahead, column, rows, SIZE
        )
        wide = grad.to(tl.float32)
        normal = (total.to(tl.float32) - mean[:, None]) * rstd[:, None]
        if AFFINE:
            d_weight += tl.sum(wide * normal, 0)
            d_bias += tl.sum(wide, 0)
        if D_TOTAL or D_X or X_BIAS:
            d_x = total_gradient(wide, normal, weight, rstd, SIZE, RMS)
            offset = row.to(tl.int64)[:, None] * SIZE + column[None, :]
            both = (row < rows)[:, None] & (column < SIZE)[None, :]
            if BESIDE:
                d_x += tl.load(beside_ptr + offset, mask=both, other=0.0).to(tl.float32)
            if D_TOTAL:
                tl.store(d_total_ptr + offset, d_x, mask=both)
            if DROPOUT and (D_X or X_BIAS):
                key0, key1 = row_keys(a, b, before + row)
                d_x = tl.where(keep(key0[:, None], key1[:, None], column[None, :], dropped), d_x * scale, 0.0)
            if D_X:
                tl.store(d_x_ptr + offset, d_x, mask=both)
            if X_BIAS:
                d_x_bias += tl.sum(d_x, 0)
        grad = next_grad
        total = next_total
        mean = next_mean
        rstd = next_rstd
    if AFFINE:
        store_partial(partials_ptr, 0, d_weight, column, SIZE)
        store_partial(partials_ptr, 1, d_bias, column, SIZE)
    if X_BIAS:
        store_partial(partials_ptr, 2 if AFFINE else 0, d_x_bias, column, SIZE)


@triton.jit(do_not_specialize=["programs"])
def sum_partials_kernel(
    partials_ptr,  # (slots, programs, SIZE) fp32
    weight_ptr,  # (SIZE,): slot 0, if AFFINE
    bias_ptr,  # (SIZE,): slot 1, if AFFINE
    others_ptr,  # (others, SIZE): the remaining slots
    programs,
    SIZE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    COLUMNS: tl.constexpr,
    AFFINE: tl.constexpr,
):
    slot = tl.program_id(1)
    program = tl.arange(0, PROGRAMS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < SIZE
    place = (slot * programs + program).to(tl.int64)[:, None] * SIZE + column[None, :]
    parts = tl.load(partials_ptr + place, mask=(program < programs)[:, None] & inside[None, :], other=0.0)
    sums = tl.sum(parts, 0)
    if AFFINE:
        tl.store(weight_ptr + column, sums, mask=inside & (slot == 0))
        tl.store(bias_ptr + column, sums, mask=inside & (slot == 1))
        tl.store(others_ptr + (slot - 2) * SIZE + column, sums, mask=inside & (slot >= 2))
    else:
        tl.store(others_ptr + slot * SIZE + column, sums, mask=inside)
