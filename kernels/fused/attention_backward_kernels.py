"""The Triton kernels of packed attention's gradient; `attention.py` launches them.

Dropout is carried in the sign of a probability, negative where it is dropped: one block of registers then holds both
factors of the softmax's gradient, the probability and its mask.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .attention_kernels import load, load_turned, mask_keys, mask_of, near, place, reach, store, store_turned_back
from .masks import keep


@triton.jit
def _signed_probability(scores, log_sum, inside, key0, key1, column, dropped, DROPOUT: tl.constexpr):
    """exp2(scores - log_sum), 0 where not `inside`, negative where dropout drops it."""
    p = tl.exp2(tl.where(inside, scores - log_sum, float("-inf")))
    if DROPOUT:
        p = tl.where(keep(key0, key1, column, dropped), p, -p)
    return p


@triton.jit
def _kept(p, DROPOUT: tl.constexpr):
    """The probabilities after dropout, unscaled."""
    if DROPOUT:
        p = tl.maximum(p, 0.0)
    return p


@triton.jit
def _score_gradient(p, d_p, delta, keep_scale, DROPOUT: tl.constexpr):
    """p * (d_p - delta), where the gradient of a kept probability is `d_p * keep_scale` and of a dropped one 0."""
    if DROPOUT:
        return p * tl.where(p > 0.0, d_p * keep_scale - delta, delta)
    return p * (d_p - delta)


@triton.jit
def _backward_tile(
    parts,  # pointers to the sequence's first query, key and value of this head
    rotary_ptr,  # to the angles of its first token
    d_parts,  # likewise their gradients
    d_out_ptr,
    log_sum_ptr,
    strides,  # of a token in `parts`, in `d_parts` and in the output
    length,
    mask,
    rate,  # of dropout: levels dropped, factor of what is kept
    scale,
    factor,
    ROWS: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROTARY: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """All gradients of a sequence of at most ROWS tokens."""
    dropped, keep_scale = rate
    row = tl.arange(0, ROWS)
    key0, key1 = mask_keys(mask, row, DROPOUT)
    q = load_turned(parts[0], strides[0], rotary_ptr, row, length, HEAD, WIDE, ROTARY)
    k = load_turned(parts[1], strides[0], rotary_ptr, row, length, HEAD, WIDE, ROTARY)
    v = load(parts[2], strides[0], row, length, HEAD, WIDE)
    d_out = load(d_out_ptr, strides[2], row, length, HEAD, WIDE)
    log_sum = tl.load(log_sum_ptr + row, mask=row < length, other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    seen = (row < length)[None, :]
    if WINDOW >= 0:
        seen = seen & near(row[:, None], row[None, :], length, WINDOW)
    p = _signed_probability(
        scores, log_sum[:, None], seen, key0[:, None], key1[:, None], row[None, :], dropped, DROPOUT
    )
    kept = _kept(p, DROPOUT)
    d_v = tl.dot(tl.trans(kept.to(v.dtype)), d_out, input_precision=PRECISION) * keep_scale
    store(d_parts[2], strides[1], row, length, d_v, HEAD, WIDE)
    d_p = tl.dot(d_out, tl.trans(v), input_precision=PRECISION)
    # The sum of p is 1 up to the rounding of its log, an error that must not outlive the subtraction of delta.
    delta = tl.sum(kept * d_p, 1) * (keep_scale / tl.sum(tl.abs(p), 1))
    d_scores = _score_gradient(p, d_p, delta[:, None], keep_scale, DROPOUT).to(q.dtype)
    d_q = tl.dot(d_scores, k, input_precision=PRECISION) * factor
    store_turned_back(d_parts[0], strides[1], rotary_ptr, row, length, d_q, HEAD, WIDE, ROTARY)
    d_k = tl.dot(tl.trans(d_scores), q, input_precision=PRECISION) * factor
    store_turned_back(d_parts[1], strides[1], rotary_ptr, row, length, d_k, HEAD, WIDE, ROTARY)


@triton.jit
def _whole_sequence(
    parts, rotary_ptr, d_parts, d_out_ptr, log_sum_ptr, strides, length, mask, rate, scale, factor,
    ROWS: tl.constexpr,
    SHORT: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROTARY: tl.constexpr,
    WINDOW: tl.constexpr,
):  # fmt: skip
    """`_backward_tile` in a tile of SHORT where the sequence is no longer, of ROWS else; 0 is no SHORT."""
    if SHORT > 0 and length <= SHORT:
        _backward_tile(
            parts, rotary_ptr, d_parts, d_out_ptr, log_sum_ptr, strides, length, mask, rate, scale, factor,
            SHORT, HEAD, WIDE, DROPOUT, PRECISION, ROTARY, WINDOW,
        )  # fmt: skip
    else:
        _backward_tile(
            parts, rotary_ptr, d_parts, d_out_ptr, log_sum_ptr, strides, length, mask, rate, scale, factor,
            ROWS, HEAD, WIDE, DROPOUT, PRECISION, ROTARY, WINDOW,
        )  # fmt: skip


@triton.jit(do_not_specialize=["tokens", "heads", "site", "dropped"])
def backward_whole_kernel(
    qkv_ptr,  # (T, 3, heads, HEAD), strided
    rotary_ptr,  # (T, HEAD) fp32; unused without ROTARY
    d_qkv_ptr,  # (T, 3, heads, HEAD)
    d_out_ptr,  # (T, heads, HEAD)
    log_sum_ptr,  # (heads, T) fp32
    starts_ptr,  # (S + 1,)
    seed_ptr,  # (2,) int64; unused without DROPOUT
    token_stride,
    part_stride,
    head_stride,
    tokens,
    heads,
    site,
    dropped,
    keep_scale,
    scale,
    factor,
    ABOVE: tl.constexpr,
    ROWS: tl.constexpr,
    SHORT: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROTARY: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Sequences of more than ABOVE and at most ROWS tokens."""
    _, head, start, length = place(starts_ptr, heads, 1)
    if (length > ABOVE) & (length <= ROWS):
        rate = dropped, keep_scale
        mask = mask_of(seed_ptr, site, start, head, heads, DROPOUT)
        q_ptr = qkv_ptr + start * token_stride + head * head_stride
        parts = q_ptr, q_ptr + part_stride, q_ptr + 2 * part_stride
        width = heads * HEAD
        d_q_ptr = d_qkv_ptr + start * 3 * width + head * HEAD
        d_parts = d_q_ptr, d_q_ptr + width, d_q_ptr + 2 * width
        d_out_ptr += start * width + head * HEAD
        log_sum_ptr += head.to(tl.int64) * tokens + start
        strides = token_stride, 3 * width, width
        if ROTARY:
            rotary_ptr += start * HEAD
        _whole_sequence(
            parts, rotary_ptr, d_parts, d_out_ptr, log_sum_ptr, strides, length, mask, rate, scale, factor,
            ROWS, SHORT, HEAD, WIDE, DROPOUT, PRECISION, ROTARY, WINDOW,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "tokens", "heads"])
