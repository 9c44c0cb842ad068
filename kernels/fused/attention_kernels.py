"""The Triton kernels of packed attention; `attention.py` launches them and says what they compute.

A program is told its sequence and head by `_place`, and finds its rows in the packed batch by the boundaries on the
device. Tiles are padded with zeros; keys beyond the sequence get probability 0, rows beyond it are not stored.

Scores and the saved log-sum-exp are to base 2: `scale` is `d ** -0.5 / ln 2`.

With ROTARY queries and keys are turned as they are loaded, from a second look at the halves of their rows, which the
cache has, and their gradients turned back before they are stored; a tile of them has the halves of a head in its own
halves, wherever those end. WINDOW is how far a token sees, or -1 for everywhere: blocks beyond it are not read.
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
def load_turned(ptr, stride, rotary_ptr, row, length, HEAD: tl.constexpr, WIDE: tl.constexpr, ROTARY: tl.constexpr):
    """Queries or keys; with ROTARY by the angles of their rows."""
    if ROTARY:
        lane = tl.arange(0, WIDE) % (WIDE // 2)
        upper = tl.arange(0, WIDE) >= WIDE // 2
        inside = (row < length)[:, None] & (lane < HEAD // 2)[None, :]
        x_ptr = ptr + row.to(tl.int64)[:, None] * stride + lane[None, :]
        angle_ptr = rotary_ptr + row.to(tl.int64)[:, None] * HEAD + lane[None, :]
        x = tl.load(x_ptr + tl.where(upper, HEAD // 2, 0)[None, :], mask=inside, other=0.0)
        partner = tl.load(x_ptr + tl.where(upper, 0, HEAD // 2)[None, :], mask=inside, other=0.0)
        cos = tl.load(angle_ptr, mask=inside, other=0.0)
        sin = tl.load(angle_ptr + HEAD // 2, mask=inside, other=0.0)
        sin = tl.where(upper[None, :], sin, -sin)
        turned = (x.to(tl.float32) * cos + partner.to(tl.float32) * sin).to(x.dtype)
    else:
        turned = load(ptr, stride, row, length, HEAD, WIDE)
    return turned


@triton.jit
def store_turned_back(
    ptr, stride, rotary_ptr, row, length, value, HEAD: tl.constexpr, WIDE: tl.constexpr, ROTARY: tl.constexpr
):
    """The gradient of what `load_turned` gave as that of what it read."""
    if ROTARY:
        pairs = tl.permute(tl.reshape(value, [value.shape[0], 2, WIDE // 2]), [0, 2, 1])
        first, second = tl.split(pairs)
        lane = tl.arange(0, WIDE // 2)
        inside = (row < length)[:, None] & (lane < HEAD // 2)[None, :]
        angle_ptr = rotary_ptr + row.to(tl.int64)[:, None] * HEAD + lane[None, :]
        cos = tl.load(angle_ptr, mask=inside, other=0.0)
        sin = tl.load(angle_ptr + HEAD // 2, mask=inside, other=0.0)
        out_ptr = ptr + row.to(tl.int64)[:, None] * stride + lane[None, :]
        tl.store(out_ptr, first * cos + second * sin, mask=inside)
        tl.store(out_ptr + HEAD // 2, second * cos - first * sin, mask=inside)
    else:
        store(ptr, stride, row, length, value, HEAD, WIDE)


@triton.jit
def reach(block, length, OWN: tl.constexpr, STEP: tl.constexpr, WINDOW: tl.constexpr):
    """Where the steps begin and end that have something for a block of OWN rows."""
    begin = tl.maximum(block * OWN - WINDOW, 0) // STEP * STEP
    return begin, tl.minimum(length, block * OWN + OWN + WINDOW)


@triton.jit
def near(row, column, length, WINDOW: tl.constexpr):
    """Whether rows see columns; those beyond the sequence see all, since what a row sees is divided by."""
    return (tl.abs(row - column) <= WINDOW) | (row >= length)


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
    rotary_ptr,  # to the angles of its first token
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
    ROTARY: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """The output of a block of ROWS queries over all keys of the sequence, KEYS at a time."""
    dropped, keep_scale = rate
    q_ptr, k_ptr, v_ptr = parts
    out_ptr, log_sum_ptr = results
    row = block * ROWS + tl.arange(0, ROWS)
    key0, key1 = mask_keys(mask, row, DROPOUT)
    q = load_turned(q_ptr, strides[0], rotary_ptr, row, length, HEAD, WIDE, ROTARY)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, WIDE], tl.float32)
    begin = 0
    end = LIMIT if LIMIT else length
    if WINDOW >= 0:
        begin, end = reach(block, length, ROWS, KEYS, WINDOW)
    for first in range(begin, end, KEYS):
        column = first + tl.arange(0, KEYS)
        k = load_turned(k_ptr, strides[0], rotary_ptr, column, length, HEAD, WIDE, ROTARY)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where((column < length)[None, :], scores, float("-inf"))
        if WINDOW >= 0:
            scores = tl.where(near(row[:, None], column[None, :], length, WINDOW), scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        if WINDOW >= 0:  # a query may see no key of a block, nor of those before
            larger = tl.maximum(larger, -1e30)
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
    rotary_ptr,  # (T, HEAD) fp32; unused without ROTARY
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
    ROTARY: tl.constexpr,
    WINDOW: tl.constexpr,
):
    block, head, start, length = place(starts_ptr, heads, blocks)
    if block * ROWS < length:
        rate = dropped, keep_scale
        mask = mask_of(seed_ptr, site, start, head, heads, DROPOUT)
        q_ptr = qkv_ptr + start * token_stride + head * head_stride
        parts = q_ptr, q_ptr + part_stride, q_ptr + 2 * part_stride
        results = out_ptr + (start * heads + head) * HEAD, log_sum_ptr + head.to(tl.int64) * tokens + start
        strides = token_stride, heads * HEAD
        if ROTARY:
            rotary_ptr += start * HEAD
        if length <= SHORT:
            _forward_tile(
                parts, rotary_ptr, results, strides, block, length, mask, rate, scale,
                SHORT, SHORT, HEAD, WIDE, SHORT, DROPOUT, WITH_LOG_SUM, PRECISION, ROTARY, WINDOW,
            )  # fmt: skip
        else:
            _forward_tile(
                parts, rotary_ptr, results, strides, block, length, mask, rate, scale,
                ROWS, KEYS, HEAD, WIDE, LIMIT, DROPOUT, WITH_LOG_SUM, PRECISION, ROTARY, WINDOW,
            )  # fmt: skip
