"""The dropout generator of `kernels.masks` for Triton kernels: the same bits from the same counters.

Dropout of any tensor is one read and one write; backward is the same operation on the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import masks
from .launch import cdiv, dropout_numbers, launch, next_power_of_2

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


_TILE = 4096


@triton.jit(do_not_specialize=["rows", "site", "dropped"])
def _dropout_kernel(
    x_ptr,  # (rows, columns)
    out_ptr,  # (rows, columns)
    seed_ptr,  # (2,) int64
    rows,
    columns,
    site,
    dropped,
    scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    a, b, before = site_keys(seed_ptr, site)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    key0, key1 = row_keys(a, b, before + row)
    offset = row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    x = tl.load(x_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    kept = keep(key0[:, None], key1[:, None], column[None, :], dropped)
    tl.store(out_ptr + offset, tl.where(kept, x * scale, 0.0), mask=inside)


@torch.library.custom_op("xlt::dropout", mutates_args=())
def dropout(x: Tensor, seed: Tensor, site: int, p: float) -> Tensor:
    """`kernels.dropout` for a contiguous `x` [rows, columns] and `seed` [2] int64 on its device."""
    rows, columns = x.shape
    out = torch.empty_like(x)
    block = min(next_power_of_2(columns), _TILE)
    height = max(1, _TILE // block)
    grid = cdiv(rows, height), cdiv(columns, block)
    numbers = rows, columns, *dropout_numbers(site, p)
    launch(_dropout_kernel, grid, (x, out, seed), numbers, ROWS=height, COLUMNS=block)
    return out


dropout.register_fake(lambda x, *_: torch.empty_like(x))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, float], output: Tensor) -> None:
    _, seed, ctx.site, ctx.p = inputs
    ctx.save_for_backward(seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return dropout(grad.contiguous(), ctx.saved_tensors[0], ctx.site, ctx.p), None, None, None


dropout.register_autograd(_backward, setup_context=_setup_context)
