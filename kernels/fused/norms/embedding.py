"""`dropout(LayerNorm(word[token_ids] + position[positions] + segment[segments]))`: one launch forward.

Backward reads the three rows of a token again instead of keeping their sum. One kernel makes the gradient of the sum,
and column sums (the gradients of weight and bias) as in `layer_norm`, with a second kernel to add those of all
programs. The gradients of tables are torch's, which sorts the ids and sums in fp32 without atomics: equal inputs give
equal bits. Frozen tables, as in all of the method but pre-training, cost nothing.

Bytes, with b of an element and D different token ids: forward reads D rows of the word table (positions and segments
stay in the cache) and writes out, at most 2 T H b. Backward reads the upstream gradient and the rows again, 2 T H b;
for trainable tables it writes the gradient of the sum and reads it once for each, 2 to 4 T H b, and writes the tables'
gradients.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..launch import cdiv, dropout_numbers, launch
from .embedding_kernels import backward_kernel, forward_kernel
from .layer_norm import FORWARD_TILE, backward_blocks, shape_of_blocks, sum_partials


@torch.library.custom_op("xlt::embedding_layer_norm", mutates_args=())
def embedding_layer_norm(
    token_ids: Tensor,
    positions: Tensor,
    segments: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    eps: float,
    p: float,
    site: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.embedding_layer_norm` for contiguous tensors; drops where there is a seed, [2] int64.

    `mean` and `rstd` are for backward, empty unless `save`.
    """
    outputs = _outputs(token_ids, word, save)
    rows, size = outputs[0].shape
    height, columns, warps = shape_of_blocks(size, FORWARD_TILE)
    launch(
        forward_kernel,
        (cdiv(rows, height),),
        (token_ids, positions, segments, word, position, segment, weight, bias, seed, *outputs),
        (rows, word.shape[0], position.shape[0], segment.shape[0], *dropout_numbers(site, p), eps),
        SIZE=size,
        ROWS=height,
        COLUMNS=columns,
        DROPOUT=seed is not None,
        SAVE=save,
        num_warps=warps,
    )
    return outputs


def _outputs(token_ids: Tensor, word: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows = token_ids.shape[0]
    mean, rstd = (word.new_empty(rows if save else 0, dtype=torch.float32) for _ in range(2))
    return word.new_empty((rows, word.shape[1])), mean, rstd


embedding_layer_norm.register_fake(lambda ids, _, __, word, *rest: _outputs(ids, word, rest[-1]))


def table_gradient(values: Tensor, ids: Tensor, rows: int) -> Tensor:
    """For each id the sum of its `values` [T, H]: [rows, H] in their dtype. Ids outside the table are left out."""
    inside = ids.where((ids >= 0) & (ids < rows), -1)  # of which torch takes no gradient
    gradient: Tensor = torch.ops.aten.embedding_dense_backward(values, inside, rows, -1, False)
    return gradient


@torch.library.custom_op("xlt::embedding_layer_norm_backward", mutates_args=())
def embedding_backward(
    grad: Tensor,
    ids: list[Tensor],
    tables: list[Tensor],
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    p: float,
    site: int,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the three tables, and of the LayerNorm's weight and bias (one need); empty where not needed."""
    *needed, need_affine = need
    d_total = torch.empty_like(grad) if any(needed) else grad.new_empty(0)
    d_weight, d_bias = (weight.new_empty(weight.shape[0] if need_affine else 0) for _ in range(2))
    rows, size = grad.shape
    height, columns, warps, blocks, programs = backward_blocks(grad)
    partials = grad.new_empty((2 * need_affine, programs, size), dtype=torch.float32)
    launch(
        backward_kernel,
        (programs,),
        (grad, *ids, *tables, weight, mean, rstd, seed, d_total, partials),
        (rows, blocks, *(t.shape[0] for t in tables), *dropout_numbers(site, p)),
        SIZE=size,
        ROWS=height,
        COLUMNS=columns,
        DROPOUT=seed is not None,
        D_TOTAL=any(needed),
        AFFINE=need_affine,
        num_warps=warps,
    )
    sum_partials(partials, d_weight, d_bias, d_bias, need_affine)
    d_word, d_position, d_segment = (
        table_gradient(d_total, numbers, table.shape[0]) if wanted else table.new_empty(0)
        for numbers, table, wanted in zip(ids, tables, needed, strict=True)
    )
    return d_word, d_position, d_segment, d_weight, d_bias


@embedding_backward.register_fake
def _gradients(grad, ids, tables, weight, mean, rstd, seed, p, site, need):
    made = [torch.empty_like(t) if wanted else t.new_empty(0) for t, wanted in zip(tables, need[:3], strict=True)]
    return *made, *(weight.new_empty(weight.shape[0] if need[3] else 0) for _ in range(2))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, bias, seed, _, ctx.p, ctx.site, _ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(*tensors, mean, rstd, seed)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 13
    saved = ctx.saved_tensors
    *need_tables, need_weight, need_bias = ctx.needs_input_grad[3:8]
    need = [*need_tables, need_weight or need_bias]
    *d_tables, d_weight, d_bias = embedding_backward(
        grad.contiguous(), list(saved[:3]), list(saved[3:6]), *saved[6:], ctx.p, ctx.site, need
    )
    return (
        *(None,) * 3,
        *(gradient if needed else None for gradient, needed in zip(d_tables, need_tables, strict=True)),
        d_weight if need_weight else None,
        d_bias.to(ctx.bias_dtype) if need_bias else None,
        *(None,) * 5,
    )


embedding_layer_norm.register_autograd(_backward, setup_context=_setup_context)
