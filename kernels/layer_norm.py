"""The sum that a sub-layer leaves and its norm, in one autograd node.

LayerNorm(dropout(x) + residual) is the post-norm step of BERT (arXiv 1810.04805). The node also computes the gradient
of a bias that was added to `x` before: it is the column sum of the gradient of `x`, which backward has at hand.

Encoders that normalise what goes into a sub-layer use both results: the sum goes on to the next residual, so that one
backward node adds its gradient to that of the norm. The norm is LayerNorm with or without a bias (ModernBERT), or RMS
norm (arXiv 1910.07467; EuroBERT).
"""

from __future__ import annotations

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


class _Norm(torch.autograd.Function):
    """Saves the sum, its statistics (the mean of an RMS norm is 0) and one byte of mask for each element.

    Returns the norm, or with `both` the sum and the norm.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        x_bias: Tensor | None,
        eps: float,
        p: float,
        seed: int | Tensor | None,
        site: int,
        rms: bool,
        both: bool,
    ) -> tuple[Tensor, Tensor] | Tensor:
        wide, added, scale, shift = (_arithmetic(t, x) for t in (x, residual, weight, bias))
        mask = None if seed is None else keep_mask(x.shape[0], x.shape[1], p, seed, site, x.device)
        ctx.scale, ctx.rms = keep_scale(p), rms
        if mask is not None:
            alone = added is None
            wide = wide.mul(mask).mul_(ctx.scale) if alone else torch.addcmul(added, wide, mask, value=ctx.scale)
        elif added is not None:
            wide = wide + added
        total = wide.to(x.dtype)
        ctx.dtypes = [None if t is None else t.dtype for t in (x, residual, weight, bias, x_bias)]
        if rms:
            size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
            rstd = size.square_().div_(wide.shape[-1]).add_(eps).rsqrt_()
            mean, out = torch.zeros_like(rstd), wide.mul(rstd).mul_(scale)
        else:
            out, mean, rstd = torch.native_layer_norm(wide, weight.shape, scale, shift, eps)
        ctx.save_for_backward(total, mean, rstd, weight, bias, mask)
        ctx.set_materialize_grads(False)
        out = out.to(x.dtype)
        return (total, out) if both else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, mean, rstd, weight, bias, mask = ctx.saved_tensors
        needs = need_x, need_residual, need_weight, need_bias, need_x_bias = ctx.needs_input_grad[:5]
        beside, grad = grads if len(grads) == 2 else (None, grads[0])
        d_total, d_weight, d_bias = beside, None, None
        if grad is not None:
            wide, up, scale, shift = (_arithmetic(t, total) for t in (total, grad, weight, bias))
            d_total, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
                up.contiguous(),
                wide,
                weight.shape,
                mean,
                rstd,
                scale,
                shift,
                [need_x or need_residual or need_x_bias, need_weight, need_bias],
            )
            if ctx.rms and d_total is not None:
                # LayerNorm's gradient has no part along the mean, which RMS norm does not take away.
                d_total += rstd * (up @ scale / wide.shape[-1]).unsqueeze(-1)
            if d_total is not None and beside is not None:
                d_total += beside
        d_x, d_x_bias = d_total, None
        if d_total is not None and mask is not None and (need_x or need_x_bias):
            d_x = d_total.mul(mask).mul_(ctx.scale)
        if d_x is not None and need_x_bias:
            d_x_bias = d_x.sum(0)
        made = zip((d_x, d_total, d_weight, d_bias, d_x_bias), needs, ctx.dtypes, strict=True)
        return *(g.to(dtype) if g is not None and need else None for g, need, dtype in made), *(None,) * 6


def _arithmetic(x: Any, like: Tensor) -> Any:
    """A tensor as it is computed with beside `like`; None stays None."""
    return None if x is None else x.float() if like.dtype in HALF else x.to(like.dtype)


def _norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    x_bias: Tensor | None,
    eps: float,
    p: float,
    seed: int | Tensor | None,
    site: int,
    rms: bool,
    both: bool,
) -> Any:
    """The norm, or with `both` the sum and the norm, by kernels or in plain torch."""
    vectors = [v for v in (weight, bias, x_bias) if v is not None]
    if any(v.shape != x.shape[-1:] for v in vectors) or (residual is not None and residual.shape != x.shape):
        raise misfit(x=x, residual=residual, weight=weight, bias=bias, x_bias=x_bias)
    if not (use_triton(x) and weight.shape[0] <= MAX_FUSED_COLUMNS):
        seed = seed if is_active(p, seed) else None
        return _Norm.apply(x, residual, weight, bias, x_bias, eps, p, seed, site, rms, both)  # type: ignore[no-untyped-call]
    from .fused.norms.layer_norm import residual_norm as fused

    save = needs_gradient(x, residual, weight, bias, x_bias)
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    residual = None if residual is None else residual.reshape(rows.shape).contiguous()
    affine = weight.contiguous(), None if bias is None else bias.contiguous(), x_bias
    seeds = seed_tensor(p, seed, x.device)
    out, total, *_ = fused(rows, residual, *affine, seeds, eps, p, site, rms, both, save)
    return (total.view(x.shape), out.view(x.shape)) if both else out.view(x.shape)


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
    normed: Tensor = _norm(x, residual, weight, bias, x_bias, eps, p, seed, site, False, False)
    return normed


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
    if rms and bias is not None:
        raise ValueError("an RMS norm has no bias")
    result = _norm(x, residual, weight, bias, None, eps, 0.0, None, 0, rms, residual is not None)
    return (x, result) if residual is None else result
