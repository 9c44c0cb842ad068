"""`kernels.soft_label_loss` and `kernels.voter_cross_entropy`: two launches forward, one backward.

Forward: a block of items holds the teacher in registers while the voters pass by; each voter's softmax is reduced to
the items' losses at once. Up to 1,024 programs leave their sums in fixed slots and a second, tiny launch adds them in
order, which depends on the sizes alone: equal inputs give equal bits. Items that fill one block, and losses of each
item, take one launch. By estimate the second costs 2 us in a graph, where one program that walks over 4,096 items alone
takes 10 to 25 us; the last program to arrive could add them up and save 1 us more, for a counter that has to be
zero again before the next launch, on any stream.

Backward recomputes the softmaxes instead of storing them, reads the upstream gradient on the device and writes the
gradient once.

Any number of voters; up to 1,024 classes, which lie in one tile: above, the reference runs. A class that does not exist
and is not `ignore_index` gives a loss that is not a number, where the reference raises.

Bytes moved, the floor: forward `M K C` logits and `K C` teacher read; backward reads the same and writes `M K C`. At
the usual sizes (4,096 items, 4 voters, 9 classes: 0.6 MB) a launch takes longer than the bytes.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import soft_label_loss_kernels as kernels
from .launch import cdiv, launch
from .votes import launch_options

_REDUCTIONS = {"none": kernels.NONE, "sum": kernels.SUM, "mean": kernels.MEAN}
_MAX_PROGRAMS = 1024


@torch.library.custom_op("xlt::soft_label_loss", mutates_args=())
def soft_label_loss(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    soft: bool,
    reduction: str,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """`kernels.soft_label_loss` for contiguous tensors, or without `soft` `kernels.voter_cross_entropy`.

    `logits` [M, K, C]; `target` [K, C], or [K] classes; `weights` [K]. `divisor` [1] is what "mean" divided by, else
    empty.
    """
    voters, items, classes = logits.shape
    loss, divisor = _outputs(logits, reduction)
    options = launch_options(classes, voters)
    programs = cdiv(items, options["ITEMS"])
    partial = None
    if reduction != "none":
        programs = min(max(1, programs), _MAX_PROGRAMS)
        partial = loss.new_empty((2, programs)) if programs > 1 else None
    reduced = _REDUCTIONS[reduction].value
    launch(
        kernels.forward_kernel,
        (programs,),
        (logits, target, weights, loss, divisor, partial),
        (items, ignore_index),
        SOFT=soft,
        REDUCTION=reduced,
        **options,
    )
    if partial is not None:
        outputs = partial, loss, divisor
        launch(kernels.finish_kernel, (1,), outputs, (programs,), PARTS=_MAX_PROGRAMS, REDUCTION=reduced)
    return loss, divisor


def _outputs(logits: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty(logits.shape[1:2] if reduction == "none" else (), dtype=torch.float32)
    return loss, loss.new_empty((1 if reduction == "mean" else 0,))


soft_label_loss.register_fake(lambda logits, *options: _outputs(logits, options[-2]))


@torch.library.custom_op("xlt::soft_label_loss_backward", mutates_args=())
def soft_label_loss_backward(
    upstream: Tensor,
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None,
    divisor: Tensor,
    soft: bool,
    ignore_index: int,
) -> Tensor:
    """The gradient of `logits`; `upstream` is a scalar, or [K] with any stride."""
    voters, items, classes = logits.shape
    gradient = torch.empty_like(logits)
    options = launch_options(classes, voters)
    launch(
        kernels.backward_kernel,
        (cdiv(items, options["ITEMS"]),),
        (upstream, logits, target, weights, divisor if divisor.numel() else None, gradient),
        (upstream.stride(0) if upstream.dim() else 0, items, ignore_index),
        SOFT=soft,
        **options,
    )
    return gradient


soft_label_loss_backward.register_fake(lambda upstream, logits, *_: torch.empty_like(logits))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, target, weights, soft, _, ignore_index = inputs
    ctx.save_for_backward(logits, target, weights, output[1])
    ctx.options = soft, ignore_index
    # The divisor has no gradient, and zeros made for it would be a launch.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return (soft_label_loss_backward(upstream, *ctx.saved_tensors, *ctx.options), *(5 * [None]))


soft_label_loss.register_autograd(_backward, setup_context=_setup_context)
