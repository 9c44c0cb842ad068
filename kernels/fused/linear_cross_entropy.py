"""`linear_cross_entropy` on a GPU: a tile kernel with an exponential epilogue, and stock matrix products for gradients.

With z the logits, y a row's target, and the target's own logit r = z_y as the row's reference, known beforehand:

store      E = exp(z - r) is written once in 16 bits, 0 at the target. The row's sum s over the other classes gives the
           loss log1p(s), exact as p_y -> 1, and the target's entry becomes -s = (p_y - 1)(1 + s): softmax - onehot is
           E / (1 + s), never made. With v = upstream / (1 + s): d_hidden = v * (E @ W), d_bias = E.T @ v and
           d_weight = E.T @ (v * hidden). Five launches forward, three and two products backward.
recompute  Forward keeps a maximum and a sum for each row and tile. Backward goes along the vocabulary in chunks that
           fit the L2 cache: a chunk of softmax - onehot, then its products. A row of d_weight is written once.

A row with a class over 30 nats above its target is done again with the largest logit as reference: the second launch
finds flags on the device and otherwise returns at once, so nothing waits for the host, and the result is exact for all
finite logits. Sums are fp32 in a fixed order, without atomics: equal runs are equal to the bit.

fp16 lacks the range of E and recomputes, with probabilities lifted by 2**11 and upstream gradients normalised by a
power of two on the device.

Floors: 4NVH operations with a frozen matrix, 6NVH without (recompute: 2NVH more); the matrix twice from memory.
Workspace: store 2NV bytes (fp32: 4NV); recompute 20 MB, 8NV/256 bytes of partials, and 4NH of fp32 sums.
Measured: not yet on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .launch import cdiv, launch, next_power_of_2, shared_memory
from .linear_cross_entropy_kernels import (
    column_sums_kernel,
    exponentials_kernel,
    probabilities_kernel,
    scale_rows_kernel,
    settle_kernel,
    target_logits_kernel,
)
from .linear_cross_entropy_tiles import FP16_LIFT


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in fp32."""
    if a.dtype == torch.float32:
        return torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))  # without `out` autocast would round to 16 bits
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())


def product_into(out: Tensor, a: Tensor, b: Tensor, scale: Tensor | None = None) -> None:
    """`out[...] = a @ b * scale`, computed in fp32 and rounded once to the dtype of `out`."""
    if scale is not None:
        torch.mul(product(a, b), scale, out=out)
    elif out.dtype == a.dtype and out.is_contiguous():
        torch.mm(a, b, out=out)
    else:
        out.copy_(product(a, b))


def add_product(out: Tensor, a: Tensor, b: Tensor, scale: Tensor | None = None) -> None:
    """`out += a @ b * scale`; the sum is made in fp32 for an fp32 `out`."""
    if scale is not None:
        out.add_(product(a, b).mul_(scale))
    elif out.dtype == a.dtype:
        out.addmm_(a, b)
    elif out.dtype == torch.float32 and a.device.type == "cuda":
        torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
    else:
        out.add_(product(a, b))


STRIDE_MULTIPLE = 256
STORE_BUDGET = 512 << 20
CHUNK_BYTES = 20 << 20
SETTLE_N, SETTLE_T = 16, 64

Write = Callable[..., None]
"""`product_into` or `add_product`: into a new gradient, or added to the caller's."""


class Tile(NamedTuple):
    """Rows, classes and features of a tile, warps, and stages of the software pipeline."""

    n: int
    v: int
    h: int
    warps: int
    stages: int


LIFTED_TILE = Tile(128, 128, 64, 4, 3)


