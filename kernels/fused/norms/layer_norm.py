"""`LayerNorm(dropout(x) + residual)`: one launch forward, two backward.

Forward computes the sum, fp32 statistics and the output from one read of its inputs; where a gradient will be asked for
it writes the sum (in the dtype of `x`) and the statistics, which with the seed are all that backward reads: the dropout
mask is made again from its counters. Backward is one kernel over a fixed number of programs, each of which walks over
blocks of rows and keeps the sums of its columns (the gradients of weight, bias, and of the bias within `x`) in fp32
registers; a second kernel adds those of all programs in one order. No atomics, so equal inputs give equal bits. Were
the last program to arrive to add them, it would read up to 2.4 MB (H 768) alone, some 20 us at the 110 GB/s that one
multiprocessor gets from the cache, to save a launch of 2 us in a graph.

Bytes, with b of an element: forward reads x and residual, writes out and the sum, 4 T H b (3 T H b without gradients);
backward reads the upstream gradient and the sum, writes the gradient of the residual and, with dropout, that of x,
4 T H b (3 T H b without dropout). The partial sums, at most 256 x 3 H fp32, stay in the cache.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..launch import cdiv, dropout_numbers, launch, next_power_of_2
from .layer_norm_kernels import backward_kernel, forward_kernel, sum_partials_kernel

# Chosen by reasoning for Hopper, not by measurement. Eight 16-bit elements make the widest load, so one warp covers 256
# columns, and a thread owns the same columns in all rows of a block: column sums need no exchange between threads.
# Forward: many small programs, 16 elements a thread. Backward: two programs per processor of an H200, 32 elements a
# thread of 16-bit types (and the next 32 under way), 16 of fp32.
FORWARD_TILE = 2048
BACKWARD_TILE_BYTES = 8192
MAX_PROGRAMS = 256
_SUM_COLUMNS = 32


def shape_of_blocks(size: int, tile: int) -> tuple[int, int, int]:
    """(rows, columns, warps) of a block of about `tile` elements that holds whole rows of `size`."""
    columns = max(next_power_of_2(size), 16)
    return max(1, tile // columns), columns, min(16, max(4, columns // 256))


def backward_blocks(x: Tensor) -> tuple[int, int, int, int, int]:
    """(rows, columns, warps) of a block of `x` [T, H] in backward; number of blocks and of programs."""
    height, columns, warps = shape_of_blocks(x.shape[1], BACKWARD_TILE_BYTES // x.element_size())
    blocks = cdiv(x.shape[0], height)
    return height, columns, warps, blocks, max(1, min(blocks, MAX_PROGRAMS))


def sum_partials(partials: Tensor, weight: Tensor, bias: Tensor, others: Tensor, affine: bool) -> None:
    """Sums `partials` [slots, programs, H] over programs: into `weight`, `bias` if `affine`, and the rest `others`."""
    slots, programs, size = partials.shape
    launch(
        sum_partials_kernel,
        (cdiv(size, _SUM_COLUMNS), slots),
        (partials, weight, bias, others),
        (programs,),
        SIZE=size,
        PROGRAMS=MAX_PROGRAMS,
        COLUMNS=_SUM_COLUMNS,
        AFFINE=affine,
        num_warps=4,
    )


@torch.library.custom_op("xlt::dropout_residual_layer_norm", mutates_args=())
def layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    x_bias: Tensor | None,
    seed: Tensor | None,
    eps: float,
    p: float,
    site: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`LayerNorm(dropout(x) + residual)` of contiguous [T, H]; drops where there is a seed, [2] int64.

    `total`, `mean` and `rstd` are for backward, empty unless `save`; so is `total` where it would be `x` itself.
    """
    outputs = _outputs(x, residual, weight, bias, x_bias, seed, eps, p, site, save)
    rows, size = x.shape
    height, columns, warps = shape_of_blocks(size, FORWARD_TILE)
    launch(
        forward_kernel,
        (cdiv(rows, height),),
        (x, residual, weight, bias, seed, *outputs),
        (rows, *dropout_numbers(site, p), eps),
        SIZE=size,
        ROWS=height,
        COLUMNS=columns,
        DROPOUT=seed is not None,
        RESIDUAL=residual is not None,
        SAVE_TOTAL=save and (residual is not None or seed is not None),
        SAVE_STATISTICS=save,
        BIAS=True,
        RMS=False,
        num_warps=warps,
    )
    return outputs


