"""The Triton kernels of packed attention; `attention.py` launches them and says what they compute.

A program is told its sequence and head by `_place`, and finds its rows in the packed batch by the boundaries on the
device. Tiles are padded with zeros; keys beyond the sequence get probability 0, rows beyond it are not stored.

Scores and the saved log-sum-exp are to base 2: `scale` is `d ** -0.5 / ln 2`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .masks import keep, row_keys, site_keys


@triton.jit
def place(starts_ptr, heads, blocks):
    """Of this program: its block of the sequence, head, first token of the sequence, and the sequence's length."""
    program = tl.program_id(0)
    pair = program // blocks
    sequence = pair // heads
    start = tl.load(starts_ptr + sequence).to(tl.int64)
    end = tl.load(starts_ptr + sequence + 1).to(tl.int64)
    return program % blocks, pair % heads, start, (end - start).to(tl.int32)


@triton.jit
def _inside(row, length, HEAD: tl.constexpr, WIDE: tl.constexpr):
    inside = (row < length)[:, None]
    if WIDE != HEAD:
        inside = inside & (tl.arange(0, WIDE) < HEAD)[None, :]
    return inside


@triton.jit
def load(ptr, stride, row, length, HEAD: tl.constexpr, WIDE: tl.constexpr):
    offset = row.to(tl.int64)[:, None] * stride + tl.arange(0, WIDE)[None, :]
    return tl.load(ptr + offset, mask=_inside(row, length, HEAD, WIDE), other=0.0)


@triton.jit
def store(ptr, stride, row, length, value, HEAD: tl.constexpr, WIDE: tl.constexpr):
    offset = row.to(tl.int64)[:, None] * stride + tl.arange(0, WIDE)[None, :]
    tl.store(ptr + offset, value, mask=_inside(row, length, HEAD, WIDE))


@triton.jit
def mask_of(seed_ptr, site, start, head, heads, DROPOUT: tl.constexpr):
    """The dropout of a sequence and head: two keys, the number of its first row, and the step to the next."""
    if DROPOUT:
        a, b, before = site_keys(seed_ptr, site)
    else:
        a, b, before = head, head, head
    return a, b, (before + start) * heads + head, heads


@triton.jit
def mask_keys(mask, row, DROPOUT: tl.constexpr):
    if DROPOUT:
        key0, key1 = row_keys(mask[0], mask[1], mask[2] + row * mask[3])
    else:
        key0, key1 = row, row
    return key0, key1


@triton.jit
def _forward_tile(
    parts,  # pointers to the sequence's first query, key and value of this head
    results,  # likewise its output and log-sum-exp
    strides,  # of a token in `parts` and in the output
    block,
    length,
    mask,
    rate,  # of dropout: levels dropped, factor of what is kept
    scale,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
    LIMIT: tl.constexpr,
    DROPOUT: tl.constexpr,
    WITH_LOG_SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The output of a block of ROWS queries over all keys of the sequence, KEYS at a time."""
    dropped, keep_scale = rate
    q_ptr, k_ptr, v_ptr = parts
    out_ptr, log_sum_ptr = results
    row = block * ROWS + tl.arange(0, ROWS)
    key0, key1 = mask_keys(mask, row, DROPOUT)
    q = load(q_ptr, strides[0], row, length, HEAD, WIDE)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDE], tl.float32)
    for first in range(0, LIMIT if LIMIT else length, KEYS):
        column = first + tl.arange(0, KEYS)
        k = load(k_ptr, strides[0], column, length, HEAD, WIDE)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where((column < length)[None, :], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        p = tl.exp2(scores - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(p, 1)
        largest = larger
        if DROPOUT:
            p = tl.where(keep(key0[:, None], key1[:, None], column[None, :], dropped), p, 0.0)
        v = load(v_ptr, strides[0], column, length, HEAD, WIDE)
        out = tl.dot(p.to(v.dtype), v, out * shrink[:, None], input_precision=PRECISION)
    store(out_ptr, strides[1], row, length, out * (keep_scale / total)[:, None], HEAD, WIDE)
    if WITH_LOG_SUM:
        tl.store(log_sum_ptr + row, largest + tl.log2(total), mask=row < length)


@triton.jit(do_not_specialize=["tokens", "heads", "blocks", "site", "dropped"])
def forward_kernel(
    qkv_ptr,  # (T, 3, heads, HEAD), strided
    out_ptr,  # (T, heads, HEAD)
    log_sum_ptr,  # (heads, T) fp32; unused without WITH_LOG_SUM
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
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SHORT: tl.constexpr,
    HEAD: tl.constexpr,
    WIDE: tl.constexpr,
    LIMIT: tl.constexpr,
    DROPOUT: tl.constexpr,
    WITH_LOG_SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    block, head, start, length = place(starts_ptr, heads, blocks)
    if block * ROWS < length:
        rate = dropped, keep_scale
        mask = mask_of(seed_ptr, site, start, head, heads, DROPOUT)
        q_ptr = qkv_ptr + start * token_stride + head * head_stride
        parts = q_ptr, q_ptr + part_stride, q_ptr + 2 * part_stride
        results = out_ptr + (start * heads + head) * HEAD, log_sum_ptr + head.to(tl.int64) * tokens + start
        strides = token_stride, heads * HEAD
        if length <= SHORT:
            _forward_tile(
                parts, results, strides, block, length, mask, rate, scale,
                SHORT, SHORT, HEAD, WIDE, SHORT, DROPOUT, WITH_LOG_SUM, PRECISION,
            )  # fmt: skip
        else:
            _forward_tile(
                parts, results, strides, block, length, mask, rate, scale,
                ROWS, KEYS, HEAD, WIDE, LIMIT, DROPOUT, WITH_LOG_SUM, PRECISION,
            )  # fmt: skip
