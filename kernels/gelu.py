"""Linear layer followed by the exact GELU (arXiv 1606.08415), the first half of a transformer's feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def gelu(x: Tensor) -> Tensor:
    """The exact GELU of a matrix, in place where nothing needs its gradient.

    torch hands a contiguous fp32 tensor on a CPU to oneDNN, which compiles and caches a primitive for every new shape.
    Packed batches have a new shape in almost every step; the cached primitives, scattered between large blocks, kept
    the heap from being reused, and a process grew by gigabytes. A transposed view takes torch's own loop.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return functional.gelu(x.t()).t()
    out: Tensor = torch.ops.aten.gelu_(x.t()).t()
    return out


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`gelu(x @ weight.T + bias)` with the error function, not its tanh approximation.

    Autograd keeps `x`, `weight` and the pre-activation. Without gradients the activation overwrites the
    pre-activation.

    Args:
        x: [T, H].
        weight: [F, H].
        bias: [F].

    Returns:
        [T, F].
    """
    return gelu(functional.linear(x, weight, bias))
