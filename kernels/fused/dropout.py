"""Dropout of any tensor, as one read and one write; backward is the same operation on the gradient."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, dropout_numbers, launch, next_power_of_2
from .masks import keep, row_keys, site_keys

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
