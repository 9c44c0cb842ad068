"""Dropout whose mask is a function of (seed, site, row, column): a step can be replayed without random state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dispatch import use_triton
from .masks import is_active, keep_mask, keep_scale, seed_tensor


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int | Tensor, site: int) -> Tensor:
        columns = x.shape[-1] if x.dim() else 1
        mask = keep_mask(x.numel() // max(columns, 1), columns, p, seed, site, x.device).view(x.shape)
        ctx.save_for_backward(mask)
        ctx.scale = keep_scale(p)
        return x.mul(mask).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (mask,) = ctx.saved_tensors
        return grad.mul(mask).mul_(ctx.scale), None, None, None


def dropout(x: Tensor, p: float, *, seed: int | Tensor | None, site: int = 0) -> Tensor:
    """Zero each element with probability `p` and scale the others by `1 / (1 - p)`.

    Args:
        x: any shape.
        p: in [0, 1); resolved to a multiple of 2**-16.
        seed: int or int64 device scalar; None returns `x` itself. For a part of a larger batch int64 [2] on the device,
            the seed and the number of the part's first row: it drops what the whole would. Otherwise rows count from 0.
        site: tells the dropout positions of a network apart.

    Raises:
        ValueError: `p` is outside [0, 1).
    """
    if not is_active(p, seed):
        return x
    if use_triton(x):
        from .fused.masks import dropout as fused

        columns = x.shape[-1] if x.dim() else 1
        rows = x.reshape(x.numel() // max(columns, 1), columns).contiguous()
        out: Tensor = fused(rows, seed_tensor(p, seed, x.device), site, p)
        return out.view(x.shape)
    apply: Callable[..., Tensor] = _Dropout.apply
    return apply(x, p, seed, site)