@layer_norm.register_fake
def _outputs(x, residual, weight, bias, x_bias, seed, eps, p, site, save):
    new_total = save and (residual is not None or seed is not None)
    rows = x.shape[0] if save else 0
    return (
        torch.empty_like(x),
        torch.empty_like(x) if new_total else x.new_empty(0),
        x.new_empty(rows, dtype=torch.float32),
        x.new_empty(rows, dtype=torch.float32),
    )


@torch.library.custom_op("xlt::dropout_residual_layer_norm_backward", mutates_args=())
def layer_norm_backward(
    grad: Tensor,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    seed: Tensor | None,
    p: float,
    site: int,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the sum, of `x` behind its dropout, of weight and bias, and of the bias within `x`.

    Those that are not in `need` (weight and bias are one need) are empty; the last three have the dtype of `weight`.
    """
    need_total, need_x, need_affine, need_x_bias = need
    d_total, d_x, d_weight, d_bias, d_x_bias = gradients = _gradients(grad, weight, need)
    rows, size = grad.shape
    height, columns, warps, blocks, programs = backward_blocks(grad)
    partials = grad.new_empty((2 * need_affine + need_x_bias, programs, size), dtype=torch.float32)
    launch(
        backward_kernel,
        (programs,),
        (grad, total, mean, rstd, weight, seed, None, d_total, d_x, partials),
        (rows, blocks, *dropout_numbers(site, p)),
        SIZE=size,
        ROWS=height,
        COLUMNS=columns,
        DROPOUT=seed is not None,
        D_TOTAL=need_total,
        D_X=need_x,
        AFFINE=need_affine,
        X_BIAS=need_x_bias,
        BESIDE=False,
        RMS=False,
        num_warps=warps,
    )
    sum_partials(partials, d_weight, d_bias, d_x_bias, need_affine)
    return gradients


def _gradients(grad: Tensor, weight: Tensor, need: list[bool]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    need_total, need_x, need_affine, need_x_bias = need
    size = grad.shape[1]
    return (
        torch.empty_like(grad) if need_total else grad.new_empty(0),
        torch.empty_like(grad) if need_x else grad.new_empty(0),
        weight.new_empty(size if need_affine else 0),
        weight.new_empty(size if need_affine else 0),
        weight.new_empty(size if need_x_bias else 0),
    )


layer_norm_backward.register_fake(
    lambda grad, total, mean, rstd, weight, seed, p, site, need: _gradients(grad, weight, need)
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x, residual, weight, bias, x_bias, seed, _, ctx.p, ctx.site, _ = inputs
    _, total, mean, rstd = output
    # Without this, the outputs that exist for backward alone would get gradients of zeros, [T, H] and all.
    ctx.mark_non_differentiable(total, mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.dtypes = [None if t is None else t.dtype for t in (residual, bias, x_bias)]
    ctx.save_for_backward(x if total.dim() < 2 else total, mean, rstd, weight, seed)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    need_x, need_residual, need_weight, need_bias, need_x_bias = ctx.needs_input_grad[:5]
    saved = ctx.saved_tensors  # once: a checkpointed tensor is unpacked for a single reading
    drops = saved[-1] is not None
    need = [need_residual or (need_x and not drops), need_x and drops, need_weight or need_bias, need_x_bias]
    d_total, d_x, d_weight, d_bias, d_x_bias = layer_norm_backward(grad.contiguous(), *saved, ctx.p, ctx.site, need)
    residual_dtype, bias_dtype, x_bias_dtype = ctx.dtypes
    return (
        (d_x if drops else d_total) if need_x else None,
        d_total.to(residual_dtype) if need_residual else None,
        d_weight if need_weight else None,
        d_bias.to(bias_dtype) if need_bias else None,
        d_x_bias.to(x_bias_dtype) if need_x_bias else None,
        *(None,) * 5,
    )


layer_norm.register_autograd(_backward, setup_context=_setup_context)
