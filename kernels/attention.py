"""Multi-head attention of packed sequences: each token sees the tokens of its own sequence, and no others.

With a window it sees those at most so far away; with rotary positions queries and keys are turned before.

In plain torch, sequences are put into groups of similar length, chosen once for a batch by `attention_plan`. A group is
a batched matrix product; its padding, if any, is local to it. One gather brings queries, keys and values of all groups
into [3, n, heads, L, d] blocks, one gather brings the results back. Under a window long sequences go in blocks of
queries with the keys that these see: the cost grows with the length, not with its square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .attention_plan import AttentionGroup, AttentionPlan, Piece, attention_plan
from .checks import misfit
from .dispatch import needs_gradient, use_triton
from .layer_norm import HALF
from .masks import is_active, keep_mask, keep_scale, seed_tensor
from .products import products_in_16_bits


def rotary_table(positions: Tensor, size: int, base: float) -> Tensor:
    """Cosines and sines of the angles `position * base ** (-2i / size)`, in the rounding of transformers.

    Args:
        positions: [T], of each token in its own sequence.
        size: d, of a head; even.
        base: theta, 10,000 in the paper.

    Returns:
        fp32 [T, size]: the cosines of the size / 2 angles, then their sines.

    Raises:
        ValueError: `size` is odd.
    """
    if size % 2:
        raise ValueError(f"rotary positions turn pairs of elements, got heads of size {size}")
    powers = torch.arange(0, size, 2, dtype=torch.float, device=positions.device) / size
    angles = positions[:, None].float() * (1.0 / (base**powers))
    return torch.cat((angles.cos(), angles.sin()), 1)


def rotate(x: Tensor, rows: Tensor) -> Tensor:
    """`x` [..., d] turned by the angles of `rows`, which broadcast to it; computed in fp32, in the dtype of `x`."""
    first, second = (half.float() if half.dtype in HALF else half for half in x.chunk(2, -1))
    cos, sin = rows.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def rotate_(x: Tensor, rows: Tensor, *, back: bool = False) -> None:
    """The same in the memory of `x`; `back` by the opposite angles, which is how a gradient goes."""
    cos, sin = rows.chunk(2, -1)
    if back:
        sin = -sin
    halves = x.chunk(2, -1)
    first, second = (half.float() if half.dtype in HALF else half for half in halves)
    turned = first * sin
    first.mul_(cos).addcmul_(second, sin.to(second.dtype), value=-1)
    second.mul_(cos).add_(turned)
    if x.dtype in HALF:
        halves[0].copy_(first)
        halves[1].copy_(second)


__all__ = ["AttentionPlan", "attention_plan", "packed_attention"]

_WIDEST_HEAD = 128
_SPAN_ELEMENTS = 1 << 18
_VECTOR = 32
"""Numbers of 16 bits in a vector register."""


def _blocks(memory: Tensor, group: AttentionGroup, heads: int, parts: int) -> tuple[Tensor, ...]:
    """The group's [n * heads, L, d] blocks in gathered memory of `parts` rows a slot and head."""
    n, length = group.sequences, group.length
    first = group.first_slot * heads * parts
    span = memory[first : first + n * length * heads * parts]
    return span.view(parts, n * heads, length, memory.shape[-1]).unbind(0)


