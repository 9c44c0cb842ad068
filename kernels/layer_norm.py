"""LayerNorm(dropout(x) + residual), the post-norm step of BERT (arXiv 1810.04805), in one autograd node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .masks import is_active, keep_mask, keep_scale

_HALF = (torch.bfloat16, torch.float16)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last dimension; half-precision input is normalised in fp32 and rounded once."""
    if x.dtype in _HALF or weight.dtype != x.dtype:
        out = torch.nn.functional.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps)
        return out.to(x.dtype)
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


class _DropoutResidualLayerNorm(torch.autograd.Function):
    """Saves the sum, its statistics and one byte of mask for each element."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        p: float,
        seed: int | Tensor | None,
        site: int,
    ) -> Tensor:
        half = x.dtype in _HALF
        mask = None
        if seed is not None and is_active(p, seed):
            mask = keep_mask(x.shape[0], x.shape[1], p, seed, site, x.device)
            ctx.scale = keep_scale(p)
        if half:
            x, residual, dtype = x.float(), residual.float(), x.dtype
            weight, bias = weight.float(), bias.float()
        total = x + residual if mask is None else torch.addcmul(residual, x, mask, value=ctx.scale)
        out, mean, rstd = torch.native_layer_norm(total, weight.shape, weight, bias, eps)
        ctx.save_for_backward(total.to(dtype) if half else total, mean, rstd, weight, bias, mask)
        return out.to(dtype) if half else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total, mean, rstd, weight, bias, mask = ctx.saved_tensors
        need_x, need_residual, need_weight, need_bias = ctx.needs_input_grad[:4]
        dtype = grad.dtype
        if dtype in _HALF:
            grad, total = grad.float(), total.float()
        d_total, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(),
            total,
            weight.shape,
            mean,
            rstd,
            weight,
            bias,
            [need_x or need_residual, need_weight, need_bias],
        )
        d_x = None
        if need_x:
            d_x = (d_total if mask is None else d_total.mul(mask).mul_(ctx.scale)).to(dtype)
        d_residual = d_total.to(dtype) if need_residual else None
        return d_x, d_residual, d_weight, d_bias, None, None, None, None


def dropout_residual_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    p: float = 0.0,
    seed: int | Tensor | None = None,
    site: int = 0,
) -> Tensor:
    """`LayerNorm(dropout(x) + residual)` over the last dimension.

    Args:
        x: [T, H], a sub-layer's output.
        residual: [T, H], the sub-layer's input.
        weight: [H].
        bias: [H].
        eps: added to the variance.
        p: dropout probability of `x`; off when `seed` is None.
        seed: see `dropout`.
        site: see `dropout`.

    Returns:
        [T, H] in the dtype of `x`; sum and statistics are fp32 for half-precision input.

    Raises:
        ValueError: shapes differ, or `p` is outside [0, 1).
    """
    if x.shape != residual.shape or weight.shape != x.shape[-1:] or bias.shape != weight.shape:
        raise ValueError(
            f"x {tuple(x.shape)}, residual {tuple(residual.shape)}, weight {tuple(weight.shape)} and "
            f"bias {tuple(bias.shape)} do not fit together"
        )
    apply: Callable[..., Tensor] = _DropoutResidualLayerNorm.apply
    return apply(x, residual, weight, bias, eps, p, seed, site)
