"""The gated activation of a product [rows, 2F]: `act(first half) * second half`, and the gradient of the bias in it.

Forward, one launch: read both halves, write the result. Backward, one launch: read the upstream gradient and both
halves, make the activation and its slope again, write the gradients of both halves; the column sums of these, which are
the gradient of the bias, go the way of `gelu.py`. The activations are computed in fp32, the exact GELU as there.

Floor, in bytes over copy bandwidth: forward 3 T F element, backward 5 T F element (element: 2 or 4 bytes). The tiles
are half of those of `gelu.py`, for twice the tensors; reasoned, not measured.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gelu import add_parts, gelu_slope, gelu_value
from .launch import cdiv, launch, next_power_of_2

_TILE_BYTES = 4096
_TILE_COLUMNS = 256
_PROGRAMS = 528


@triton.jit
def _activation(x, GELU: tl.constexpr):
    return gelu_value(x) if GELU else x * tl.sigmoid(x)


@triton.jit
def _slope(x, GELU: tl.constexpr):
    if GELU:
        slope = gelu_slope(x)
    else:
        share = tl.sigmoid(x)
        slope = share * (1.0 + x * (1.0 - share))
    return slope


@triton.jit(do_not_specialize=["rows"])
def _glu_kernel(
    both_ptr,  # (rows, 2 * columns)
    out_ptr,  # (rows, columns)
    rows,
    columns,
    GELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    blocks = tl.cdiv(columns, COLUMNS)
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = row.to(tl.int64)[:, None] * columns
    first_ptr = both_ptr + 2 * place + column[None, :]
    x = tl.load(first_ptr, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(first_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + place + column[None, :], _activation(x, GELU) * gate, mask=inside)


@triton.jit(do_not_specialize=["rows", "parts"])
def _glu_backward_kernel(
    grad_ptr,  # (rows, columns)
    both_ptr,  # (rows, 2 * columns)
    d_both_ptr,  # (rows, 2 * columns)
    partial_ptr,  # (parts, 2 * columns) fp32; not written without NEEDS_BIAS
    rows,
    columns,
    parts,
    GELU: tl.constexpr,
    NEEDS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One block of columns, and every `parts`-th block of rows."""
    blocks = tl.cdiv(columns, COLUMNS)
    part = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    first_sums = tl.zeros([COLUMNS], tl.float32)
    gate_sums = tl.zeros([COLUMNS], tl.float32)
    begin = part * ROWS
    while begin < rows:
        row = begin + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        place = row.to(tl.int64)[:, None] * columns
        offset = 2 * place + column[None, :]
        grad = tl.load(grad_ptr + place + column[None, :], mask=inside, other=0.0).to(tl.float32)
        x = tl.load(both_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(both_ptr + offset + columns, mask=inside, other=0.0).to(tl.float32)
        d_first = grad * gate * _slope(x, GELU)
        d_gate = grad * _activation(x, GELU)
        tl.store(d_both_ptr + offset, d_first, mask=inside)
        tl.store(d_both_ptr + offset + columns, d_gate, mask=inside)
        if NEEDS_BIAS:
            first_sums += tl.sum(d_first, 0)
            gate_sums += tl.sum(d_gate, 0)
        begin += parts * ROWS
    if NEEDS_BIAS:
        sums_ptr = partial_ptr + part.to(tl.int64) * 2 * columns + column
        tl.store(sums_ptr, first_sums, mask=column < columns)
        tl.store(sums_ptr + columns, gate_sums, mask=column < columns)


def _tile(both: Tensor) -> tuple[int, int]:
    width = min(next_power_of_2(both.shape[1] // 2), _TILE_COLUMNS)
    return _TILE_BYTES // (width * both.element_size()), width


@torch.library.custom_op("xlt::glu", mutates_args=())
def glu(both: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """The gated activation of a contiguous `both` [rows, 2F], "gelu" or "silu".

    `bias` [2F] is the one that `both` already contains: it is given for its gradient and not read.
    """
    out = _output(both)
    rows, columns = out.shape
    height, width = _tile(both)
    grid = (cdiv(rows, height) * cdiv(columns, width),)
    launch(_glu_kernel, grid, (both, out), (rows, columns), GELU=activation == "gelu", ROWS=height, COLUMNS=width)
    return out


def _output(both: Tensor) -> Tensor:
    return both.new_empty(both.shape[0], both.shape[1] // 2)


glu.register_fake(lambda both, *_: _output(both))


@torch.library.custom_op("xlt::glu_backward", mutates_args=())
def glu_backward(grad: Tensor, both: Tensor, activation: str, bias_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Gradients of `both`, and of the bias in `bias_dtype` (None: not needed, and (0,))."""
    rows, columns = grad.shape
    d_both, d_bias = _outputs(both, bias_dtype)
    height, width = _tile(both)
    blocks = cdiv(columns, width)
    parts = min(cdiv(rows, height), cdiv(_PROGRAMS, max(blocks, 1)))
    partial = both.new_empty((parts, 2 * columns) if bias_dtype is not None else 0, dtype=torch.float32)
    launch(
        _glu_backward_kernel,
        (parts * blocks,),
        (grad, both, d_both, partial),
        (rows, columns, parts),
        GELU=activation == "gelu",
        NEEDS_BIAS=bias_dtype is not None,
        ROWS=height,
        COLUMNS=width,
    )
    if bias_dtype is not None:
        add_parts(partial, d_bias)
    return d_both, d_bias


def _outputs(both: Tensor, bias_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    return torch.empty_like(both), both.new_empty(0 if bias_dtype is None else both.shape[1], dtype=bias_dtype)


glu_backward.register_fake(lambda grad, both, activation, bias_dtype: _outputs(both, bias_dtype))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, str], output: Tensor) -> None:
    both, bias, ctx.activation = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(both)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    (both,) = ctx.saved_tensors
    needs_both, needs_bias = ctx.needs_input_grad[:2]
    bias_dtype = ctx.bias_dtype if needs_bias else None
    d_both, d_bias = glu_backward(grad.contiguous(), both, ctx.activation, bias_dtype)
    return d_both if needs_both else None, d_bias if needs_bias else None, None


glu.register_autograd(_backward, setup_context=_setup_context)
