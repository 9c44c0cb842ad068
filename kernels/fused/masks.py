"""The dropout generator of `kernels.masks` for Triton kernels: the same bits from the same counters."""

from __future__ import annotations

import triton
import triton.language as tl

from .. import masks

_GOLDEN = tl.constexpr(masks.GOLDEN)
_FIRST = tl.constexpr(masks.FIRST)
_SECOND = tl.constexpr(masks.SECOND)
_SITE_SPLIT = tl.constexpr(masks.SITE_SPLIT)
_HALF_LEVELS = tl.constexpr(masks.LEVELS // 2)


@triton.jit
def _mix(x):
    x ^= x >> 16
    x *= _FIRST
    x ^= x >> 15
    x *= _SECOND
    return x ^ (x >> 16)


@triton.jit
def site_keys(seed_ptr, site):
    """The two keys of a dropout position, and how many rows come before its own, from the seed on the device."""
    seed = tl.load(seed_ptr)
    before = tl.load(seed_ptr + 1).to(tl.int32)
    low = seed.to(tl.uint32)
    high = (seed >> 32).to(tl.uint32)
    base = _mix(_mix(low + _GOLDEN) + high)
    a = _mix(base + site.to(tl.uint32) * _GOLDEN)
    return a, _mix(a ^ _SITE_SPLIT), before


@triton.jit
def row_keys(a, b, rows):
    """Two keys for each of `rows`, a block of any shape."""
    rows = rows.to(tl.uint32)
    return _mix(a + rows * _GOLDEN), _mix(b ^ rows)


@triton.jit
def keep(key0, key1, columns, dropped):
    """True where an element is kept; keys and columns broadcast against each other.

    `dropped` is `masks.dropped_levels(p)`. Both columns of a word compute the word: the arithmetic hides behind memory
    traffic, and a layout that shared it would have to be shuffled.
    """
    columns = columns.to(tl.uint32)
    x = key0 + (columns >> 1) * _GOLDEN
    x ^= x >> 16
    x *= _FIRST
    x += key1
    x ^= x >> 15
    x *= _SECOND
    x ^= x >> 16
    bits = (x << (16 - 16 * (columns & 1))).to(tl.int32, bitcast=True) >> 16
    return bits >= dropped - _HALF_LEVELS
