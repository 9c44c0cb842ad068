"""`dropout(LayerNorm(word[token_ids] + position[positions] + segment[segments]))`: one launch forward.

Backward reads the three rows of a token again instead of keeping their sum. One kernel makes the gradient of the sum,
and column sums (the gradients of weight, bias and, where the segment table has at most two rows, of that table) as in
`layer_norm`, with a second kernel to add those of all programs. The gradient of a larger table needs no atomics either:
the ids are sorted (stable, on the device), runs of equal ids are cut into pieces of at most 32 places, a program each,
which adds its rows; a last kernel joins the runs that were cut, so that a frequent token does not wait for one
program. Equal inputs give equal bits. With `word_grad` the rows go straight into that buffer, and the [V, H] gradient,
most of whose rows are zero, is never made. Frozen tables cost nothing.

Bytes, with b of an element and D different token ids: forward reads D rows of the word table (positions and segments
stay in the cache) and writes out, at most 2 T H b. Backward reads the upstream gradient and the rows again, 2 T H b;
for trainable tables it writes the gradient of the sum and reads it once for each sorted table, 2 to 3 T H b, and writes
D H elements of the word gradient (reads them too, with `word_grad`). Without `word_grad`, V H elements are zeroed.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..launch import cdiv, dropout_numbers, launch
from .embedding_kernels import backward_kernel, forward_kernel, join_kernel, piece_kernel
from .layer_norm import FORWARD_TILE, backward_blocks, shape_of_blocks, sum_partials

# Segment tables of up to this many rows are summed in registers. Pieces: four rows under way at once, and at most eight
# rounds for one program; joined eight at a time, 256 columns to a program. Reasoned, not measured.
KINDS_IN_REGISTERS = 2
PIECE = 32
PIECE_TILE = 4096
_JOIN_ROWS, _JOIN_COLUMNS = 8, 256


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
    word_grad: Tensor | None,
    eps: float,
    p: float,
    site: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.embedding_layer_norm` for contiguous tensors; drops where there is a seed, [2] int64.

    `mean` and `rstd` are for backward, empty unless `save`; `word_grad` is for backward, not touched here.
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


def add_rows(values: Tensor, ids: Tensor, table: Tensor, *, add: bool) -> None:
    """`table[id] += ` the sum of the rows of `values` [T, H] with that id; with `add` false, `table` is zeros before.

    Ids outside the table are left out. Sums are fp32, in an order that the ids alone decide.
    """
    count, size = values.shape
    if not count:
        return
    # A radix sort passes once over every 8 bits of its keys.
    key = torch.int16 if table.shape[0] < torch.iinfo(torch.int16).max else torch.int32
    ids, order = torch.sort(ids.clamp(-1, table.shape[0]).to(key), stable=True)
    stretches = cdiv(count, PIECE)
    pieces = values.new_empty((stretches, 2, size), dtype=torch.float32)
    height, columns, warps = shape_of_blocks(size, PIECE_TILE)
    shared = {"SIZE": size, "PIECE": PIECE, "ADD": add}
    numbers = count, table.shape[0]
    launch(
        piece_kernel,
        (count,),
        (values, ids, order, table, pieces),
        numbers,
        ROWS=min(height, PIECE),
        COLUMNS=columns,
        num_warps=warps,
        **shared,
    )
    grid = stretches, cdiv(size, _JOIN_COLUMNS)
    blocks = {"ROWS": _JOIN_ROWS, "COLUMNS": _JOIN_COLUMNS, "num_warps": 4}
    launch(join_kernel, grid, (ids, table, pieces), numbers, **blocks, **shared)


@torch.library.custom_op("xlt::embedding_layer_norm_backward", mutates_args=("word_grad",))
def embedding_backward(
    grad: Tensor,
    ids: list[Tensor],
    tables: list[Tensor],
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    word_grad: Tensor | None,
    p: float,
    site: int,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the three tables, and of the LayerNorm's weight and bias (one need); empty where not needed.

    With `word_grad` the gradient of the word table, where it is needed, is added to it, and `d_word` is empty.
    """
    gradients = _gradients(tables, weight, word_grad, need)
    *d_tables, d_weight, d_bias = gradients
    need_affine = need[3]
    kinds = tables[2].shape[0] if need[2] and tables[2].shape[0] <= KINDS_IN_REGISTERS else 0
    summed = [need[0], need[1], need[2] and not kinds]
    d_total = torch.empty_like(grad) if any(summed) else grad.new_empty(0)
    rows, size = grad.shape
    height, columns, warps, blocks, programs = backward_blocks(grad)
    partials = grad.new_empty((2 * need_affine + kinds, programs, size), dtype=torch.float32)
    launch(
        backward_kernel,
        (programs,),
        (grad, *ids, *tables, weight, mean, rstd, seed, d_total, partials),
        (rows, blocks, *(t.shape[0] for t in tables), *dropout_numbers(site, p)),
        SIZE=size,
        ROWS=height,
        COLUMNS=columns,
        DROPOUT=seed is not None,
        D_TOTAL=any(summed),
        AFFINE=need_affine,
        KINDS=kinds,
        num_warps=warps,
    )
    sum_partials(partials, d_weight, d_bias, d_tables[2], need_affine)
    if need[0] and word_grad is not None:
        add_rows(d_total, ids[0], word_grad, add=True)
        summed[0] = False
    for numbers, d_table, needed in zip(ids, d_tables, summed, strict=True):
        if needed:
            add_rows(d_total, numbers, d_table.zero_(), add=False)
    return gradients


def _gradients(
    tables: list[Tensor], weight: Tensor, word_grad: Tensor | None, need: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    made = need[0] and word_grad is None, *need[1:]
    d_word, d_position, d_segment = (
        torch.empty_like(table) if needed else table.new_empty(0) for table, needed in zip(tables, made, strict=False)
    )
    d_weight, d_bias = (weight.new_empty(weight.shape[0] if need[3] else 0) for _ in range(2))
    return d_word, d_position, d_segment, d_weight, d_bias


embedding_backward.register_fake(
    lambda grad, ids, tables, weight, mean, rstd, seed, word_grad, p, site, need: _gradients(
        tables, weight, word_grad, need
    )
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, bias, seed, ctx.word_grad, _, ctx.p, ctx.site, _ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.bias_dtype = bias.dtype
    # word_grad is not saved for backward: other nodes write to it in between, as they should.
    ctx.save_for_backward(*tensors, mean, rstd, seed)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 14
    saved = ctx.saved_tensors
    *need_tables, need_weight, need_bias = ctx.needs_input_grad[3:8]
    need = [*need_tables, need_weight or need_bias]
    word_grad = ctx.word_grad if need[0] else None
    *d_tables, d_weight, d_bias = embedding_backward(
        grad.contiguous(), list(saved[:3]), list(saved[3:6]), *saved[6:], word_grad, ctx.p, ctx.site, need
    )
    need_tables[0] = need[0] and word_grad is None
    return (
        *(None,) * 3,
        *(gradient if needed else None for gradient, needed in zip(d_tables, need_tables, strict=True)),
        d_weight if need_weight else None,
        d_bias.to(ctx.bias_dtype) if need_bias else None,
        *(None,) * 6,
    )


embedding_layer_norm.register_autograd(_backward, setup_context=_setup_context)