def delta_kernel(
    out_ptr,  # (T, heads, HEAD)
    d_out_ptr,  # (T, heads, HEAD)
    delta_ptr,  # (heads, T) fp32
    rows,
    tokens,
    heads,
    ROWS: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    out = load(out_ptr, HEAD, row, rows, HEAD, WIDE).to(tl.float32)
    d_out = load(d_out_ptr, HEAD, row, rows, HEAD, WIDE).to(tl.float32)
    place = (row % heads).to(tl.int64) * tokens + row // heads
    tl.store(delta_ptr + place, tl.sum(out * d_out, 1), mask=row < rows)


@triton.jit
def _key_gradients(
    parts,
    rotary_ptr,
    d_parts,
    d_out_ptr,
    log_sum_ptr,
    delta_ptr,
    strides,
    block,
    length,
    mask,
    rate,  # of dropout: levels dropped, factor of what is kept
    scale,
    factor,
    OWN: tl.constexpr,
    STEP: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
    LIMIT: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROTARY: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """The gradients of a block of OWN keys and their values, STEP queries at a time; score tiles are [key, query]."""
    dropped, keep_scale = rate
    column = block * OWN + tl.arange(0, OWN)
    k = load_turned(parts[1], strides[0], rotary_ptr, column, length, HEAD, WIDE, ROTARY)
    v = load(parts[2], strides[0], column, length, HEAD, WIDE)
    d_k = tl.zeros([OWN, WIDE], tl.float32)
    d_v = tl.zeros([OWN, WIDE], tl.float32)
    begin = 0
    end = LIMIT if LIMIT else length
    if WINDOW >= 0:
        begin, end = reach(block, length, OWN, STEP, WINDOW)
    for first in range(begin, end, STEP):
        row = first + tl.arange(0, STEP)
        q = load_turned(parts[0], strides[0], rotary_ptr, row, length, HEAD, WIDE, ROTARY)
        log_sum = tl.load(log_sum_ptr + row, mask=row < length, other=0.0)
        key0, key1 = mask_keys(mask, row, DROPOUT)
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
        inside = (column < length)[:, None]
        if WINDOW >= 0:
            inside = inside & near(row[None, :], column[:, None], length, WINDOW)
        p = _signed_probability(
            scores, log_sum[None, :], inside, key0[None, :], key1[None, :], column[:, None], dropped, DROPOUT
        )
        d_out = load(d_out_ptr, strides[2], row, length, HEAD, WIDE)
        d_v = tl.dot(_kept(p, DROPOUT).to(v.dtype), d_out, d_v, input_precision=PRECISION)
        d_p = tl.dot(v, tl.trans(d_out), input_precision=PRECISION)
        delta = tl.load(delta_ptr + row, mask=row < length, other=0.0)
        d_scores = _score_gradient(p, d_p, delta[None, :], keep_scale, DROPOUT)
        d_k = tl.dot(d_scores.to(q.dtype), q, d_k, input_precision=PRECISION)
    store_turned_back(d_parts[1], strides[1], rotary_ptr, column, length, d_k * factor, HEAD, WIDE, ROTARY)
    store(d_parts[2], strides[1], column, length, d_v * keep_scale, HEAD, WIDE)


@triton.jit
def _query_gradients(
    parts,
    rotary_ptr,
    d_parts,
    d_out_ptr,
    log_sum_ptr,
    delta_ptr,
    strides,
    block,
    length,
    mask,
    rate,  # of dropout: levels dropped, factor of what is kept
    scale,
    factor,
    OWN: tl.constexpr,
    STEP: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
    LIMIT: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROTARY: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """The gradient of a block of OWN queries, STEP keys at a time."""
    dropped, keep_scale = rate
    row = block * OWN + tl.arange(0, OWN)
    key0, key1 = mask_keys(mask, row, DROPOUT)
    q = load_turned(parts[0], strides[0], rotary_ptr, row, length, HEAD, WIDE, ROTARY)
    d_out = load(d_out_ptr, strides[2], row, length, HEAD, WIDE)
    log_sum = tl.load(log_sum_ptr + row, mask=row < length, other=0.0)
    delta = tl.load(delta_ptr + row, mask=row < length, other=0.0)
    d_q = tl.zeros([OWN, WIDE], tl.float32)
    begin = 0
    end = LIMIT if LIMIT else length
    if WINDOW >= 0:
        begin, end = reach(block, length, OWN, STEP, WINDOW)
    for first in range(begin, end, STEP):
        column = first + tl.arange(0, STEP)
        k = load_turned(parts[1], strides[0], rotary_ptr, column, length, HEAD, WIDE, ROTARY)
        v = load(parts[2], strides[0], column, length, HEAD, WIDE)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        inside = (column < length)[None, :]
        if WINDOW >= 0:
            inside = inside & near(row[:, None], column[None, :], length, WINDOW)
        p = _signed_probability(
            scores, log_sum[:, None], inside, key0[:, None], key1[:, None], column[None, :], dropped, DROPOUT
        )
        d_p = tl.dot(d_out, tl.trans(v), input_precision=PRECISION)
        d_scores = _score_gradient(p, d_p, delta[:, None], keep_scale, DROPOUT)
        d_q = tl.dot(d_scores.to(k.dtype), k, d_q, input_precision=PRECISION)
    store_turned_back(d_parts[0], strides[1], rotary_ptr, row, length, d_q * factor, HEAD, WIDE, ROTARY)


@triton.jit(do_not_specialize=["tokens", "heads", "blocks", "site", "dropped"])
def backward_kernel(
    qkv_ptr,  # (T, 3, heads, HEAD), strided
    rotary_ptr,  # (T, HEAD) fp32; unused without ROTARY
    d_qkv_ptr,  # (T, 3, heads, HEAD)
    d_out_ptr,  # (T, heads, HEAD)
    log_sum_ptr,  # (heads, T) fp32
    delta_ptr,  # (heads, T) fp32
    starts_ptr,  # (S + 1,)
    seed_ptr,  # (2,) int64; unused without DROPOUT
    token_stride,
    part_stride,
    head_stride,
    tokens,
    heads,
    blocks,
    site,
    dropped,
    keep_scale,
    scale,
    factor,
    OWN: tl.constexpr,
    STEP: tl.constexpr,
    WHOLE: tl.constexpr,
    SHORT: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
    LIMIT: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    ROTARY: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Programs of the second axis: 0 has a block of keys, 1 a block of queries.

    A sequence of at most WHOLE tokens, which are not more than OWN, has one program for all of it.
    """
    block, head, start, length = place(starts_ptr, heads, blocks)
    role = tl.program_id(1)
    if (block * OWN < length) & ((role == 0) | (length > WHOLE)):
        rate = dropped, keep_scale
        mask = mask_of(seed_ptr, site, start, head, heads, DROPOUT)
        q_ptr = qkv_ptr + start * token_stride + head * head_stride
        parts = q_ptr, q_ptr + part_stride, q_ptr + 2 * part_stride
        width = heads * HEAD
        d_q_ptr = d_qkv_ptr + start * 3 * width + head * HEAD
        d_parts = d_q_ptr, d_q_ptr + width, d_q_ptr + 2 * width
        d_out_ptr += start * width + head * HEAD
        log_sum_ptr += head.to(tl.int64) * tokens + start
        delta_ptr += head.to(tl.int64) * tokens + start
        strides = token_stride, 3 * width, width
        if ROTARY:
            rotary_ptr += start * HEAD
        if WHOLE > 0 and length <= WHOLE:
            _whole_sequence(
                parts, rotary_ptr, d_parts, d_out_ptr, log_sum_ptr, strides, length, mask, rate, scale, factor,
                WHOLE, SHORT, HEAD, WIDE, DROPOUT, PRECISION, ROTARY, WINDOW,
            )  # fmt: skip
        elif role == 0:
            _key_gradients(
                parts, rotary_ptr, d_parts, d_out_ptr, log_sum_ptr, delta_ptr, strides, block, length, mask, rate,
                scale, factor, OWN, STEP, HEAD, WIDE, LIMIT, DROPOUT, PRECISION, ROTARY, WINDOW,
            )  # fmt: skip
        else:
            _query_gradients(
                parts, rotary_ptr, d_parts, d_out_ptr, log_sum_ptr, delta_ptr, strides, block, length, mask, rate,
                scale, factor, OWN, STEP, HEAD, WIDE, LIMIT, DROPOUT, PRECISION, ROTARY, WINDOW,
            )  # fmt: skip
