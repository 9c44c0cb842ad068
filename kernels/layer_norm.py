"""LayerNorm(dropout(x) + residual), the post-norm step of BERT (arXiv 1810.04805), in one autograd node.

The node also computes the gradient of a bias that was added to `x` before: it is the column sum of the gradient of `x`,
which backward has at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checks import misfit
from .dispatch import needs_gradient, use_triton
from .masks import is_active, keep_mask, keep_scale, seed_tensor

HALF = (torch.bfloat16, torch.float16)
MAX_FUSED_COLUMNS = 8192


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last dimension; half-precision input is normalised in fp32 and rounded once."""
    if x.dtype in HALF or weight.dtype != x.dtype:
        out = torch.nn.functional.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps)
        return out.to(x.dtype)
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


class _DropoutResidualLayerNorm(torch.autograd.Function):
    """Saves the sum, its statistics and one byte of mask for each element."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        x_bias: Tensor | None,
        eps: float,
        p: float,
        seed: int | Tensor | None,
        site: int,
    ) -> Tensor:
        half = x.dtype in HALF
        ctx.x_bias_dtype = None if x_bias is None else x_bias.dtype
        mask = None
        if seed is not None:
            mask = keep_mask(x.shape[0], x.shape[1], p, seed, site, x.device)
            ctx.scale = keep_scale(p)
        if half:
            x, residual, dtype = x.float(), None if residual is None else residual.float(), x.dtype
            weight, bias = weight.float(), bias.float()
        if mask is None:
            total = x if residual is None else x + residual
        else:
            total = (
                x.mul(mask).mul_(ctx.scale) if residual is None else torch.addcmul(residual, x, mask, value=ctx.scale)
            )
        out, mean, rstd = torch.native_layer_norm(total, weight.shape, weight, bias, eps)
        ctx.save_for_backward(total.to(dtype) if half else total, mean, rstd, weight, bias, mask)
        return out.to(dtype) if half else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total, mean, rstd, weight, bias, mask = ctx.saved_tensors
        need_x, need_residual, need_weight, need_bias, need_x_bias = ctx.needs_input_grad[:5]
        dtype = grad.dtype
        if dtype in HALF:
            grad, total = grad.float(), total.float()
        d_total, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(),
            total,
            weight.shape,
            mean,
            rstd,
            weight,
            bias,
            [need_x or need_residual or need_x_bias, need_weight, need_bias],
        )
        d_x = d_x_bias = None
        if need_x or need_x_bias:
            d_x = d_total if mask is None else d_total.mul(mask).mul_(ctx.scale)
        if need_x_bias and d_x is not None:
            d_x_bias = d_x.sum(0).to(ctx.x_bias_dtype)
        d_x = d_x.to(dtype) if need_x and d_x is not None else None
        d_residual = d_total.to(dtype) if need_residual else None
        return d_x, d_residual, d_weight, d_bias, d_x_bias, None, None, None, None


def dropout_residual_layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    p: float = 0.0,
    seed: int | Tensor | None = None,
    site: int = 0,
    x_bias: Tensor | None = None,
) -> Tensor:
    """`LayerNorm(dropout(x) + residual)` over the last dimension.

    Args:
        x: [T, H], a sub-layer's output.
        residual: [T, H], the sub-layer's input; None adds nothing.
        weight: [H].
        bias: [H].
        eps: added to the variance.
        p: dropout probability of `x`; off when `seed` is None.
        seed: see `dropout`.
        site: see `dropout`.
        x_bias: [H], a bias that is already in `x` (detach it where `x` is made). Its value is not read; its gradient,
            the column sum of that of `x`, is computed here in the same pass.

    Returns:
        [T, H] in the dtype of `x`; sum and statistics are fp32 for half-precision input.

    Raises:
        ValueError: shapes differ, or `p` is outside [0, 1).
    """
    vectors = [v for v in (weight, bias, x_bias) if v is not None]
    if any(v.shape != x.shape[-1:] for v in vectors) or (residual is not None and residual.shape != x.shape):
        raise misfit(x=x, residual=residual, weight=weight, bias=bias, x_bias=x_bias)
    if use_triton(x) and weight.shape[0] <= MAX_FUSED_COLUMNS:
        from .fused.norms.layer_norm import layer_norm as fused

        save = needs_gradient(x, residual, weight, bias, x_bias)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        residual = None if residual is None else residual.reshape(rows.shape).contiguous()
        affine = weight.contiguous(), bias.contiguous(), x_bias
        out: Tensor = fused(rows, residual, *affine, seed_tensor(p, seed, x.device), eps, p, site, save)[0]
        return out.view(x.shape)
    apply: Callable[..., Tensor] = _DropoutResidualLayerNorm.apply
    return apply(x, residual, weight, bias, x_bias, eps, p, seed if is_active(p, seed) else None, site)