def tile_candidates(dtype: torch.dtype) -> list[Tile]:
    """Tiles from the largest, in order of preference; `benchmarks/gpu_suite.py` measures them."""
    if dtype == torch.float32:
        return [Tile(64, 128, 32, 4, 3), Tile(128, 128, 32, 8, 3), Tile(64, 64, 32, 4, 3)]
    return [
        Tile(128, 256, 64, 8, 3),
        Tile(128, 256, 64, 8, 4),
        Tile(256, 128, 64, 8, 3),
        Tile(64, 256, 64, 4, 4),
        Tile(128, 128, 64, 8, 4),
        Tile(128, 128, 64, 4, 3),
        Tile(128, 128, 32, 4, 3),
    ]


def choose_tile(rows: int, dtype: torch.dtype, limit: int) -> Tile:
    """The first tile whose pipeline fits into `limit` bytes of shared memory; a flat one for few rows.

    By reasoning, not yet by measurement: 128 x 256 has the most work for each byte that a tile loads.
    """
    fitting = [t for t in tile_candidates(dtype) if (t.n + t.v) * t.h * t.stages * dtype.itemsize <= limit]
    if rows <= 64:
        fitting.sort(key=lambda t: t.n > 64)
    return fitting[0] if fitting else tile_candidates(dtype)[-1]


def stores(rows: int, vocabulary: int, dtype: torch.dtype, mode: str) -> bool:
    """Whether the exponentials are kept for backward."""
    if mode != "auto":
        return mode == "store"
    return dtype != torch.float16 and rows * _stride(vocabulary) * dtype.itemsize <= STORE_BUDGET


def _stride(vocabulary: int) -> int:
    return cdiv(vocabulary, STRIDE_MULTIPLE) * STRIDE_MULTIPLE


def _precision() -> str:
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


@torch.library.custom_op("xlt::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    ignore_index: int,
    store: bool,
    weight_grad: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of all rows, and what backward needs.

    Contiguous `hidden` [N, H] and `weight` [V, H] of one dtype, `target` [N] int64. `weight_grad` is for
    backward: a buffer that the gradient of `weight` is added to.

    Returns:
        loss [N] fp32, 0 for ignored rows; target logit [N]; scale [N], the sum of a row's exponentials or, without
        `store`, 1 - p of the target; exponentials [N, stride], empty without `store`.
    """
    (rows, size), vocabulary = hidden.shape, weight.shape[0]
    loss, own, scale, kept = _forward_outputs(hidden, weight, store)
    if rows == 0:
        return loss, own, scale, kept
    tile = choose_tile(rows, hidden.dtype, shared_memory(hidden))
    stride = _stride(vocabulary)
    tiles, settle_blocks = cdiv(stride, tile.v), cdiv(rows, SETTLE_N)
    has_bias = bias is not None
    launch(
        target_logits_kernel, (cdiv(rows, 16),),
        (hidden, weight, bias, target, own), (rows, vocabulary, ignore_index),
        SIZE=size, BLOCK_N=16, BLOCK_H=min(next_power_of_2(size), 128), HAS_BIAS=has_bias,
    )  # fmt: skip
    reference = own.clone() if store else own
    flags = torch.empty(settle_blocks, dtype=torch.int32, device=hidden.device)
    largest, sums = (loss.new_empty(tiles, rows) for _ in range(2))  # views would be of other alignment: compiled anew
    for second in (False, True) if store else (False,):
        launch(
            exponentials_kernel, (cdiv(rows, tile.n) * tiles,),
            (hidden, weight, bias, target, reference, flags, kept, largest, sums),
            (rows, vocabulary, stride, ignore_index),
            SIZE=size, SETTLE_N=SETTLE_N, HAS_BIAS=has_bias, REPAIR=second, BLOCK_N=tile.n, BLOCK_V=tile.v,
            BLOCK_H=tile.h, STORE=store, PRECISION=_precision(), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        launch(
            settle_kernel, (settle_blocks,),
            (target, own, reference, flags, largest, sums, kept, loss, scale),
            (rows, vocabulary, stride, tiles, ignore_index),
            SETTLE_N=SETTLE_N, SETTLE_T=SETTLE_T, STORE=store, FINAL=second,
        )  # fmt: skip
    return loss, own, scale, kept


def _forward_outputs(hidden: Tensor, weight: Tensor, store: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = hidden.shape[0]
    loss, own, scale = (hidden.new_empty(rows, dtype=torch.float32) for _ in range(3))
    return loss, own, scale, hidden.new_empty((rows, _stride(weight.shape[0])) if store else (0, 0))


linear_cross_entropy.register_fake(
    lambda hidden, weight, bias, target, ignore_index, store, weight_grad: _forward_outputs(hidden, weight, store)
)


class _Saved(NamedTuple):
    """What backward starts from: the upstream gradient [N] fp32, and what forward was given and made."""

    grad: Tensor
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    loss: Tensor
    own: Tensor
    scale: Tensor
    kept: Tensor
    ignore_index: int


@torch.library.custom_op("xlt::linear_cross_entropy_backward", mutates_args=("weight_grad",))
def linear_cross_entropy_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    loss: Tensor,
    own: Tensor,
    scale: Tensor,
    kept: Tensor,
    ignore_index: int,
    need: list[bool],
    weight_grad: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias for `grad` [N] fp32; empty where not needed or added to `weight_grad`."""
    d_hidden, d_weight, d_bias = _outputs(hidden, weight, bias, need, weight_grad)
    if hidden.shape[0] == 0:
        return d_hidden, d_weight.zero_(), d_bias.zero_()
    saved = _Saved(grad, hidden, weight, bias, target, loss, own, scale, kept, ignore_index)
    into = weight_grad if weight_grad is not None else d_weight if need[1] else None
    write = product_into if weight_grad is None else add_product
    make = _from_stored if kept.numel() else _recomputed
    make(saved, d_hidden if need[0] else None, into, write, d_bias if need[2] else None)
    return d_hidden, d_weight, d_bias


def _outputs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, need: list[bool], weight_grad: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(hidden) if need[0] else hidden.new_empty(0),
        torch.empty_like(weight) if need[1] and weight_grad is None else weight.new_empty(0),
        torch.empty_like(bias) if need[2] and bias is not None else weight.new_empty(0),
    )


