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

from ..masks import dropped_levels, keep_scale
from .embedding_kernels import backward_kernel, forward_kernel, join_kernel, piece_kernel
from .launch import cdiv, on_device
from .layer_norm import FORWARD_TILE, backward_blocks, shape_of_blocks, sum_partials

# Segment tables of up to this many rows are summed in registers. Pieces: four rows under way at once, and at most eight
# rounds for one program; joined eight at a time, 256 columns to a program. Reasoned, not measured.
KINDS_IN_REGISTERS = 2
PIECE = 32
PIECE_TILE = 4096
_JOIN_ROWS, _JOIN_COLUMNS = 8, 256

_Needs = tuple[bool, bool, bool, bool]


@torch.library.custom_op("xlt::embedding_layer_norm", mutates_args=())
def embedding_op(
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
    """`kernels.embedding_layer_norm` for contiguous tensors; drops where there is a seed, [1] int64.

    `mean` and `rstd` are for backward, empty unless `save`; `word_grad` is for backward, not touched here.
    """
    out, mean, rstd = _outputs(token_ids, word, save)
    rows, size = out.shape
    height, columns, warps = shape_of_blocks(size, FORWARD_TILE)
    if rows:
        with on_device(word):
            forward_kernel[(cdiv(rows, height),)](
                token_ids,
                positions,
                segments,
                word,
                position,
                segment,
                weight,
                bias,
                seed,
                out,
                mean,
                rstd,
                rows,
                word.shape[0],
                position.shape[0],
                segment.shape[0],
                site,
                dropped_levels(p),
                keep_scale(p),
                eps,
                SIZE=size,
                ROWS=height,
                COLUMNS=columns,
                DROPOUT=seed is not None,
                SAVE=save,
                num_warps=warps,
            )
    return out, mean, rstd


def _outputs(token_ids: Tensor, word: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows = token_ids.shape[0]
    return (
        word.new_empty((rows, word.shape[1])),
        word.new_empty(rows if save else 0, dtype=torch.float32),
        word.new_empty(rows if save else 0, dtype=torch.float32),
    )


embedding_op.register_fake(lambda token_ids, positions, segments, word, *rest: _outputs(token_ids, word, rest[-1]))


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
    with on_device(values):
        piece_kernel[(count,)](
            values,
            ids,
            order,
            table,
            pieces,
            count,
            table.shape[0],
            ROWS=min(height, PIECE),
            COLUMNS=columns,
            num_warps=warps,
            **shared,
        )
        join_kernel[(stretches, cdiv(size, _JOIN_COLUMNS))](
            ids, table, pieces, count, table.shape[0], ROWS=_JOIN_ROWS, COLUMNS=_JOIN_COLUMNS, num_warps=4, **shared
        )


@torch.library.custom_op("xlt::embedding_layer_norm_backward", mutates_args=("word_grad",))
def embedding_backward_op(
    grad: Tensor,
    token_ids: Tensor,
    positions: Tensor,
    segments: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    word_grad: Tensor | None,
    p: float,
    site: int,
    need_word: bool,
    need_position: bool,
    need_segment: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the tables and of the LayerNorm's weight and bias (together); empty where not needed.

    With `need_word` and `word_grad`, the gradient of the word table is added to `word_grad`, and `d_word` is empty.
    """
    tables, ids = (word, position, segment), (token_ids, positions, segments)
    need = (need_word and word_grad is None, need_position, need_segment, need_affine)
    d_word, d_position, d_segment, d_weight, d_bias = _gradients(tables, weight, need)
    kinds = segment.shape[0] if need_segment and segment.shape[0] <= KINDS_IN_REGISTERS else 0
    sorted_segments = need_segment and not kinds
    need_total = need_word or need_position or sorted_segments
    d_total = torch.empty_like(grad) if need_total else grad.new_empty(0)
    height, columns, warps, blocks, programs = backward_blocks(grad)
    partials = grad.new_empty((2 * need_affine + kinds, programs, grad.shape[1]), dtype=torch.float32)
    with on_device(grad):
        backward_kernel[(programs,)](
            grad,
            *ids,
            *tables,
            weight,
            mean,
            rstd,
            seed,
            d_total,
            partials,
            grad.shape[0],
            blocks,
            *(t.shape[0] for t in tables),
            site,
            dropped_levels(p),
            keep_scale(p),
            SIZE=grad.shape[1],
            ROWS=height,
            COLUMNS=columns,
            DROPOUT=seed is not None,
            D_TOTAL=need_total,
            AFFINE=need_affine,
            KINDS=kinds,
            num_warps=warps,
        )
    sum_partials(partials, d_weight, d_bias, d_segment, need_affine)
    if need_word:
        add_rows(d_total, token_ids, d_word.zero_() if word_grad is None else word_grad, add=word_grad is not None)
    if need_position:
        add_rows(d_total, positions, d_position.zero_(), add=False)
    if sorted_segments:
        add_rows(d_total, segments, d_segment.zero_(), add=False)
    return d_word, d_position, d_segment, d_weight, d_bias


def _gradients(
    tables: tuple[Tensor, Tensor, Tensor], weight: Tensor, need: _Needs
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_word, d_position, d_segment = (
        torch.empty_like(table) if needed else table.new_empty(0)
        for table, needed in zip(tables, need[:3], strict=True)
    )
    size = weight.shape[0] if need[3] else 0
    return d_word, d_position, d_segment, weight.new_empty(size), weight.new_empty(size)


@embedding_backward_op.register_fake
def _(grad, token_ids, positions, segments, word, position, segment, weight, *rest):
    *_, word_grad, _, _, need_word, need_position, need_segment, need_affine = rest
    need = (need_word and word_grad is None, need_position, need_segment, need_affine)
    return _gradients((word, position, segment), weight, need)


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
    need_word, need_position, need_segment, need_weight, need_bias = ctx.needs_input_grad[3:8]
    word_grad = ctx.word_grad if need_word else None
    d_word, d_position, d_segment, d_weight, d_bias = embedding_backward_op(
        grad.contiguous(),
        *ctx.saved_tensors,
        word_grad,
        ctx.p,
        ctx.site,
        need_word,
        need_position,
        need_segment,
        need_weight or need_bias,
    )
    return (
        *(None,) * 3,
        d_word if need_word and word_grad is None else None,
        d_position if need_position else None,
        d_segment if need_segment else None,
        d_weight if need_weight else None,
        d_bias.to(ctx.bias_dtype) if need_bias else None,
        *(None,) * 6,
    )


embedding_op.register_autograd(_backward, setup_context=_setup_context)


def embedding_layer_norm(
    ids: tuple[Tensor, Tensor, Tensor],
    tables: tuple[Tensor, Tensor, Tensor],
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    word_grad: Tensor | None,
    eps: float,
    p: float,
    site: int,
) -> Tensor:
    """`kernels.embedding_layer_norm`; drops where there is a seed, [1] int64 on the device of the tables."""
    save = torch.is_grad_enabled() and any(t.requires_grad for t in (*tables, weight, bias))
    flat = [i.reshape(-1).contiguous() for i in ids]
    whole = [t.contiguous() for t in (*tables, weight, bias)]
    out = embedding_op(*flat, *whole, seed, word_grad, eps, p, site, save)[0]
    return out.view(*ids[0].shape, weight.shape[0])
