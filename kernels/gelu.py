"""Linear layer followed by the exact GELU (arXiv 1606.08415), the first half of a transformer's feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
    hidden = functional.linear(x, weight, bias)
    if hidden.requires_grad:
        return functional.gelu(hidden)
    out: Tensor = torch.ops.aten.gelu_(hidden)
    return out
