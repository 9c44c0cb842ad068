"""`x + residual` and its norm, by the kernels of `layer_norm.py`: one launch forward, two backward.

Both results are differentiable: the gradient of the sum is added where that of the norm is made. Bytes, with b of an
element: forward reads x and residual, writes the sum and the norm, 4 T H b; backward reads both gradients and the sum,
writes the gradient that x and residual share, 4 T H b.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..launch import cdiv, dropout_numbers, launch
from .layer_norm import FORWARD_TILE, backward_blocks, shape_of_blocks, sum_partials
from .layer_norm_kernels import backward_kernel, forward_kernel


@torch.library.custom_op("xlt::residual_norm", mutates_args=())
def residual_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The norm of `x + residual`, contiguous [T, H], and that sum, empty where it is `x`.

    `mean` (0 with `rms`) and `rstd` are for backward, empty unless `save`.
    """
    outputs = _outputs(x, residual, weight, bias, eps, rms, save)
    rows, size = x.shape
    height, columns, warps = shape_of_blocks(size, FORWARD_TILE)
    launch(
        forward_kernel,
        (cdiv(rows, height),),
        (x, residual, weight, bias, None, *outputs),
        (rows, *dropout_numbers(0, 0.0), eps),
        SIZE=size,
        ROWS=height,
        COLUMNS=columns,
        DROPOUT=False,
        RESIDUAL=residual is not None,
        SAVE_TOTAL=residual is not None,
        SAVE_STATISTICS=save,
        BIAS=bias is not None,
        RMS=rms,
        num_warps=warps,
    )
    return outputs


@residual_norm.register_fake
def _outputs(x, residual, weight, bias, eps, rms, save):
    rows = x.shape[0] if save else 0
    return (
        torch.empty_like(x),
        x.new_empty(0) if residual is None else torch.empty_like(x),
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
    rms: bool,
    need_total: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the sum, of weight and of bias (in the dtype of `weight`); empty where not needed.

    `beside` is the gradient of the sum as a result of its own.
    """
    d_total, d_weight, d_bias = gradients = _gradients(grad, weight, need_total, need_affine)
    rows, size = grad.shape
    height, columns, warps, blocks, programs = backward_blocks(grad)
    partials = grad.new_empty((2 * need_affine, programs, size), dtype=torch.float32)
    launch(
        backward_kernel,
        (programs,),
        (grad, total, mean, rstd, weight, None, beside, d_total, d_total, partials),
        (rows, blocks, *dropout_numbers(0, 0.0)),
        SIZE=size,
        ROWS=height,
        COLUMNS=columns,
        DROPOUT=False,
        D_TOTAL=need_total,
        D_X=False,
        AFFINE=need_affine,
        X_BIAS=False,
        BESIDE=beside is not None,
        RMS=rms,
        num_warps=warps,
    )
    sum_partials(partials, d_weight, d_bias, d_bias, need_affine)
    return gradients


def _gradients(grad: Tensor, weight: Tensor, need_total: bool, need_affine: bool) -> tuple[Tensor, Tensor, Tensor]:
    size = grad.shape[1] if need_affine else 0
    d_total = torch.empty_like(grad) if need_total else grad.new_empty(0)
    return d_total, weight.new_empty(size), weight.new_empty(size)


residual_norm_backward.register_fake(
    lambda grad, beside, total, mean, rstd, weight, rms, *needs: _gradients(grad, weight, *needs)
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x, residual, weight, bias, _, ctx.rms, _ = inputs
    _, total, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd, *([total] if residual is None else []))
    ctx.set_materialize_grads(False)
    ctx.dtypes = [None if t is None else t.dtype for t in (residual, bias)]
    ctx.save_for_backward(x if residual is None else total, mean, rstd, weight)


def _backward(ctx: Any, grad: Tensor | None, beside: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    need_x, need_residual, need_weight, need_bias = ctx.needs_input_grad[:4]
    d_total, d_weight, d_bias = beside, None, None
    if grad is not None:
        beside = None if beside is None else beside.contiguous()
        needs = need_x or need_residual, need_weight or need_bias
        d_total, d_weight, d_bias = residual_norm_backward(
            grad.contiguous(), beside, *ctx.saved_tensors, ctx.rms, *needs
        )
    residual_dtype, bias_dtype = ctx.dtypes
    return (
        d_total if need_x else None,
        d_total.to(residual_dtype) if need_residual and d_total is not None else None,
        d_weight if need_weight else None,
        d_bias.to(bias_dtype) if need_bias and d_bias is not None else None,
        *(None,) * 3,
    )


residual_norm.register_autograd(_backward, setup_context=_setup_context)
