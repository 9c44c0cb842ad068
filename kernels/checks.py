"""What several operations share: checks of their arguments, and the reduction of a loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

REDUCTIONS = ("sum", "mean", "none")


def check_option(name: str, value: str, known: Sequence[str]) -> None:
    """Raises ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless `temperature` is positive and finite."""
    if not (temperature > 0.0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive, got {temperature}")


def misfit(**tensors: Tensor | None) -> ValueError:
    """The error of arguments whose shapes do not fit together, with all their shapes."""
    shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items() if t is not None)
    return ValueError(f"{shapes} do not fit together")


def check_buffer(name: str, buffer: Tensor | None, of: Tensor) -> None:
    """Raises ValueError unless the gradient of `of` can be added to `buffer` in place, which None asks nobody to."""
    if buffer is None:
        return
    if buffer.shape != of.shape or not buffer.is_contiguous() or buffer.device != of.device:
        raise ValueError(
            f"{name} must be contiguous, {tuple(of.shape)} on {of.device}; got {tuple(buffer.shape)} on "
            f"{buffer.device} with strides {buffer.stride()}"
        )
    if buffer.dtype not in (torch.float32, of.dtype) or buffer.requires_grad:
        raise ValueError(f"{name} must be float32 or {of.dtype}, without gradient; got {buffer.dtype}")


def reduce_loss(per_item: Tensor, weights: Tensor | None, valid: Tensor | None, reduction: str) -> Tensor:
    """Losses [K], 0 where not `valid`, times `weights`: their sum, their mean over the valid, or "none"."""
    if weights is not None:
        weights = weights.detach().to(per_item.dtype)
        per_item = per_item * weights
    if reduction == "none":
        return per_item
    total = per_item.sum()
    if reduction == "sum":
        return total
    counted = torch.ones_like(per_item) if weights is None else weights
    if valid is not None:
        counted = counted * valid
    mass = counted.sum()
    return total / torch.where(mass == 0, 1.0, mass)
