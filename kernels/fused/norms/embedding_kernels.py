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
    partials_ptr,  # (slots, programs, SIZE) fp32: weight and bias if AFFINE, then the KINDS first rows of segment
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
    KINDS: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    inside = column < SIZE
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    d_weight = tl.zeros([COLUMNS], tl.float32)
    d_bias = tl.zeros([COLUMNS], tl.float32)
    d_first = tl.zeros([COLUMNS], tl.float32)
    d_second = tl.zeros([COLUMNS], tl.float32)
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
        if D_TOTAL or KINDS > 0:
            d_total = total_gradient(grad, normal, weight, rstd, SIZE)
            if D_TOTAL:
                tl.store(d_total_ptr + offset, d_total, mask=both)
            if KINDS > 0:
                d_first += tl.sum(tl.where((kind == 0)[:, None], d_total, 0.0), 0)
            if KINDS > 1:
                d_second += tl.sum(tl.where((kind == 1)[:, None], d_total, 0.0), 0)
        token = next_token
        place = next_place
        kind = next_kind
        mean = next_mean
        rstd = next_rstd
    if AFFINE:
        store_partial(partials_ptr, 0, d_weight, column, SIZE)
        store_partial(partials_ptr, 1, d_bias, column, SIZE)
    if KINDS > 0:
        store_partial(partials_ptr, 2 if AFFINE else 0, d_first, column, SIZE)
    if KINDS > 1:
        store_partial(partials_ptr, 3 if AFFINE else 1, d_second, column, SIZE)


@triton.jit
def _finish(table_ptr, place, sums, mask, ADD: tl.constexpr):
    if ADD:
        sums += tl.load(table_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(table_ptr + place, sums, mask=mask)


@triton.jit(do_not_specialize=["count", "table_rows"])
def piece_kernel(
    values_ptr,  # (count, SIZE)
    ids_ptr,  # (count,), ascending
    order_ptr,  # (count,): the row of `values` that each id belongs to
    table_ptr,  # (table_rows, SIZE)
    pieces_ptr,  # (ceil(count / PIECE), 2, SIZE) fp32
    count,
    table_rows,
    SIZE: tl.constexpr,
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ADD: tl.constexpr,
):
    """Runs of equal ids are cut at multiples of PIECE; the program of a piece's first place sums its rows.

    A run that was not cut goes to the table; of the others, the part at the start of a stretch of PIECE places goes to
    slot 0 of that stretch, the part at its end, where the run begins, to slot 1.
    """
    start = tl.program_id(0)
    id = tl.load(ids_ptr + start).to(tl.int64)
    before = tl.load(ids_ptr + start - 1, mask=start > 0, other=-1).to(tl.int64)
    begins = (start == 0) | (before != id)
    if (begins | (start % PIECE == 0)) & (id >= 0) & (id < table_rows):
        stretch = start // PIECE
        stop = tl.minimum((stretch + 1) * PIECE, count)
        near = start + tl.arange(0, PIECE)
        same = (near < stop) & (tl.load(ids_ptr + near, mask=near < stop, other=-1).to(tl.int64) == id)
        end = start + tl.sum(same.to(tl.int32), 0)
        goes_on = tl.load(ids_ptr + stop, mask=stop < count, other=-1).to(tl.int64) == id
        column = tl.arange(0, COLUMNS)
        inside = column < SIZE
        sums = tl.zeros([COLUMNS], tl.float32)
        at = start
        while at < end:
            part = at + tl.arange(0, ROWS)
            source = tl.load(order_ptr + part, mask=part < end, other=0).to(tl.int64)
            both = (part < end)[:, None] & inside[None, :]
            values = tl.load(values_ptr + source[:, None] * SIZE + column[None, :], mask=both, other=0.0)
            sums += tl.sum(values.to(tl.float32), 0)
            at += ROWS
        if begins & (goes_on == 0):
            _finish(table_ptr, id * SIZE + column, sums, inside, ADD)
        else:
            slot = (2 * stretch + begins.to(tl.int32)).to(tl.int64)
            tl.store(pieces_ptr + slot * SIZE + column, sums, mask=inside)


@triton.jit(do_not_specialize=["count", "table_rows"])
def join_kernel(
    ids_ptr,  # (count,), ascending
    table_ptr,  # (table_rows, SIZE)
    pieces_ptr,  # (ceil(count / PIECE), 2, SIZE) fp32
    count,
    table_rows,
    SIZE: tl.constexpr,
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ADD: tl.constexpr,
):
    """Adds the parts of the run that begins in a program's stretch and leaves it."""
    stretch = tl.program_id(0)
    first = stretch * PIECE
    stop = tl.minimum(first + PIECE, count)
    id = tl.load(ids_ptr + stop - 1).to(tl.int64)
    before = tl.load(ids_ptr + first - 1, mask=first > 0, other=-1).to(tl.int64)
    begins = (first == 0) | (before != id)
    goes_on = tl.load(ids_ptr + stop, mask=stop < count, other=-1).to(tl.int64) == id
    if begins & goes_on & (id >= 0) & (id < table_rows):
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = column < SIZE
        sums = tl.load(pieces_ptr + (2 * stretch + 1).to(tl.int64) * SIZE + column, mask=inside, other=0.0)
        at = stretch + 1
        running = goes_on
        while running:
            part = at + tl.arange(0, ROWS)
            head = part * PIECE
            ours = (head < count) & (tl.load(ids_ptr + head, mask=head < count, other=-1).to(tl.int64) == id)
            places = (2 * part).to(tl.int64)[:, None] * SIZE + column[None, :]
            sums += tl.sum(tl.load(pieces_ptr + places, mask=ours[:, None] & inside[None, :], other=0.0), 0)
            at += ROWS
            running = tl.sum(ours.to(tl.int32), 0) == ROWS
        _finish(table_ptr, id * SIZE + column, sums, inside, ADD)
