"""The sum that a sub-layer leaves and its norm, for encoders that normalise what goes into a sub-layer.

LayerNorm with or without a bias (ModernBERT), or RMS norm (arXiv 1910.07467; EuroBERT). Both results have users: the
sum goes on to the next residual, so that one backward node adds its gradient to that of the norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checks import misfit
from .dispatch import needs_gradient, use_triton
from .layer_norm import HALF, MAX_FUSED_COLUMNS


class _ResidualNorm(torch.autograd.Function):
    """Saves the sum and its statistics; the mean of an RMS norm is 0."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool
    ) -> tuple[Tensor, Tensor] | Tensor:
        wide, scale = _arithmetic(x, x), _arithmetic(weight, x)
        shift = None if bias is None else _arithmetic(bias, x)
        wide = wide if residual is None else wide + residual
        total = wide.to(x.dtype)
        ctx.rms = rms
        ctx.dtypes = [None if t is None else t.dtype for t in (x, residual, weight, bias)]
        if rms:
            size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            rstd = size.square_().div_(wide.shape[-1]).add_(eps).rsqrt_()
            mean, out = torch.zeros_like(rstd), wide.mul(rstd).mul_(scale)
        else:
            out, mean, rstd = torch.native_layer_norm(wide, weight.shape, scale, shift, eps)
        ctx.save_for_backward(total, mean, rstd, weight, bias)
        ctx.set_materialize_grads(False)
        out = out.to(x.dtype)
        return out if residual is None else (total, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, mean, rstd, weight, bias = ctx.saved_tensors
        need_x, need_residual, need_weight, need_bias = ctx.needs_input_grad[:4]
        (beside, grad) = grads if len(grads) == 2 else (None, grads[0])
        d_total, d_weight, d_bias = beside, None, None
        if grad is not None:
            wide, up, scale = (_arithmetic(t, total) for t in (total, grad, weight))
            shift = None if bias is None else _arithmetic(bias, total)
            d_total, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
                up.contiguous(),
                wide,
                weight.shape,
                mean,
                rstd,
                scale,
                shift,
                [need_x or need_residual, need_weight, need_bias],
            )
            if ctx.rms and d_total is not None:
                # LayerNorm's gradient has no part along the mean, which RMS norm does not take away.
                d_total += rstd * (up @ scale / wide.shape[-1]).unsqueeze(-1)
            if d_total is not None and beside is not None:
                d_total += beside
        needs = need_x, need_residual, need_weight, need_bias
        made = d_total, d_total, d_weight, d_bias
        gradients = zip(made, needs, ctx.dtypes, strict=True)
        return *(g.to(dtype) if g is not None and need else None for g, need, dtype in gradients), None, None


def _arithmetic(x: Tensor, like: Tensor) -> Tensor:
    return x.float() if like.dtype in HALF else x.to(like.dtype)


def residual_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, *, eps: float, rms: bool = False
) -> tuple[Tensor, Tensor]:
    """`total = x + residual` and the norm of `total` over its last dimension.

    Args:
        x: [T, H], a sub-layer's output.
        residual: [T, H], the sum that the sub-layer before left; None adds nothing, and `total` is `x` itself.
        weight: [H].
        bias: [H], or None.
        eps: added to the variance, or to the mean square.
        rms: the root of the mean square in place of mean and variance; without a bias.

    Returns:
        `total` and its norm, [T, H] in the dtype of `x`; statistics are fp32 for half-precision input, and the norm is
        rounded once.

    Raises:
        ValueError: shapes differ, or an RMS norm with a bias.
    """
    vectors = [v for v in (weight, bias) if v is not None]
    if any(v.shape != x.shape[-1:] for v in vectors) or (residual is not None and residual.shape != x.shape):
        raise misfit(x=x, residual=residual, weight=weight, bias=bias)
    if rms and bias is not None:
        raise ValueError("an RMS norm has no bias")
    if use_triton(x) and weight.shape[0] <= MAX_FUSED_COLUMNS:
        from .fused.norms.residual_norm import residual_norm as fused

        save = needs_gradient(x, residual, weight, bias)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        added = None if residual is None else residual.reshape(rows.shape).contiguous()
        shift = None if bias is None else bias.contiguous()
        out, total, *_ = fused(rows, added, weight.contiguous(), shift, eps, rms, save)
        return x if residual is None else total.view(x.shape), out.view(x.shape)
    apply: Callable[..., Any] = _ResidualNorm.apply
    result = apply(x, residual, weight, bias, eps, rms)
    return (x, result) if residual is None else result
