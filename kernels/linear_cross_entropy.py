"""Cross entropy of a linear layer over a large vocabulary, without the [N, V] logits.

The Triton kernels are in `fused/linear_cross_entropy.py`. Here is the reference, which is also what runs on CPUs: rows
are taken in chunks. Each chunk's logits are turned in place into their gradient, from which the gradients of the
hidden rows and of the matrix follow at once, in the forward pass; backward only multiplies by the upstream gradient.
For one chunk of n rows: logits (n, V), then softmax - onehot in the same memory, then (n, H) and, unless the matrix is
frozen, one accumulation into (V, H). A frozen matrix costs 4NVH operations instead of 6NVH.

Where both operands have 16 bits and the processor multiplies such (`products_in_16_bits`), so do the three products;
logits and their gradients are then rounded to 16 bits once, and softmax, loss and all sums are fp32, a few rows at a
time, which stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checks import REDUCTIONS, check_buffer, check_option, misfit, reduce_loss
from .dispatch import needs_gradient, use_triton
from .products import add_product, by_onednn, product, products_in_16_bits, products_path, with_few_sizes

_CHUNK_ELEMENTS = 16 << 20
_MIN_ROWS = 16
_TILE_ELEMENTS = {"cpu": 1 << 20}
_TILE_ELEMENTS_ELSEWHERE = 32 << 20
_BLOCK_ELEMENTS = 1 << 19

_Needs = tuple[bool, bool, bool]


class _Problem(NamedTuple):
    """The rows that count: `rows` are their positions, None for all; `scale` multiplies each row's loss."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    scale: Tensor | None
    rows: Tensor | None


