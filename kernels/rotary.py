"""Rotary positions (arXiv 2104.09864) as Hugging Face lays them out: element i of a head turns with element i + d/2."""

from __future__ import annotations

import torch
from torch import Tensor

from .layer_norm import HALF


def rotary_table(positions: Tensor, size: int, base: float) -> Tensor:
    """Cosines and sines of the angles `position * base ** (-2i / size)`, in the rounding of transformers.

    Args:
        positions: [T], of each token in its own sequence.
        size: d, of a head; even.
        base: theta, 10,000 in the paper.

    Returns:
        fp32 [T, size]: the cosines of the size / 2 angles, then their sines.

    Raises:
        ValueError: `size` is odd.
    """
    if size % 2:
        raise ValueError(f"rotary positions turn pairs of elements, got heads of size {size}")
    powers = torch.arange(0, size, 2, dtype=torch.float, device=positions.device) / size
    angles = positions[:, None].float() * (1.0 / (base**powers))
    return torch.cat((angles.cos(), angles.sin()), 1)


def rotate(x: Tensor, rows: Tensor) -> Tensor:
    """`x` [..., d] turned by the angles of `rows`, which broadcast to it; computed in fp32, in the dtype of `x`."""
    first, second = (half.float() if half.dtype in HALF else half for half in x.chunk(2, -1))
    cos, sin = rows.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def rotate_(x: Tensor, rows: Tensor, *, back: bool = False) -> None:
    """The same in the memory of `x`; `back` by the opposite angles, which is how a gradient goes."""
    cos, sin = rows.chunk(2, -1)
    if back:
        sin = -sin
    halves = x.chunk(2, -1)
    first, second = (half.float() if half.dtype in HALF else half for half in halves)
    turned = first * sin
    first.mul_(cos).addcmul_(second, sin.to(second.dtype), value=-1)
    second.mul_(cos).add_(turned)
    if x.dtype in HALF:
        halves[0].copy_(first)
        halves[1].copy_(second)
