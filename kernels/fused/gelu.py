"""The exact GELU of a pre-activation, with dropout after it, and the bias gradient of the linear layer before it.

The bias itself rides in the matrix product, which adds it for nothing. Its gradient is the column sum of the gradient
of the pre-activation, so the pass that makes the one adds up the other: the tensor is not read again.

Forward, one launch: read the pre-activation, write the activation; `gelu_` overwrites. Backward, one launch: read the
upstream gradient and the pre-activation, make the activation's slope and the dropout mask again, write the gradient of
the pre-activation; each program keeps the column sums of its rows in fp32 registers and writes them once, to a slot of
its own. A second, small launch adds the slots in a fixed order, so that every run gives the same bits. Without a bias
gradient there is one launch; without a gradient of the pre-activation (input and weight frozen) it is not written.

The normal distribution is computed as Phi(-u) = exp(-u**2 / 2) r(u), u = |x|, with a polynomial for r: Phi and the
slope are within 3e-7 of the truth in fp32 arithmetic, nearer than `0.5 * (1 + erf)` in torch, and small negative
activations keep their digits, where 1 + erf cancels. `tl.erf` would be the bound in 16 bit, not memory: compiled
for sm_90, the forward kernel has 37 instructions an element with it and 24 without, the backward kernel 55 and 34; one
instruction an element at 8,192 x 3,072 is 0.85 us of issue slots on 132 multiprocessors at 1.75 GHz, so 32 us and 21 us
beside 23 us of copying forward, 47 us and 29 us beside 35 us backward.

Floor, in bytes over copy bandwidth: forward 2 T F element, backward 3 T F element (element: 2 or 4 bytes); the partial
sums add 2 * 4 * P * F, with P slots a column, 0.7 % of the backward at 8,192 x 3,072 in 16 bit.

The tile sizes are chosen by reasoning, not measured: a row of a tile is 16 bytes a lane for one warp in 16 bit, a
program of four warps reads 8 KB of a tensor at a time, and the programs of a backward pass fit on 132 multiprocessors
in one wave.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import cdiv, dropout_numbers, launch, next_power_of_2
from .masks import keep, row_keys, site_keys

_TILE_BYTES = 8192
_TILE_COLUMNS = 256
_PROGRAMS = 528
_SUM_PARTS = 64
_SUM_COLUMNS = 32
_DENSITY_AT_ZERO = tl.constexpr(0.3989422804014327)
_HALF_LOG2_E = tl.constexpr(0.7213475204444817)
_TAIL_END = tl.constexpr(5.0)
# Coefficients of size**12 .. size**0: a weighted minimax fit of erfcx(size / sqrt(2)) / 2 on [0, 5]. Beyond the
# end, where Phi(-|x|) is below 3e-7, size * tail keeps its value at the end: it tends to a constant, 4 % above.
_TAIL = tl.constexpr(
    (
        4.019324e-08,
        -1.1840118e-06,
        1.5764317e-05,
        -1.2686668e-04,
        7.00405e-04,
        -2.8776482e-03,
        9.399107e-03,
        -2.582237e-02,
        6.2117275e-02,
        -1.328676e-01,
        2.4998263e-01,
        -3.9894125e-01,
        5.0e-01,
    )
)


@triton.jit
def _normal_tail(x):
    """`size` = |x| up to `_TAIL_END`, `bell` = exp(-x**2 / 2), and `tail`, where Phi(-|x|) = bell * tail.

    The bell keeps x as it is: it brings infinities to their limits, and NaN to the result.
    """
    size = tl.minimum(tl.abs(x), _TAIL_END)
    tail = size * _TAIL[0] + _TAIL[1]
    for power in tl.static_range(2, 13):
        tail = tail * size + _TAIL[power]
    return size, tl.exp2(x * x * -_HALF_LOG2_E), tail


@triton.jit
def gelu_value(x):
    """x Phi(x) = max(x, 0) - |x| Phi(-|x|): without the cancellation of 1 + erf in the negative tail."""
    size, bell, tail = _normal_tail(x)
    return tl.where(x > 0.0, x, 0.0) - size * (bell * tail)


@triton.jit
def gelu_slope(x):
    """Phi(x) + x phi(x), which is one minus its value at -x."""
    size, bell, tail = _normal_tail(x)
    slope = bell * (tail - size * _DENSITY_AT_ZERO)
    return tl.where(x > 0.0, 1.0 - slope, slope)


@triton.jit(do_not_specialize=["rows", "site", "dropped"])
def _gelu_kernel(
    pre_ptr,  # (rows, columns)
    out_ptr,  # (rows, columns); may be pre_ptr
    seed_ptr,  # (2,) int64, or None
    rows,
    columns,
    site,
    dropped,
    scale,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    blocks = tl.cdiv(columns, COLUMNS)
    row = tl.program_id(0) // blocks * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    offset = row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    x = tl.load(pre_ptr + offset, mask=inside, other=0.0).to(tl.float32)
    out = gelu_value(x)
    if DROPOUT:
        a, b, before = site_keys(seed_ptr, site)
        key0, key1 = row_keys(a, b, before + row)
        out = tl.where(keep(key0[:, None], key1[:, None], column[None, :], dropped), out * scale, 0.0)
    tl.store(out_ptr + offset, out, mask=inside)


@triton.jit(do_not_specialize=["rows", "parts", "site", "dropped"])
def _gelu_backward_kernel(
    grad_ptr,  # (rows, columns)
    pre_ptr,  # (rows, columns)
    seed_ptr,  # (2,) int64, or None
    d_pre_ptr,  # (rows, columns); not written without NEEDS_PRE
    partial_ptr,  # (parts, columns) fp32; not written without NEEDS_BIAS
    rows,
    columns,
    parts,
    site,
    dropped,
    scale,
    DROPOUT: tl.constexpr,
    NEEDS_PRE: tl.constexpr,
    NEEDS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One block of columns, and every `parts`-th block of rows."""
    blocks = tl.cdiv(columns, COLUMNS)
    part = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)
    if DROPOUT:
        a, b, before = site_keys(seed_ptr, site)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    first = part * ROWS
    while first < rows:
        row = first + tl.arange(0, ROWS)
        offset = row.to(tl.int64)[:, None] * columns + column[None, :]
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        grad = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(pre_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            key0, key1 = row_keys(a, b, before + row)
            grad = tl.where(keep(key0[:, None], key1[:, None], column[None, :], dropped), grad * scale, 0.0)
        d_pre = grad * gelu_slope(x)
        if NEEDS_PRE:
            tl.store(d_pre_ptr + offset, d_pre, mask=inside)
        if NEEDS_BIAS:
            sums += d_pre
        first += parts * ROWS
    if NEEDS_BIAS:
        tl.store(partial_ptr + part.to(tl.int64) * columns + column, tl.sum(sums, axis=0), mask=column < columns)


@triton.jit(do_not_specialize=["parts"])
def add_parts_kernel(
    partial_ptr,  # (parts, columns) fp32
    out_ptr,  # (columns,)
    parts,
    columns,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros([PARTS, COLUMNS], tl.float32)
    first = 0
    while first < parts:
        part = first + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & (column < columns)[None, :]
        sums += tl.load(partial_ptr + part.to(tl.int64)[:, None] * columns + column[None, :], mask=inside, other=0.0)
        first += PARTS
    tl.store(out_ptr + column, tl.sum(sums, axis=0), mask=column < columns)


def _tile(pre: Tensor) -> tuple[int, int]:
    """Rows and columns of a tile; they do not depend on the number of rows, which would compile anew with each."""
    width = min(next_power_of_2(pre.shape[1]), _TILE_COLUMNS)
    return _TILE_BYTES // (width * pre.element_size()), width


def _launch_forward(pre: Tensor, out: Tensor, seed: Tensor | None, site: int, p: float) -> None:
    rows, columns = pre.shape
    height, width = _tile(pre)
    launch(
        _gelu_kernel,
        (cdiv(rows, height) * cdiv(columns, width),),
        (pre, out, seed),
        (rows, columns, *dropout_numbers(site, p)),
        DROPOUT=seed is not None,
        ROWS=height,
        COLUMNS=width,
    )


@torch.library.custom_op("xlt::gelu", mutates_args=())
def gelu(pre: Tensor, bias: Tensor | None, seed: Tensor | None, site: int, p: float) -> Tensor:
    """`kernels.dropout` of the GELU of a contiguous `pre` [rows, columns].

    `bias` [columns] is the one that `pre` already contains: it is given for its gradient and not read. `seed` [2] is
    int64 on the device of `pre`. Without a bias there is no gradient of it, without a seed no dropout.
    """
    out = torch.empty_like(pre)
    _launch_forward(pre, out, seed, site, p)
    return out


gelu.register_fake(lambda pre, *_: torch.empty_like(pre))


@torch.library.custom_op("xlt::gelu_", mutates_args=("pre",))
def gelu_(pre: Tensor, seed: Tensor | None, site: int, p: float) -> None:
    """`gelu` in the memory of `pre`, where nothing needs a gradient."""
    _launch_forward(pre, pre, seed, site, p)


gelu_.register_fake(lambda *_: None)


@torch.library.custom_op("xlt::gelu_backward", mutates_args=())
def gelu_backward(
    grad: Tensor, pre: Tensor, seed: Tensor | None, site: int, p: float, needs_pre: bool, bias_dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `pre`, and of the bias in `bias_dtype` (None: not needed); (0,) in place of what is not needed."""
    rows, columns = pre.shape
    d_pre, d_bias = _outputs(pre, needs_pre, bias_dtype)
    height, width = _tile(pre)
    blocks = cdiv(columns, width)
    parts = min(cdiv(rows, height), cdiv(_PROGRAMS, max(blocks, 1)))
    partial = pre.new_empty((parts, columns) if bias_dtype is not None else 0, dtype=torch.float32)
    launch(
        _gelu_backward_kernel,
        (parts * blocks,),
        (grad, pre, seed, d_pre, partial),
        (rows, columns, parts, *dropout_numbers(site, p)),
        DROPOUT=seed is not None,
        NEEDS_PRE=needs_pre,
        NEEDS_BIAS=bias_dtype is not None,
        ROWS=height,
        COLUMNS=width,
    )
    if bias_dtype is not None:
        add_parts(partial, d_bias)
    return d_pre, d_bias


def add_parts(partial: Tensor, out: Tensor) -> None:
    """Sums `partial` [parts, columns] over its parts into `out`, in one order."""
    parts, columns = partial.shape
    grid = (cdiv(columns, _SUM_COLUMNS),)
    launch(add_parts_kernel, grid, (partial, out), (parts, columns), PARTS=_SUM_PARTS, COLUMNS=_SUM_COLUMNS)


def _outputs(pre: Tensor, needs_pre: bool, bias_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    d_pre = torch.empty_like(pre) if needs_pre else pre.new_empty(0)
    d_bias = pre.new_empty(0) if bias_dtype is None else pre.new_empty(pre.shape[1], dtype=bias_dtype)
    return d_pre, d_bias


gelu_backward.register_fake(lambda grad, pre, seed, site, p, *needs: _outputs(pre, *needs))


_Inputs = tuple[Tensor, Tensor | None, Tensor | None, int, float]


def _setup_context(ctx: Any, inputs: _Inputs, output: Tensor) -> None:
    pre, bias, seed, ctx.site, ctx.p = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(pre, seed)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    pre, seed = ctx.saved_tensors
    needs_pre, needs_bias = ctx.needs_input_grad[:2]
    bias_dtype = ctx.bias_dtype if needs_bias else None
    d_pre, d_bias = gelu_backward(grad.contiguous(), pre, seed, ctx.site, ctx.p, needs_pre, bias_dtype)
    return d_pre if needs_pre else None, d_bias if needs_bias else None, None, None, None


gelu.register_autograd(_backward, setup_context=_setup_context)
