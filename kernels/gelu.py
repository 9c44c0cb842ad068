"""Linear layer followed by the exact GELU (arXiv 1606.08415), the first half of a transformer's feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .dispatch import needs_gradient, use_triton
from .dropout import dropout
from .masks import seed_tensor


def gelu(x: Tensor) -> Tensor:
    """The exact GELU of a matrix, in place where nothing needs its gradient.

    torch hands a contiguous fp32 tensor on a CPU to oneDNN, which compiles and caches a primitive for every new shape.
    Packed batches have a new shape in almost every step; the cached primitives, scattered between large blocks, kept
    the heap from being reused, and a process grew by gigabytes. A transposed view takes torch's own loop.
    """
    if needs_gradient(x):
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
        pre = functional.linear(x, weight, bias.detach())
        # Autocast may have made a type of it that stays in plain torch.
        if use_triton(pre):
            from .fused import gelu as fused

            seeds = seed_tensor(p, seed, pre.device)
            if not needs_gradient(pre, bias):
                fused.gelu_(pre, seeds, site, p)
                return pre
            out: Tensor = fused.gelu(pre, bias if bias.requires_grad else None, seeds, site, p)
            return out
    return dropout(gelu(functional.linear(x, weight, bias)), p, seed=seed, site=site)
