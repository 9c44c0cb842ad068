"""Gated linear layer, the first half of the feed-forward part of ModernBERT (GeGLU) and EuroBERT (SwiGLU).

arXiv 2002.05202.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .checks import check_option, misfit
from .dispatch import needs_gradient, use_triton
from .products import linear

ACTIVATIONS = ("gelu", "silu")


class _Gated(torch.autograd.Function):
    """Keeps both halves of the product and makes the activation again, which autograd would keep beside them.

    The halves are views with the stride of both, which torch computes in a loop of its own: for contiguous ones it
    would ask oneDNN, which keeps a primitive for every new shape (see `gelu.py`).
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, activation: str) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(both)
        activated, gate = both.chunk(2, -1)
        return _activate(activated, torch.empty_like(gate), activation).mul_(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (both,) = ctx.saved_tensors
        activated, gate = both.chunk(2, -1)
        d_both = torch.empty_like(both)
        d_activated, d_gate = d_both.chunk(2, -1)
        _activate(activated, d_gate, ctx.activation).mul_(grad)
        torch.mul(grad, gate, out=d_activated)
        slope: Any = torch.ops.aten.gelu_backward if ctx.activation == "gelu" else torch.ops.aten.silu_backward
        slope.grad_input(d_activated, activated, grad_input=d_activated)
        return d_both, None


def _activate(x: Tensor, out: Tensor, activation: str) -> Tensor:
    function: Any = torch.ops.aten.gelu if activation == "gelu" else torch.ops.aten.silu
    result: Tensor = function.out(x, out=out)
    return result


def linear_glu(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """`act(a) * b`, where `a` and `b` are the two halves of the columns of `x @ weight.T + bias`.

    Autograd keeps `x`, `weight` and the product. Without gradients plain torch writes over the product, and the Triton
    path makes the gradient of `bias` in the pass that makes that of the product.

    Args:
        x: [T, H].
        weight: [2F, H]: what the activation is applied to, above the gate.
        bias: [2F] or None.
        activation: "gelu" with the error function, or "silu".

    Returns:
        [T, F]; in plain torch its rows may be 2F apart.

    Raises:
        ValueError: an unknown activation, or shapes that do not fit together.
    """
    check_option("activation", activation, ACTIVATIONS)
    if weight.shape[0] % 2 or weight.shape[1] != x.shape[-1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise misfit(x=x, weight=weight, bias=bias)
    if use_triton(x):
        both = linear(x, weight, None if bias is None else bias.detach())
        # Autocast may have made a type of it that stays in plain torch.
        if use_triton(both):
            from .fused.glu import glu as fused

            trained = bias if bias is not None and bias.requires_grad else None
            out: Tensor = fused(both, trained, activation)
            return out
    both = linear(x, weight, bias)
    if needs_gradient(both):
        apply: Callable[..., Tensor] = _Gated.apply
        return apply(both, activation)
    activated, gate = both.chunk(2, -1)
    if torch.compiler.is_exporting():  # a graph without writes to parts of a tensor
        plain: Tensor = (functional.gelu if activation == "gelu" else functional.silu)(activated)
        return plain * gate
    return _activate(activated, activated, activation).mul_(gate)
