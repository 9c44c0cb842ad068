"""Multi-head attention of packed sequences: each token sees the tokens of its own sequence, and no others.

In plain torch, sequences are put into groups of similar length, chosen once for a batch by `attention_plan`. A group is
a batched matrix product; its padding, if any, is local to it. One gather brings queries, keys and values of all groups
into [3, n, heads, L, d] blocks, one gather brings the results back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .attention_plan import AttentionGroup, AttentionPlan, attention_plan
from .dispatch import needs_gradient, use_triton
from .masks import is_active, keep_mask, keep_scale, seed_tensor

__all__ = ["AttentionPlan", "attention_plan", "packed_attention"]

_WIDEST_HEAD = 128
_SPAN_ELEMENTS = 1 << 18


def _blocks(memory: Tensor, group: AttentionGroup, heads: int, parts: int) -> tuple[Tensor, ...]:
    """The group's [n * heads, L, d] blocks in gathered memory of `parts` rows a slot and head."""
    n, length = group.sequences, group.length
    first = group.first_slot * heads * parts
    span = memory[first : first + n * length * heads * parts]
    return span.view(parts, n * heads, length, memory.shape[-1]).unbind(0)


def _spans(group: AttentionGroup, heads: int) -> Iterator[slice]:
    """The group's [L, L] matrices, a few at a time, so that their scores stay in the cache."""
    step = max(1, _SPAN_ELEMENTS // group.length**2)
    matrices = group.sequences * heads
    for start in range(0, matrices, step):
        yield slice(start, min(start + step, matrices))


def _arithmetic(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _PackedAttention(torch.autograd.Function):
    """Saves the gathered queries, keys and values, the probabilities and one byte of mask for each probability.

    Products are written in place or with `out`, which autocast leaves in their precision.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, plan: AttentionPlan, p: float, seed: int | Tensor | None, site: int) -> Tensor:
        tokens, _, heads, size = qkv.shape
        out_rows = plan.rows(heads, 1)
        gathered = qkv.reshape(-1, size).index_select(0, plan.rows(heads, 3).gather)
        work = _arithmetic(gathered)
        out = work.new_empty(gathered.shape[0] // 3, size)
        ctx.keep = 1.0 if seed is None else keep_scale(p)
        saved, masks = [], []
        for group in plan.layout.groups:
            kept = None
            if seed is not None:
                rows = out_rows.gather[group.first_slot * heads :][: group.sequences * heads * group.length]
                kept = keep_mask(rows, group.length, p, seed, site, lanes=heads)
                masks.append(kept)
            (target,) = _blocks(out, group, heads, 1)
            blocks = _blocks(work, group, heads, 3)
            probability = _attend(group, heads, blocks, kept, ctx.keep, target)
            saved.append(probability.to(qkv.dtype))
        ctx.plan = plan
        ctx.save_for_backward(gathered, *saved, *masks)
        return out.index_select(0, out_rows.back).view(tokens, heads, size).to(qkv.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        gathered, *rest = ctx.saved_tensors
        tokens, heads, size = grad.shape
        plan: AttentionPlan = ctx.plan
        groups, out_rows = plan.layout.groups, plan.rows(heads, 1)
        saved, masks = rest[: len(groups)], rest[len(groups) :] or [None] * len(groups)
        work = _arithmetic(gathered)
        d_out = _arithmetic(grad.reshape(-1, size).index_select(0, out_rows.gather)).mul_(ctx.keep)
        if out_rows.padding is not None:
            d_out.index_fill_(0, out_rows.padding, 0.0)
        d_work = torch.empty_like(work)
        for group, probability, kept in zip(groups, saved, masks, strict=True):
            (d_o,) = _blocks(d_out, group, heads, 1)
            blocks, d_blocks = _blocks(work, group, heads, 3), _blocks(d_work, group, heads, 3)
            _attend_backward(group, heads, blocks, _arithmetic(probability), kept, d_o, d_blocks)
        d_qkv = d_work.index_select(0, plan.rows(heads, 3).back).view(tokens, 3, heads, size)
        return d_qkv.to(grad.dtype), None, None, None, None


def _attend(
    group: AttentionGroup, heads: int, blocks: tuple[Tensor, ...], kept: Tensor | None, keep: float, out: Tensor
) -> Tensor:
    """Write a group's output; return its probabilities before dropout, [n * heads, L, L]."""
    q, k, v = blocks
    length, scale = group.length, q.shape[-1] ** -0.5
    probability = q.new_empty(q.shape[0], length, length)
    kept = None if kept is None else kept.view(probability.shape)
    key_mask = None if group.key_mask is None else group.key_mask.expand(-1, heads, -1, -1).reshape(-1, 1, length)
    for span in _spans(group, heads):
        scores = probability[span]
        scores.baddbmm_(q[span], k[span].transpose(1, 2), beta=0, alpha=scale)
        if key_mask is not None:
            scores += key_mask[span]
        torch.softmax(scores, -1, out=scores)
        dropped = scores if kept is None else scores.mul(kept[span])
        out[span].baddbmm_(dropped, v[span], beta=0, alpha=keep)
    return probability


def _attend_backward(
    group: AttentionGroup,
    heads: int,
    blocks: tuple[Tensor, ...],
    probability: Tensor,
    kept: Tensor | None,
    d_out: Tensor,
    d_blocks: tuple[Tensor, ...],
) -> None:
    """Write the gradients of a group's queries, keys and values; `d_out` carries the factor of dropout."""
    q, k, v = blocks
    d_q, d_k, d_v = d_blocks
    scale = q.shape[-1] ** -0.5
    kept = None if kept is None else kept.view(probability.shape)
    for span in _spans(group, heads):
        p, d_o = probability[span], d_out[span]
        d_p = torch.bmm(d_o, v[span].transpose(1, 2), out=torch.empty_like(p))
        dropped = p
        if kept is not None:
            d_p.mul_(kept[span])
            dropped = p.mul(kept[span])
        torch.bmm(dropped.transpose(1, 2), d_o, out=d_v[span])
        d_scores = torch.ops.aten._softmax_backward_data(d_p, p, -1, p.dtype)
        d_q[span].baddbmm_(d_scores, k[span], beta=0, alpha=scale)
        d_k[span].baddbmm_(d_scores.transpose(1, 2), q[span], beta=0, alpha=scale)


def _without_gradient(qkv: Tensor, plan: AttentionPlan) -> Tensor:
    tokens, _, heads, size = qkv.shape
    layout = plan.layout
    rows = qkv if layout.in_order else qkv.index_select(0, layout.slot_token)
    out = qkv.new_empty(rows.shape[0], heads, size)
    for group in layout.groups:
        n, length, first = group.sequences, group.length, group.first_slot
        span = slice(first, first + n * length)
        q, k, v = rows[span].view(n, length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        key_mask = None if group.key_mask is None else group.key_mask.to(q.dtype)
        result = functional.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        if n * length == tokens and layout.in_order:
            return result.transpose(1, 2).reshape(tokens, heads, size)
        out[span].view(n, length, heads, size).copy_(result.transpose(1, 2))
    return out if layout.in_order else out.index_select(0, layout.token_slot)


def _exported(qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Every token against every token under a mask: a graph has no groups, which depend on values."""
    tokens = torch.arange(qkv.shape[0], device=qkv.device)
    sequence = (tokens[:, None] >= cu_seqlens).sum(1)
    q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=sequence == sequence[:, None])
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
        site: see `dropout`.
        plan: of `attention_plan(cu_seqlens)`, when more than one layer uses it; made here otherwise.

    Returns:
        [T, heads, d] in the dtype of `qkv`.

    Raises:
        ValueError: `qkv` is not [T, 3, heads, d], T is not the end of `cu_seqlens` (where that is known without
            waiting for a device), or `p` is outside [0, 1).
    """
    if qkv.dim() != 4 or qkv.shape[1] != 3:
        raise ValueError(f"qkv must be [T, 3, heads, d], got {tuple(qkv.shape)}")
    seed = seed if is_active(p, seed) else None
    if use_triton(qkv) and qkv.shape[3] <= _WIDEST_HEAD:
        from .fused.attention import packed_attention as fused

        if plan is not None:
            _check_end(qkv, plan.tokens)
        if cu_seqlens.device != qkv.device:
            raise ValueError(f"qkv is on {qkv.device}, cu_seqlens on {cu_seqlens.device}")
        qkv, cu_seqlens = qkv if qkv.stride(-1) == 1 else qkv.contiguous(), cu_seqlens.contiguous()
        seeds = seed_tensor(p, seed, qkv.device)
        out: Tensor = fused(qkv, cu_seqlens, max_seqlen, seeds, site, p, needs_gradient(qkv))[0]
        return out
    if torch.compiler.is_exporting() and seed is None:
        return _exported(qkv, cu_seqlens)
    plan = attention_plan(cu_seqlens) if plan is None else plan
    _check_end(qkv, plan.layout.token_slot.shape[0])
    if seed is None and not needs_gradient(qkv):
        return _without_gradient(qkv, plan)
    apply: Callable[..., Tensor] = _PackedAttention.apply
    return apply(qkv, plan, p, seed, site)


def _check_end(qkv: Tensor, tokens: int | None) -> None:
    if tokens is not None and tokens != qkv.shape[0]:
        raise ValueError(f"qkv has {qkv.shape[0]} tokens, cu_seqlens end at {tokens}")
