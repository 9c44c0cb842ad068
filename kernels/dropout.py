"""Dropout whose mask is a function of (seed, site), so that a step can be replayed without random state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_LEVELS = 1 << 16
_MASK64 = (1 << 64) - 1


def mix(seed: int | Tensor, site: int) -> int:
    """A 64-bit generator seed from `seed` and `site` (the finaliser of splitmix64)."""
    z = (int(seed) * 0x9E3779B97F4A7C15 + (site + 1) * 0xD1B54A32D192ED03) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def check_probability(p: float) -> None:
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout probability must be in [0, 1), got {p}")


def is_active(p: float, seed: int | Tensor | None) -> bool:
    """Whether dropout changes anything; checks `p`."""
    check_probability(p)
    return seed is not None and _kept_levels(p) < _LEVELS


def _kept_levels(p: float) -> int:
    return max(1, round((1.0 - p) * _LEVELS))


def keep_scale(p: float) -> float:
    """The factor of a kept element: one over the keep rate of `keep_mask`, so the expectation is exact."""
    return _LEVELS / _kept_levels(p)


def keep_mask(numel: int, p: float, seed: int | Tensor, site: int, device: torch.device) -> Tensor:
    """A flat uint8 mask, 1 where an element is kept.

    The keep rate is `1 - p` rounded to a multiple of 2**-16: 16 random bits for each element, which costs a seventh of
    `bernoulli_` on a CPU. uint8 instead of bool because torch multiplies by it several times faster.
    """
    generator = torch.Generator(device).manual_seed(mix(seed, site))
    words = torch.empty((numel + 3) // 4, dtype=torch.int64, device=device)
    words.random_(-(1 << 63), None, generator=generator)
    bits = words.view(torch.int16)[:numel]
    mask = torch.empty(numel, dtype=torch.uint8, device=device)
    kept = _kept_levels(p)
    if kept == _LEVELS:
        return mask.fill_(1)
    return torch.lt(bits, kept - _LEVELS // 2, out=mask)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int | Tensor, site: int) -> Tensor:
        mask = keep_mask(x.numel(), p, seed, site, x.device).view(x.shape)
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
        seed: int or int64 device scalar; None returns `x` itself.
        site: tells the dropout positions of a network apart.

    Raises:
        ValueError: `p` is outside [0, 1).
    """
    if seed is None or not is_active(p, seed):
        check_probability(p)
        return x
    apply: Callable[..., Tensor] = _Dropout.apply
    return apply(x, p, seed, site)
