"""The kernels of `dropout(LayerNorm(word[token_ids] + position[positions] + segment[segments]))`.

Blocks are [ROWS, COLUMNS] as in `layer_norm_kernels`. An id outside its table reads a row of zeros and has no gradient.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..masks import keep, row_keys, site_keys
from .layer_norm_kernels import statistics, store_partial, total_gradient


@triton.jit
def _gather(table_ptr, ids, table_rows, column, SIZE: tl.constexpr):
    """Rows `ids` of a table in fp32, zero where the id or the column is outside."""
    place = ids.to(tl.int64)[:, None] * SIZE + column[None, :]
    inside = ((ids >= 0) & (ids < table_rows))[:, None] & (column < SIZE)[None, :]
    return tl.load(table_ptr + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["rows", "vocabulary", "places", "kinds", "site", "dropped"])
def forward_kernel(
    token_ids_ptr,  # (rows,)
    positions_ptr,  # (rows,)
    segments_ptr,  # (rows,)
    word_ptr,  # (vocabulary, SIZE)
    position_ptr,  # (places, SIZE)
    segment_ptr,  # (kinds, SIZE)
    weight_ptr,  # (SIZE,)
    bias_ptr,  # (SIZE,)
    seed_ptr,  # (2,) int64, or None
    out_ptr,  # (rows, SIZE)
    mean_ptr,  # (rows,) fp32
    rstd_ptr,  # (rows,) fp32
    rows,
    vocabulary,
    places,
    kinds,
    site,
    dropped,
    scale,
    eps,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DROPOUT: tl.constexpr,
    SAVE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < SIZE
    exists = row < rows
    token = tl.load(token_ids_ptr + row, mask=exists, other=-1)
    place = tl.load(positions_ptr + row, mask=exists, other=-1)
    kind = tl.load(segments_ptr + row, mask=exists, other=-1)
    total = _gather(word_ptr, token, vocabulary, column, SIZE)
    total += _gather(position_ptr, place, places, column, SIZE)
    total += _gather(segment_ptr, kind, kinds, column, SIZE)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    mean, rstd, centred = statistics(total, inside, eps, SIZE)
    out = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    if DROPOUT:
        a, b, before = site_keys(seed_ptr, site)
        key0, key1 = row_keys(a, b, before + row)
        out = tl.where(keep(key0[:, None], key1[:, None], column[None, :], dropped), out * scale, 0.0)
    offset = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    tl.store(out_ptr + offset, out, mask=exists[:, None] & inside[None, :])
    if SAVE:
        tl.store(mean_ptr + row, mean, mask=exists)
        tl.store(rstd_ptr + row, rstd, mask=exists)


@triton.jit
def _load_scalars(token_ids_ptr, positions_ptr, segments_ptr, mean_ptr, rstd_ptr, row, rows):
    """What is one number a row."""
    exists = row < rows
    token = tl.load(token_ids_ptr + row, mask=exists, other=-1)
    place = tl.load(positions_ptr + row, mask=exists, other=-1)
    kind = tl.load(segments_ptr + row, mask=exists, other=-1)
    mean = tl.load(mean_ptr + row, mask=exists, other=0.0)
    rstd = tl.load(rstd_ptr + row, mask=exists, other=0.0)
    return token, place, kind, mean, rstd


@triton.jit(do_not_specialize=["rows", "blocks", "vocabulary", "places", "kinds", "site", "dropped"])
def backward_kernel(
    grad_ptr,  # (rows, SIZE)
    token_ids_ptr,  # (rows,)
    positions_ptr,  # (rows,)
    segments_ptr,  # (rows,)
    word_ptr,  # (vocabulary, SIZE)
    position_ptr,  # (places, SIZE)
    segment_ptr,  # (kinds, SIZE)
    weight_ptr,  # (SIZE,)
    mean_ptr,  # (rows,) fp32
    rstd_ptr,  # (rows,) fp32
    seed_ptr,  # (2,) int64, or None
    d_total_ptr,  # (rows, SIZE)
    partials_ptr,  # (slots, programs, SIZE) fp32: weight and bias if AFFINE
    rows,
    blocks,
    vocabulary,
    places,
    kinds,
    site,
    dropped,
    scale,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DROPOUT: tl.constexpr,
    D_TOTAL: tl.constexpr,
    AFFINE: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    inside = column < SIZE
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    d_weight = tl.zeros([COLUMNS], tl.float32)
    d_bias = tl.zeros([COLUMNS], tl.float32)
    if DROPOUT:
        a, b, before = site_keys(seed_ptr, site)
    block = tl.program_id(0)
    first = block * ROWS + tl.arange(0, ROWS)
    token, place, kind, mean, rstd = _load_scalars(
        token_ids_ptr, positions_ptr, segments_ptr, mean_ptr, rstd_ptr, first, rows
    )
    while block < blocks:
        row = block * ROWS + tl.arange(0, ROWS)
        offset = row.to(tl.int64)[:, None] * SIZE + column[None, :]
        both = (row < rows)[:, None] & inside[None, :]
        grad = tl.load(grad_ptr + offset, mask=both, other=0.0).to(tl.float32)
        total = _gather(word_ptr, token, vocabulary, column, SIZE)
        total += _gather(position_ptr, place, places, column, SIZE)
        total += _gather(segment_ptr, kind, kinds, column, SIZE)
        # The ids of the next round are under way while these rows are computed.
        block += tl.num_programs(0)
        ahead = block * ROWS + tl.arange(0, ROWS)
        next_token, next_place, next_kind, next_mean, next_rstd = _load_scalars(
            token_ids_ptr, positions_ptr, segments_ptr, mean_ptr, rstd_ptr, ahead, rows
        )
        if DROPOUT:
            key0, key1 = row_keys(a, b, before + row)
            grad = tl.where(keep(key0[:, None], key1[:, None], column[None, :], dropped), grad * scale, 0.0)
        normal = (total - mean[:, None]) * rstd[:, None]
        if AFFINE:
            d_weight += tl.sum(grad * normal, 0)
            d_bias += tl.sum(grad, 0)
        if D_TOTAL:
            d_total = total_gradient(grad, normal, weight, rstd, SIZE)
            tl.store(d_total_ptr + offset, d_total, mask=both)
        token = next_token
        place = next_place
        kind = next_kind
        mean = next_mean
        rstd = next_rstd
    if AFFINE:
        store_partial(partials_ptr, 0, d_weight, column, SIZE)
        store_partial(partials_ptr, 1, d_bias, column, SIZE)