linear_cross_entropy_backward.register_fake(
    lambda grad, hidden, weight, bias, *rest: _outputs(hidden, weight, bias, *rest[-2:])
)


def _scale_rows(
    saved: _Saved,
    x: Tensor,
    out: Tensor,
    *,
    grad: Tensor | None = None,
    divisor: Tensor | None = None,
    factor: Tensor | None = None,
    constant: float = 1.0,
) -> Tensor:
    rows, size = x.shape
    block = min(next_power_of_2(size), 1024)
    launch(
        scale_rows_kernel, (cdiv(rows, 4), cdiv(size, block)),
        (x, grad, divisor, factor, saved.target, out), (rows, constant, saved.ignore_index),
        SIZE=size, BLOCK_N=4, BLOCK_H=block,
        HAS_GRAD=grad is not None, HAS_DIVISOR=divisor is not None, HAS_FACTOR=factor is not None,
    )  # fmt: skip
    return out


def _column_sums(values: Tensor, out: Tensor, grad: Tensor | None = None, divisor: Tensor | None = None) -> None:
    launch(
        column_sums_kernel, (cdiv(out.shape[0], 128),),
        (values, grad, divisor, out), (values.shape[0], out.shape[0], values.stride(0)),
        BLOCK_N=64, BLOCK_C=128, HAS_GRAD=grad is not None,
    )  # fmt: skip


def _from_stored(
    saved: _Saved, d_hidden: Tensor | None, d_weight: Tensor | None, write: Write, d_bias: Tensor | None
) -> None:
    kept = saved.kept[:, : saved.weight.shape[0]]
    if d_hidden is not None:
        _scale_rows(saved, product(kept, saved.weight), d_hidden, grad=saved.grad, divisor=saved.scale)
    if d_weight is not None:
        scaled = torch.empty_like(saved.hidden)
        write(d_weight, kept.t(), _scale_rows(saved, saved.hidden, scaled, grad=saved.grad, divisor=saved.scale))
    if d_bias is not None:
        _column_sums(kept, d_bias, saved.grad, saved.scale)


