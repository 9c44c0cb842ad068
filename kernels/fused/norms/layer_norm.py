"""The norm of `dropout(x) + residual`, and that sum: one launch forward, two backward.

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


@torch.library.custom_op("xlt::residual_norm", mutates_args=())
def residual_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    x_bias: Tensor | None,
    seed: Tensor | None,
    eps: float,
    p: float,
    site: int,
    rms: bool,
    both: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The norm of `dropout(x) + residual`, contiguous [T, H], and that sum; drops where there is a seed, [2] int64.

    The sum is a result with `both`, else for backward as `mean` (0 with `rms`) and `rstd` are: empty unless `save`. It
    is also empty where it would be `x` itself.
    """
    outputs = _outputs(x, residual, weight, bias, x_bias, seed, eps, p, site, rms, both, save)
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
        SAVE_TOTAL=outputs[1].dim() == 2,
        SAVE_STATISTICS=save,
        BIAS=bias is not None,
        RMS=rms,
        num_warps=warps,
    )
    return outputs


@residual_norm.register_fake
def _outputs(x, residual, weight, bias, x_bias, seed, eps, p, site, rms, both, save):
    new_total = (save or both) and (residual is not None or seed is not None)
    rows = x.shape[0] if save else 0
    return (
        torch.empty_like(x),
        torch.empty_like(x) if new_total else x.new_empty(0),
        x.new_empty(rows, dtype=torch.float32),
        x.new_empty(rows, dtype=torch.float32),
    )


@torch.library.custom_op("xlt::residual_norm_backward", mutates_args=())
def residual_norm_backward(
    grad: Tensor,
    beside: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    seed: Tensor | None,
    p: float,
    site: int,
    rms: bool,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the sum, of `x` behind its dropout, of weight and bias, and of the bias within `x`.

    `beside` is the gradient of the sum as a result of its own. Those that are not in `need` (weight and bias are one
    need) are empty; the last three have the dtype of `weight`.
    """
    need_total, need_x, need_affine, need_x_bias = need
    d_total, d_x, d_weight, d_bias, d_x_bias = gradients = _gradients(grad, weight, need)
    rows, size = grad.shape
    height, columns, warps, blocks, programs = backward_blocks(grad)
    partials = grad.new_empty((2 * need_affine + need_x_bias, programs, size), dtype=torch.float32)
    launch(
        backward_kernel,
        (programs,),
        (grad, total, mean, rstd, weight, seed, beside, d_total, d_x, partials),
        (rows, blocks, *dropout_numbers(site, p)),
        SIZE=size,
        ROWS=height,
        COLUMNS=columns,
        DROPOUT=seed is not None,
        D_TOTAL=need_total,
        D_X=need_x,
        AFFINE=need_affine,
        X_BIAS=need_x_bias,
        BESIDE=beside is not None,
        RMS=rms,
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


residual_norm_backward.register_fake(
    lambda grad, beside, total, mean, rstd, weight, seed, p, site, rms, need: _gradients(grad, weight, need)
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x, residual, weight, bias, x_bias, seed, _, ctx.p, ctx.site, ctx.rms, both, _ = inputs
    _, total, mean, rstd = output
    # Without this, the outputs that exist for backward alone would get gradients of zeros, [T, H] and all.
    ctx.mark_non_differentiable(mean, rstd, *([] if both else [total]))
    ctx.set_materialize_grads(False)
    ctx.dtypes = [None if t is None else t.dtype for t in (x, residual, weight, bias, x_bias)]
    ctx.save_for_backward(x if total.dim() < 2 else total, mean, rstd, weight, seed)


def _backward(ctx: Any, grad: Tensor | None, beside: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = need_x, need_residual, need_weight, need_bias, need_x_bias = ctx.needs_input_grad[:5]
    saved = ctx.saved_tensors  # once: a checkpointed tensor is unpacked for a single reading
    drops = saved[-1] is not None
    d_total, d_x, d_weight, d_bias, d_x_bias = beside, None, None, None, None
    if grad is not None:
        beside = None if beside is None else beside.contiguous()
        need = [need_residual or (need_x and not drops), need_x and drops, need_weight or need_bias, need_x_bias]
        d_total, d_x, d_weight, d_bias, d_x_bias = residual_norm_backward(
            grad.contiguous(), beside, *saved, ctx.p, ctx.site, ctx.rms, need
        )
    made = d_x if drops else d_total, d_total, d_weight, d_bias, d_x_bias
    found = zip(made, needs, ctx.dtypes, strict=True)
    return *(g.to(dtype) if g is not None and need else None for g, need, dtype in found), *(None,) * 7


residual_norm.register_autograd(_backward, setup_context=_setup_context)