def _spans(matrices: int, elements: int) -> Iterator[slice]:
    """A few matrices of so many elements at a time, so that their scores stay in the cache."""
    step = max(1, _SPAN_ELEMENTS // elements)
    for start in range(0, matrices, step):
        yield slice(start, min(start + step, matrices))


def _turn(memory: Tensor, rotary: Tensor, plan: AttentionPlan, heads: int, *, back: bool = False) -> None:
    """Queries and keys in gathered memory, in place; their gradients `back`."""
    for group in plan.layout.groups:
        n, length, first = group.sequences, group.length, group.first_slot
        rows = rotary.index_select(0, plan.layout.slot_token[first : first + n * length]).view(n, 1, length, -1)
        for block in _blocks(memory, group, heads, 3)[:2]:
            rotate_(block.view(n, heads, length, -1), rows, back=back)


def _arithmetic(x: Tensor, whole: bool) -> Tensor:
    """`x` as products take it: in 16 bits as it is, where the processor multiplies such and no sums of products are
    added up; else at least fp32."""
    if x.dtype not in (torch.bfloat16, torch.float16) or (whole and products_in_16_bits(x)):
        return x
    return x.float()


class _PackedAttention(torch.autograd.Function):
    """Saves the gathered queries, keys and values, the probabilities and one byte of mask for each probability.

    Products are written in place or with `out`, which autocast leaves in their precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        plan: AttentionPlan,
        p: float,
        seed: int | Tensor | None,
        site: int,
        rotary: Tensor | None,
        window: int | None,
    ) -> Tensor:
        tokens, _, heads, size = qkv.shape
        out_rows = plan.rows(heads, 1)
        gathered = qkv.reshape(-1, size).index_select(0, plan.rows(heads, 3).gather)
        if rotary is not None:
            _turn(gathered, rotary, plan, heads)
        pieces_of = plan.pieces(window)
        whole = all(pieces[0].alone for pieces in pieces_of)
        work = _arithmetic(gathered, whole)
        out = work.new_empty(gathered.shape[0] // 3, size)
        ctx.keep = 1.0 if seed is None else keep_scale(p)
        saved, masks = [], []
        for group, pieces in zip(plan.layout.groups, pieces_of, strict=True):
            (target,) = _blocks(out, group, heads, 1)
            blocks = _blocks(work, group, heads, 3)
            for piece in pieces:
                kept = None
                if seed is not None:
                    rows = out_rows.gather[group.first_slot * heads :][: target.shape[0] * group.length]
                    if not piece.alone:
                        rows = rows.view(-1, group.length)[:, piece.queries].flatten()
                    kept = keep_mask(rows, piece.shape[1], p, seed, site, lanes=heads, begin=piece.keys.start)
                    masks.append(kept)
                probability = _attend(piece, heads, blocks, kept, ctx.keep, target)
                saved.append(probability.to(qkv.dtype))
        ctx.plan, ctx.window, ctx.pieces = plan, window, len(saved)
        ctx.save_for_backward(gathered, rotary, *saved, *masks)
        return out.index_select(0, out_rows.back).view(tokens, heads, size).to(qkv.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gathered, rotary, *rest = ctx.saved_tensors
        tokens, heads, size = grad.shape
        plan: AttentionPlan = ctx.plan
        out_rows = plan.rows(heads, 1)
        kept = iter(zip(rest[: ctx.pieces], rest[ctx.pieces :] or [None] * ctx.pieces, strict=True))
        pieces_of = plan.pieces(ctx.window)
        whole = all(pieces[0].alone for pieces in pieces_of)
        work = _arithmetic(gathered, whole)
        d_out = _arithmetic(grad.reshape(-1, size).index_select(0, out_rows.gather), whole)
        if out_rows.padding is not None:
            d_out.index_fill_(0, out_rows.padding, 0.0)
        d_work = torch.empty_like(work)
        for group, pieces in zip(plan.layout.groups, pieces_of, strict=True):
            (d_o,) = _blocks(d_out, group, heads, 1)
            blocks, d_blocks = _blocks(work, group, heads, 3), _blocks(d_work, group, heads, 3)
            if not pieces[0].alone:  # their keys overlap, and their gradients are added up
                for d_block in d_blocks[1:]:
                    d_block.zero_()
            for piece, (probability, mask) in zip(pieces, kept, strict=False):
                _attend_backward(piece, blocks, _arithmetic(probability, whole), mask, ctx.keep, d_o, d_blocks)
        if rotary is not None:
            _turn(d_work, rotary, plan, heads, back=True)
        d_qkv = d_work.index_select(0, plan.rows(heads, 3).back).view(tokens, 3, heads, size)
        return d_qkv.to(grad.dtype), *(None,) * 6


def _attend(
    piece: Piece, heads: int, blocks: tuple[Tensor, ...], kept: Tensor | None, keep: float, out: Tensor
) -> Tensor:
    """Write the output of a piece; return its probabilities before dropout, [n * heads, queries, keys]."""
    (q, k, v), scale = blocks, blocks[0].shape[-1] ** -0.5
    if not piece.alone:
        q, k, v, out = q[:, piece.queries], k[:, piece.keys], v[:, piece.keys], out[:, piece.queries]
    probability = q.new_empty(q.shape[0], *piece.shape)
    kept = None if kept is None else kept.view(probability.shape)
    band = None if piece.band is None else piece.band.to(q.dtype)
    for span in _spans(*probability.flatten(1).shape):
        scores = probability[span]
        scores.baddbmm_(q[span], k[span].transpose(1, 2), beta=0, alpha=scale)
        if band is not None:
            scores += band
        for begin, end, first in piece.ends:  # a sum with a mask would be made row by row
            begin, end = max(begin * heads - span.start, 0), min(end * heads, span.stop) - span.start
            if begin < end:
                scores[begin:end, :, first:].fill_(piece.hidden)
        _softmax_(scores)
        dropped = scores if kept is None else scores.mul(kept[span])
        out[span].baddbmm_(dropped, v[span], beta=0, alpha=keep)
    return probability


def _softmax_(scores: Tensor) -> None:
    """In place. Of 16 bits in fp32, unless rows fill vectors: torch takes what is left of a row a number at a time."""
    if scores.dtype == torch.bfloat16 and scores.shape[-1] % _VECTOR:
        scores.copy_(torch.softmax(scores.float(), -1))
    else:
        torch.softmax(scores, -1, out=scores)


def _softmax_backward(d_probability: Tensor, probability: Tensor) -> Tensor:
    """The gradient of the scores, in the dtype of the probabilities; computed in fp32 at least.

    Torch does so itself with 16 bits, but takes rows below a vector one number at a time, and is slower than by copies.
    """
    short = probability.dtype == torch.bfloat16 and probability.shape[-1] < _VECTOR
    wide = torch.float32 if short else probability.dtype
    d_probability, p = d_probability.to(wide), probability.to(wide)
    d_scores: Tensor = torch.ops.aten._softmax_backward_data(d_probability, p, -1, wide)
    return d_scores.to(probability.dtype)


def _attend_backward(
    piece: Piece,
    blocks: tuple[Tensor, ...],
    probability: Tensor,
    kept: Tensor | None,
    keep: float,
    d_out: Tensor,
    d_blocks: tuple[Tensor, ...],
) -> None:
    """Write or add the gradients of a piece."""
    (q, k, v), (d_q, d_k, d_v), scale = blocks, d_blocks, blocks[0].shape[-1] ** -0.5
    if not piece.alone:
        q, d_q, d_out = q[:, piece.queries], d_q[:, piece.queries], d_out[:, piece.queries]
        k, v, d_k, d_v = (block[:, piece.keys] for block in (k, v, d_k, d_v))
    beta = 0 if piece.alone else 1
    kept = None if kept is None else kept.view(probability.shape)
    for span in _spans(*probability.flatten(1).shape):
        p, d_o = probability[span], d_out[span]
        d_p = torch.empty_like(p).baddbmm_(d_o, v[span].transpose(1, 2), beta=0, alpha=keep)
        dropped = p
        if kept is not None:
            d_p.mul_(kept[span])
            dropped = p.mul(kept[span])
        d_v[span].baddbmm_(dropped.transpose(1, 2), d_o, beta=beta, alpha=keep)
        d_scores = _softmax_backward(d_p, p)
        d_q[span].baddbmm_(d_scores, k[span], beta=0, alpha=scale)
        d_k[span].baddbmm_(d_scores.transpose(1, 2), q[span], beta=beta, alpha=scale)


def _without_gradient(qkv: Tensor, plan: AttentionPlan, rotary: Tensor | None, window: int | None) -> Tensor:
    tokens, _, heads, size = qkv.shape
    layout = plan.layout
    rows = qkv if layout.in_order else qkv.index_select(0, layout.slot_token)
    if rotary is not None:
        rows = rows.clone() if rows is qkv else rows
        angles = rotary if layout.in_order else rotary.index_select(0, layout.slot_token)
        rotate_(rows[:, :2], angles[:, None, None])
    out = qkv.new_empty(rows.shape[0], heads, size)
    for group, pieces in zip(layout.groups, plan.pieces(window), strict=True):
        n, length, first = group.sequences, group.length, group.first_slot
        span = slice(first, first + n * length)
        q, k, v = rows[span].view(n, length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        target = out[span].view(n, length, heads, size)
        for piece in pieces:
            masks = [mask for mask in (piece.padding, piece.band) if mask is not None]
            result = functional.scaled_dot_product_attention(
                q[:, :, piece.queries],
                k[:, :, piece.keys],
                v[:, :, piece.keys],
                attn_mask=sum(masks[1:], masks[0]).to(q.dtype) if masks else None,
            )
            if n * length == tokens and layout.in_order and piece.alone:
                return result.transpose(1, 2).reshape(tokens, heads, size)
            target[:, piece.queries].copy_(result.transpose(1, 2))
    return out if layout.in_order else out.index_select(0, layout.token_slot)


def _exported(qkv: Tensor, cu_seqlens: Tensor, rotary: Tensor | None, window: int | None) -> Tensor:
    """Every token against every token under a mask: a graph has no groups, which depend on values."""
    tokens = torch.arange(qkv.shape[0], device=qkv.device)
    sequence = (tokens[:, None] >= cu_seqlens).sum(1)
    mask = sequence == sequence[:, None]
    if window is not None:
        mask = mask & ((tokens - tokens[:, None]).abs() <= window)
    q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.squeeze(0).transpose(0, 1)


def packed_attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    p: float = 0.0,
    seed: int | Tensor | None = None,
    site: int = 0,
    plan: AttentionPlan | None = None,
    rotary: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Bidirectional softmax attention within each sequence, scaled by `d ** -0.5`.

    Under `torch.export`, plain torch without dropout is one masked [T, T] product, for batches of any shape.

    Args:
        qkv: [T, 3, heads, d], queries, keys and values of one projection.
        cu_seqlens: [S + 1], where each sequence begins, and T.
        max_seqlen: the longest sequence, or more; kernels size their work by it, plain torch does not. Where it is
            less on a device, the output of the tokens beyond it is undefined.
        p: dropout probability of the attention probabilities; off when `seed` is None.
        seed: see `dropout`; a first row counts tokens.
        site: see `dropout`; a first row counts tokens.
        plan: of `attention_plan(cu_seqlens)`, when more than one layer uses it, whatever its window; made here
            otherwise.
        rotary: fp32 [T, d], of `rotary_table`: queries and keys are turned by its angles in fp32, and rounded to the
            dtype of `qkv`.
        window: how far away in its sequence a token may be that another one sees, 0 for itself; None sees all.

    Returns:
        [T, heads, d] in the dtype of `qkv`.

    Raises:
        ValueError: `qkv` is not [T, 3, heads, d], T is not the end of `cu_seqlens` (where that is known without
            waiting for a device), `p` is outside [0, 1), `rotary` is not [T, d], or `window` is negative.
    """
    if qkv.dim() != 4 or qkv.shape[1] != 3:
        raise ValueError(f"qkv must be [T, 3, heads, d], got {tuple(qkv.shape)}")
    if rotary is not None and (rotary.shape != qkv[:, 0, 0].shape or rotary.shape[1] % 2):
        raise misfit(qkv=qkv, rotary=rotary)
    if window is not None and window < 0:
        raise ValueError(f"window must be 0 or more, got {window}")
    seed = seed if is_active(p, seed) else None
    if use_triton(qkv) and qkv.shape[3] <= _WIDEST_HEAD:
        from .fused.attention import packed_attention as fused

        if plan is not None:
            _check_end(qkv, plan.tokens)
        if cu_seqlens.device != qkv.device:
            raise ValueError(f"qkv is on {qkv.device}, cu_seqlens on {cu_seqlens.device}")
        qkv, cu_seqlens = qkv if qkv.stride(-1) == 1 else qkv.contiguous(), cu_seqlens.contiguous()
        seeds = seed_tensor(p, seed, qkv.device)
        rotary = None if rotary is None else rotary.float().contiguous()
        out: Tensor = fused(qkv, cu_seqlens, max_seqlen, seeds, site, p, needs_gradient(qkv), rotary, window)[0]
        return out
    if torch.compiler.is_exporting() and seed is None:
        return _exported(qkv, cu_seqlens, rotary, window)
    plan = attention_plan(cu_seqlens) if plan is None else plan
    _check_end(qkv, plan.layout.token_slot.shape[0])
    # torch's own attention has no fast product of short sequences in 16 bits: twice as slow (12 heads of 64).
    if seed is None and not needs_gradient(qkv) and not products_in_16_bits(qkv):
        return _without_gradient(qkv, plan, rotary, window)
    apply: Callable[..., Tensor] = _PackedAttention.apply
    return apply(qkv, plan, p, seed, site, rotary, window)


def _check_end(qkv: Tensor, tokens: int | None) -> None:
    if tokens is not None and tokens != qkv.shape[0]:
        raise ValueError(f"qkv has {qkv.shape[0]} tokens, cu_seqlens end at {tokens}")