def _recomputed(
    saved: _Saved, d_hidden: Tensor | None, d_weight: Tensor | None, write: Write, d_bias: Tensor | None
) -> None:
    """By chunks along the vocabulary."""
    grad, hidden, weight, bias = saved[:4]
    rows, size = hidden.shape
    vocabulary = weight.shape[0]
    lifted = hidden.dtype == torch.float16
    # In fp16 the larger tiles keep both the lifted and the plain value of each element, and spill.
    tile = LIFTED_TILE if lifted else choose_tile(rows, hidden.dtype, shared_memory(hidden))
    width = max(1, CHUNK_BYTES // (rows * hidden.itemsize * STRIDE_MULTIPLE)) * STRIDE_MULTIPLE
    width = min(width, _stride(vocabulary))
    probability = hidden.new_empty(rows, width)
    row_tiles = cdiv(rows, tile.n)
    partial = hidden.new_empty((row_tiles, width) if d_bias is not None else (0, 0), dtype=torch.float32)
    total = hidden.new_zeros((rows, size), dtype=torch.float32) if d_hidden is not None else None
    operand, undo = _weight_operand(saved, lifted) if d_weight is not None else (None, None)
    for first in range(0, vocabulary, width):
        last = min(first + width, vocabulary)
        launch(
            probabilities_kernel, (row_tiles * cdiv(width, tile.v),),
            (hidden, weight, bias, saved.target, saved.own, saved.loss, saved.scale, grad, probability, partial),
            (rows, vocabulary, first, last - first, width, saved.ignore_index),
            SIZE=size, BLOCK_N=tile.n, BLOCK_V=tile.v, BLOCK_H=tile.h, HAS_BIAS=bias is not None,
            COLUMNS=d_bias is not None, LIFTED=lifted, PRECISION=_precision(),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        part = probability[:, : last - first]
        if total is not None:
            add_product(total, part, weight[first:last])
        if operand is not None and d_weight is not None:
            write(d_weight[first:last], part.t(), operand, undo)
        if d_bias is not None:
            _column_sums(partial, d_bias[first:last])
    if d_hidden is not None and total is not None:
        constant = 1.0 / FP16_LIFT.value if lifted else 1.0
        _scale_rows(saved, total, d_hidden, grad=grad if lifted else None, constant=constant)


def _weight_operand(saved: _Saved, lifted: bool) -> tuple[Tensor, Tensor | None]:
    """The hidden rows for d_weight, without ignored ones, and what undoes their scaling in fp16.

    In fp16 the upstream gradient rides in them, divided by the power of two next to its largest value.
    """
    out = torch.empty_like(saved.hidden)
    if not lifted:
        return _scale_rows(saved, saved.hidden, out), None
    largest = torch.where(saved.target != saved.ignore_index, saved.grad, 0.0).abs().amax().reshape(1)
    power = torch.where(largest > 0, torch.exp2(torch.floor(torch.log2(largest))), 1.0)
    _scale_rows(saved, saved.hidden, out, grad=saved.grad, factor=1.0 / power)
    return out, power / FP16_LIFT.value


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, target, ctx.ignore_index, _, ctx.weight_grad = inputs
    ctx.save_for_backward(hidden, weight, bias, target, *output)


def _backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    need = list(ctx.needs_input_grad[:3])
    weight_grad = ctx.weight_grad
    gradients = linear_cross_entropy_backward(
        grad.contiguous(), *ctx.saved_tensors, ctx.ignore_index, need, weight_grad
    )
    need[1] = need[1] and weight_grad is None
    return *(gradient if needed else None for gradient, needed in zip(gradients, need, strict=True)), *(None,) * 4


linear_cross_entropy.register_autograd(_backward, setup_context=_setup_context)
