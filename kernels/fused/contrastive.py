"""`kernels.supervised_contrastive`: a matrix product, and programs that walk the rows of a few items each.

Forward: the products of the features among each other, [N, N] in fp32, are made by one matrix product of the features
as they are: 16-bit values have exact products, and the diagonal holds the lengths, so that normalised features exist
nowhere. One launch walks the rows, with a running maximum and sum, and a tiny one adds up the items in a fixed order.

Backward: the gradient of every item is a mixture of the features; one launch writes the mixtures, [N, N] in fp32, the
part along the item's own features on the diagonal, and one matrix product in fp32 makes the gradient. Where features
are nearly alike, as those of an encoder at the start are, the mixtures nearly cancel, which 16 bits would not survive.

Any N and H. Rows are walked in tiles of 4 x 128; each tile reads the lengths of its columns from the diagonal, a cache
line each, so that large N would want them in a vector. Batches have 16 to some hundred items.

Bytes moved, the floor: forward `N H` features read, `4 N^2` written and read; backward `4 N^2` read, written and read,
`N H` read and written. At 16 to 64 items (0.1 MB) launches take longer than the bytes.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import contrastive_kernels as kernels
from .launch import cdiv, on_device
from .products import product_into

_REDUCTIONS = {"none": kernels.NONE, "sum": kernels.SUM, "mean": kernels.MEAN}
# By reasoning: 4 values a thread, and 4 to 64 programs for a batch of 16 to 256 items.
_ROWS, _COLUMNS = 4, 128
_ITEMS = 256
_WARPS = 4

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op(
    "xlt::supervised_contrastive",
    mutates_args=(),
    schema="(Tensor features, Tensor labels, Tensor? weights, float temperature, int ignore_index, str reduction) -> "
    "(Tensor loss, Tensor gram, Tensor spread, Tensor number, Tensor divisor)",
)
def supervised_contrastive(
    features: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    temperature: float,
    ignore_index: int,
    reduction: str,
) -> Outputs:
    """`kernels.supervised_contrastive` for contiguous tensors; what follows the loss is for the backward pass.

    `gram` [N, N], the products of the features; `spread` [N], the logarithms of the sums; `number` [N] int32, others of
    the same class; `divisor` [1], what "mean" divided by, else empty.
    """
    size = features.shape[0]
    outputs = _outputs(features, reduction)
    loss, gram, spread, number, divisor = outputs
    items = loss if reduction == "none" else torch.empty_like(spread)
    with on_device(features):
        if size:
            product_into(gram, features, features.t())
            kernels.forward_kernel[(cdiv(size, _ROWS),)](
                *(gram, labels, weights, items, spread, number, size, ignore_index, 1.0 / temperature),
                ROWS=_ROWS,
                COLUMNS=_COLUMNS,
                num_warps=_WARPS,
            )
        if reduction != "none":
            kernels.finish_kernel[(1,)](
                *(items, number, weights, loss, divisor, size),
                ITEMS=_ITEMS,
                REDUCTION=_REDUCTIONS[reduction].value,
                num_warps=_WARPS,
            )
    return outputs


def _outputs(features: Tensor, reduction: str) -> Outputs:
    size = features.shape[0]
    spread = features.new_empty((size,), dtype=torch.float32)
    return (
        spread.new_empty((size,) if reduction == "none" else ()),
        spread.new_empty((size, size)),
        spread,
        spread.new_empty((size,), dtype=torch.int32),
        spread.new_empty((1 if reduction == "mean" else 0,)),
    )


@supervised_contrastive.register_fake
def _(
    features: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    temperature: float,
    ignore_index: int,
    reduction: str,
) -> Outputs:
    return _outputs(features, reduction)


@torch.library.custom_op(
    "xlt::supervised_contrastive_backward",
    mutates_args=(),
    schema="(Tensor upstream, Tensor features, Tensor labels, Tensor? weights, Tensor gram, Tensor spread, "
    "Tensor number, Tensor divisor, float temperature, int ignore_index) -> Tensor",
)
def supervised_contrastive_backward(
    upstream: Tensor,
    features: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    gram: Tensor,
    spread: Tensor,
    number: Tensor,
    divisor: Tensor,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    """The gradient of `features`; `upstream` is a scalar, or [N] with any stride."""
    size = features.shape[0]
    if not size:
        return torch.empty_like(features)
    mixture = torch.empty_like(gram)
    with on_device(features):
        kernels.backward_kernel[(cdiv(size, _ROWS),)](
            *(upstream, gram, labels, weights, spread, number, divisor if divisor.numel() else None, mixture),
            *(upstream.stride(0) if upstream.dim() else 0, size, ignore_index, 1.0 / temperature),
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            num_warps=_WARPS,
        )
        gradient = features.new_empty(features.shape, dtype=torch.float32)
        product_into(gradient, mixture, features.float())
    return gradient.to(features.dtype)


@supervised_contrastive_backward.register_fake
def _(
    upstream: Tensor,
    features: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    gram: Tensor,
    spread: Tensor,
    number: Tensor,
    divisor: Tensor,
    temperature: float,
    ignore_index: int,
) -> Tensor:
    return torch.empty_like(features)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    features, labels, weights, temperature, ignore_index, _ = inputs
    _, gram, spread, number, divisor = output
    ctx.save_for_backward(features, labels, weights, gram, spread, number, divisor)
    ctx.options = (temperature, ignore_index)
    # What is for the backward pass has no gradient, and zeros made for it would be launches.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (supervised_contrastive_backward(upstream, *ctx.saved_tensors, *ctx.options), *(5 * [None]))


supervised_contrastive.register_autograd(_backward, setup_context=_setup_context)
