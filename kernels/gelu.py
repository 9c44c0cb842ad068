"""Linear layer followed by the exact GELU (arXiv 1606.08415), the first half of a transformer's feed-forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .checks import misfit
from .dispatch import needs_gradient, use_triton
from .dropout import dropout
from .masks import seed_tensor
from .products import linear, linear_of_each, products_in_16_bits

_PIECE = 1 << 18
"""Numbers of 16 bits that oneDNN takes at a time: one compiled size, which stays in the cache."""


class _GeluIn16Bits(torch.autograd.Function):
    """By oneDNN in pieces, 1.8 times torch's own loop forward and 1.4 times backward (Xeon with AMX, 2026-11)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        for part, of_out in zip(_pieces(x), _pieces(out), strict=True):
            torch.ops.aten.gelu.out(part, out=of_out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        d_x = torch.empty_like(x)
        for of_grad, part, of_x in zip(_pieces(grad.contiguous()), _pieces(x), _pieces(d_x), strict=True):
            torch.ops.aten.gelu_backward.grad_input(of_grad, part, grad_input=of_x)
        return d_x


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """The numbers of a contiguous tensor. A smaller last piece is a view that torch does not hand to oneDNN."""
    for part in torch.split(x.view(-1), _PIECE):
        yield part if part.numel() == _PIECE or part.numel() % 2 else part.view(-1, 2).t()


def gelu(x: Tensor) -> Tensor:
    """The exact GELU of a matrix, in place where nothing needs its gradient.

    torch hands a contiguous tensor on a CPU to oneDNN, which compiles and caches a primitive for every new shape.
    Packed batches have a new shape in almost every step; the cached primitives, scattered between large blocks, kept
    the heap from being reused, and a process grew by gigabytes. A transposed view takes torch's own loop; in 16 bits
    that is the slower one, and pieces of one size are handed over.
    """
    if needs_gradient(x):
        if products_in_16_bits(x) and x.is_contiguous():
            in_pieces: Callable[[Tensor], Tensor] = _GeluIn16Bits.apply
            return in_pieces(x)
        return functional.gelu(x.t()).t()
    out: Tensor = torch.ops.aten.gelu_(x.t()).t()
    return out


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`gelu(x @ weight.T + bias)` with the error function, not its tanh approximation.

    Autograd keeps `x`, `weight` and the pre-activation. Without gradients the activation overwrites the
    pre-activation. The Triton path makes the gradient of `bias` in the pass that makes that of the pre-activation.

    Args:
        x: [T, H].
        weight: [F, H].
        bias: [F].

    Returns:
        [T, F].
    """
    return linear_gelu_dropout(x, weight, bias, 0.0, None, 0)


def linear_gelu_dropout(
    x: Tensor, weight: Tensor, bias: Tensor, p: float, seed: int | Tensor | None, site: int
) -> Tensor:
    """`dropout(linear_gelu(x, weight, bias), p, seed=seed, site=site)`."""
    if use_triton(x):
        pre = linear(x, weight, bias.detach())
        # Autocast may have made a type of it that stays in plain torch.
        if use_triton(pre):
            from .fused import gelu as fused

            seeds = seed_tensor(p, seed, pre.device)
            if not needs_gradient(pre, bias):
                fused.gelu_(pre, seeds, site, p)
                return pre
            out: Tensor = fused.gelu(pre, bias if bias.requires_grad else None, seeds, site, p)
            return out
    return dropout(gelu(linear(x, weight, bias)), p, seed=seed, site=site)


def voter_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    p: float = 0.0,
    seed: int | Tensor | None = None,
    site: int = 0,
) -> Tensor:
    """`w2[m] @ dropout(gelu(w1[m] @ x + b1[m])) + b2[m]` for every voter m.

    Narrower voters are padded with zeros to the common width D in `w1` (rows), `b1` and `w2` (columns). Padding
    contributes nothing and receives exactly zero gradient.

    Args:
        x: [K, H].
        w1: [M, D, H].
        b1: [M, D].
        w2: [M, H, D].
        b2: [M, H].
        p: dropout probability of the hidden layer; off when `seed` is None.
        seed: see `dropout`.
        site: see `dropout`.

    Returns:
        [M, K, H].

    Raises:
        ValueError: shapes do not fit together, or `p` is outside [0, 1).
    """
    voters, width, size = w1.shape
    if (
        x.shape[-1] != size
        or b1.shape != (voters, width)
        or w2.shape[::2] != (voters, width)
        or (b2.shape != w2.shape[:2])
    ):
        raise misfit(x=x, w1=w1, b1=b1, w2=w2, b2=b2)
    hidden = linear_gelu_dropout(x, w1.reshape(voters * width, size), b1.reshape(-1), p, seed, site)
    per_voter = hidden.view(x.shape[0], voters, width).transpose(0, 1)
    return linear_of_each(per_voter, w2, b2)