class _Gradients(NamedTuple):
    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def _arithmetic(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    """Equal chunks of at most 64 MB of fp32 logits, or of 16 rows where that is more."""
    if rows == 0:
        return
    most = max(_MIN_ROWS, _CHUNK_ELEMENTS // max(vocabulary, 1))
    count = -(-rows // most)
    size = -(-rows // count)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _tiles(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """`weight` in arithmetic precision, a slice of the vocabulary at a time.

    On a CPU the slices fit into the cache, which makes the product of few rows with a large matrix 1.5 times faster.
    """
    vocabulary, size = weight.shape
    step = max(1, _TILE_ELEMENTS.get(weight.device.type, _TILE_ELEMENTS_ELSEWHERE) // max(size, 1))
    for start in range(0, vocabulary, step):
        span = slice(start, min(start + step, vocabulary))
        yield span, weight[span].to(dtype)


def _logits(hidden: Tensor, weight: Tensor, out: Tensor, onednn: bool) -> Tensor:
    if onednn:
        return product(hidden, weight.t(), onednn=True)
    for span, tile in _tiles(weight, out.dtype):
        torch.mm(hidden, tile.t(), out=out[:, span])
    return out


def _d_hidden(d_logits: Tensor, weight: Tensor, out: Tensor, onednn: bool) -> None:
    if onednn:
        out.copy_(product(d_logits, weight, onednn=True)[: len(out)])
        return
    if weight.dtype == out.dtype:
        torch.mm(d_logits, weight, out=out)
        return
    for span, tile in _tiles(weight, out.dtype):
        out.addmm_(d_logits[:, span], tile)


def _blocks(logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows in arithmetic precision: all of them at once, or where they have 16 bits copies of a few."""
    rows, vocabulary = logits.shape
    dtype = _arithmetic(logits.dtype)
    step = max(1, rows if dtype == logits.dtype else _BLOCK_ELEMENTS // max(vocabulary, 1))
    for start in range(0, rows, step):
        span = slice(start, min(start + step, rows))
        yield span, logits[span].to(dtype)


def _loss_in_place(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each row, and the sum of each row of `logits`, which becomes exp(logits - maximum)."""
    picked = logits.gather(1, target[:, None]).squeeze(1)
    largest = logits.amax(1)
    total = logits.sub_(largest[:, None]).exp_().sum(1)
    return total.log() + largest - picked, total


def _loss_and_gradient(
    logits: Tensor, bias: Tensor | None, target: Tensor, scale: Tensor | None, d_bias: Tensor | None, gradient: bool
) -> Tensor:
    """The loss of each row; `logits` become their gradient, whose sum is added to `d_bias`."""
    losses = []
    for span, block in _blocks(logits):
        if bias is not None:
            block += bias
        loss, total = _loss_in_place(block, target[span])
        losses.append(loss)
        if not gradient:
            continue
        factor = torch.ones_like(total) if scale is None else scale[span]
        block.mul_((factor / total)[:, None])
        block.scatter_add_(1, target[span, None], -factor[:, None])
        if d_bias is not None:
            d_bias += block.sum(0)
        if block.dtype != logits.dtype:
            logits[span] = block
    return torch.cat(losses)


def _solve(problem: _Problem, need: _Needs) -> tuple[Tensor, _Gradients]:
    """Unscaled losses of the rows that count, and the gradients of `sum(scale * loss)` that are needed."""
    dtype = _arithmetic(problem.hidden.dtype)
    short = problem.hidden.dtype == problem.weight.dtype and products_in_16_bits(problem.hidden)
    operand = problem.hidden.dtype if short else dtype
    vocabulary = problem.weight.shape[0]
    rows = problem.target.shape[0]
    spans = list(_chunks(rows, vocabulary))
    hidden = problem.hidden if problem.rows is None else problem.hidden.index_select(0, problem.rows)
    bias = None if problem.bias is None else problem.bias.to(dtype)
    loss = hidden.new_zeros(rows, dtype=dtype)
    d_hidden = torch.zeros_like(hidden, dtype=operand) if need[0] else None
    d_weight = torch.zeros_like(problem.weight, dtype=dtype) if need[1] and len(spans) != 1 else None
    d_bias = hidden.new_zeros(vocabulary, dtype=dtype) if need[2] else None
    buffer = hidden.new_empty((spans[0].stop if spans else 0, vocabulary), dtype=operand)
    for span in spans:
        part = hidden[span].to(operand)
        count, onednn = part.shape[0], by_onednn(part, problem.weight)
        part = with_few_sizes(part) if onednn else part
        every = _logits(part, problem.weight, buffer[:count], onednn)
        scale = None if problem.scale is None else problem.scale[span]
        loss[span] = _loss_and_gradient(every[:count], bias, problem.target[span], scale, d_bias, any(need))
        if d_hidden is not None:
            _d_hidden(every, problem.weight, d_hidden[span], onednn)
        onednn = onednn and products_path().of_weights
        if d_weight is not None:
            add_product(d_weight, every.t(), part, onednn=onednn)
        elif need[1]:
            d_weight = product(every.t(), part, onednn=onednn)
    return loss, _Gradients(d_hidden, d_weight, d_bias)


def _spread(values: Tensor, rows: Tensor | None, length: int) -> Tensor:
    """Put the rows that count back among zeros."""
    if rows is None:
        return values
    return values.new_zeros((length, *values.shape[1:])).index_copy_(0, rows, values)


class _LinearCrossEntropy(torch.autograd.Function):
    """Products are written in place or with `out`, which autocast leaves in their precision."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        scale: Tensor | None,
        rows: Tensor | None,
        per_row: bool,
        needs: _Needs,
        weight_grad: Tensor | None,
    ) -> Tensor:
        ctx.per_row, ctx.weight_grad = per_row, weight_grad
        ctx.length = hidden.shape[0]
        ctx.needs = needs
        problem = _Problem(hidden, weight, bias, target, scale, rows)
        later = per_row and (needs[1] or needs[2])
        loss, gradients = _solve(problem, (False, False, False) if later else needs)
        ctx.gradients = None if later else gradients
        ctx.save_for_backward(hidden, weight, bias, target, scale, rows)
        if scale is not None:
            loss = loss * scale
        return _spread(loss, rows, ctx.length) if per_row else loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        problem = _Problem(*ctx.saved_tensors)
        gradients, ctx.gradients = ctx.gradients, None
        if ctx.per_row:
            d_hidden, d_weight, d_bias = _scale_rows(problem, gradients, grad, ctx.needs)
        else:
            if gradients is None:  # a second backward: the first one scaled and gave away what forward had made
                gradients = _solve(problem, ctx.needs)[1]
            d_hidden, d_weight, d_bias = (None if g is None else g.mul_(grad) for g in gradients)
        if d_hidden is not None:
            d_hidden = _spread(d_hidden.to(problem.hidden.dtype), problem.rows, ctx.length)
        if d_weight is not None:
            if ctx.weight_grad is None:
                d_weight = d_weight.to(problem.weight.dtype)
            else:
                ctx.weight_grad.add_(d_weight)
                d_weight = None
        if d_bias is not None and problem.bias is not None:
            d_bias = d_bias.to(problem.bias.dtype)
        return d_hidden, d_weight, d_bias, None, None, None, None, None, None


def _scale_rows(problem: _Problem, gradients: _Gradients | None, grad: Tensor, needs: _Needs) -> _Gradients:
    """Gradients for an upstream gradient of each row; the matrix's, a sum over rows, has to be made with it."""
    upstream = grad if problem.rows is None else grad.index_select(0, problem.rows)
    if gradients is not None and gradients.hidden is not None:
        return _Gradients(gradients.hidden.mul_(upstream[:, None]), None, None)
    scale = upstream if problem.scale is None else upstream * problem.scale
    return _solve(problem._replace(scale=scale), needs)[1]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "sum",
    mode: str = "auto",
    weight_grad: Tensor | None = None,
) -> Tensor:
    """`cross_entropy(hidden @ weight.T + bias, target)`, exactly, in memory that does not grow with N x V.

    Logits, softmax and loss are fp32 (fp64 for fp64 input), gradients are accumulated in it and rounded once. Tensors
    that need no gradient cause no work for one: a frozen matrix saves a third of the operations.

    Gather the rows that count before the call. The reference drops ignored rows before any work, which on a device
    waits for the queue; the kernels never wait, and compute ignored rows along with the others, but for a tile (64 to
    256 rows) that has no other.

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V] or None.
        target: [N], classes or `ignore_index`.
        weights: [N], multiplies each row's loss; receives no gradient.
        ignore_index: rows with this target have loss 0 and no gradient, whatever is in them.
        reduction: "sum", "mean" (divided by the number of rows that count, or the sum of their weights; 0 when there
            are none) or "none".
        mode: "store" keeps exponentials of the logits in 16 bits (32 in fp32) for backward, 2NV bytes; "recompute"
            makes them again, a third slower in some 20 MB; "auto" stores up to 512 MiB. fp16 always recomputes. No
            difference in the reference.
        weight_grad: [V, H], fp32 or the dtype of `weight`; the gradient of `weight` is added to it in backward, and
            `weight` itself receives none. For a matrix that is tied to other uses, and for gradient accumulation.

    Returns:
        A scalar, or [N] for "none", in fp32 (fp64 for fp64 input).

    Raises:
        ValueError: an unknown option, or shapes that do not fit together.
        IndexError, RuntimeError: a target is outside [0, V). The kernels give such a row the loss NaN.
    """
    check_option("mode", mode, ("auto", "store", "recompute"))
    check_option("reduction", reduction, REDUCTIONS)
    _check(hidden, weight, bias, target, weights, weight_grad)
    if mode == "store" and hidden.dtype == torch.float16:
        raise ValueError('mode="store" needs the range of bf16 or fp32; fp16 recomputes')
    if use_triton(hidden, _product_dtype(hidden, weight)):
        return _fused(hidden, weight, bias, target, weights, ignore_index, reduction, mode, weight_grad)
    valid = target != ignore_index
    rows = None if bool(valid.all()) else valid.nonzero().squeeze(1)
    counted = target if rows is None else target.index_select(0, rows)
    dtype = _arithmetic(hidden.dtype)
    scale = None
    if weights is not None:
        scale = weights.detach().to(dtype)
        scale = scale if rows is None else scale.index_select(0, rows)
    if reduction == "mean":
        if scale is None:
            scale = torch.full(counted.shape, 1.0 / max(counted.shape[0], 1), dtype=dtype, device=hidden.device)
        else:
            mass = scale.sum()
            scale = scale / torch.where(mass == 0, 1.0, mass)
    needs = [needs_gradient(t) for t in (hidden, weight, bias)]
    needs[1] = needs[1] or (any(needs) and weight_grad is not None)
    apply: Callable[..., Tensor] = _LinearCrossEntropy.apply
    return apply(hidden, weight, bias, counted.long(), scale, rows, reduction == "none", tuple(needs), weight_grad)


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """What the logits' product is computed in: autocast's type where that is on, except for fp64."""
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    device = hidden.device.type
    if dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return dtype


def _fused(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weights: Tensor | None,
    ignore_index: int,
    reduction: str,
    mode: str,
    weight_grad: Tensor | None,
) -> Tensor:
    """The kernels give each row its loss; a handful of [N] operations, differentiated by autograd, do the rest."""
    from .fused.linear_cross_entropy import linear_cross_entropy as fused
    from .fused.linear_cross_entropy import stores

    dtype = _product_dtype(hidden, weight)
    hidden, weight = hidden.to(dtype).contiguous(), weight.to(dtype).contiguous()
    store = needs_gradient(hidden, weight, bias) and stores(hidden.shape[0], weight.shape[0], dtype, mode)
    bias = None if bias is None else bias.contiguous()
    loss: Tensor = fused(hidden, weight, bias, target.long().contiguous(), ignore_index, store, weight_grad)[0]
    return reduce_loss(loss, weights, target != ignore_index, reduction)


def _check(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    weights: Tensor | None,
    weight_grad: Tensor | None,
) -> None:
    rows, vocabulary = hidden.shape[:1], weight.shape[:1]
    if (
        hidden.dim() != 2
        or weight.dim() != 2
        or hidden.shape[1] != weight.shape[1]
        or target.shape != rows
        or (bias is not None and bias.shape != vocabulary)
        or (weights is not None and weights.shape != rows)
    ):
        raise misfit(hidden=hidden, weight=weight, bias=bias, target=target, weights=weights)
    check_buffer("weight_grad", weight_grad, weight)
