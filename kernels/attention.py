"""Multi-head attention of packed sequences: each token sees the tokens of its own sequence, and no others.

Sequences are put into groups of similar length, chosen once for a batch by `attention_plan`. A group is a batched
matrix product; its padding, if any, is local to it. One gather brings queries, keys and values of all groups into
[3, n, heads, L, d] blocks, one gather brings the results back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .masks import is_active, keep_mask, keep_scale

_GROUP_COST = 3000
_TOKEN_COST = 40
_SPAN_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences that are attended together.

    Attributes:
        sequences: how many, n.
        length: of the longest, L.
        first_slot: where the group's n * L slots begin among those of all groups.
        key_mask: [n, 1, 1, L], 0 for tokens and -inf for padding; None when all have length L.
    """

    sequences: int
    length: int
    first_slot: int
    key_mask: Tensor | None


@dataclass(frozen=True)
class AttentionPlan:
    """How a packed batch is cut into groups; reusable for every layer of a forward pass, and its backward.

    Attributes:
        groups: in order of length.
        slot_token: [slots] int64, the token of each slot; padding repeats the sequence's first token.
        token_slot: [T] int64, the slot of each token.
        padding: [slots] bool; None when no group is padded.
        in_order: whether slot i is token i, as in a batch of equal lengths.
    """

    groups: tuple[AttentionGroup, ...]
    slot_token: Tensor
    token_slot: Tensor
    padding: Tensor | None
    in_order: bool
    _indices: dict[int, _Indices] = field(default_factory=dict, repr=False, compare=False)

    def indices(self, heads: int) -> _Indices:
        """Row numbers for `heads` heads, made at the first call."""
        if heads not in self._indices:
            self._indices[heads] = _make_indices(self, heads)
        return self._indices[heads]


@dataclass(frozen=True)
class _Indices:
    """Row numbers in [T * 3 * heads, d] and [T * heads, d] memory, and in the groups' blocks, both ways.

    `key_masks` holds for each group [n * heads, 1, L], or None.
    """

    qkv_gather: Tensor
    qkv_return: Tensor
    out_gather: Tensor
    out_return: Tensor
    out_padding: Tensor | None
    key_masks: tuple[Tensor | None, ...]


def attention_plan(cu_seqlens: Tensor) -> AttentionPlan:
    """Choose the groups for a packed batch.

    Sequences are sorted by length; the cuts minimise the area of all score matrices and the number of slots, plus a
    fixed cost for each group, so that equal lengths form one group and small batches are not cut into slivers.

    Args:
        cu_seqlens: [S + 1] integers from 0 to T, where each sequence begins; read on the host.
    """
    starts = cu_seqlens.tolist()
    lengths = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    if not starts or starts[0] != 0 or any(length < 0 for length in lengths):
        raise ValueError("cu_seqlens must rise from 0")
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (lengths[i], i))
    device = cu_seqlens.device
    groups, pieces, masks = [], [], []
    first = 0
    padded = False
    for begin, end in _cuts([lengths[i] for i in order]):
        members = order[begin:end]
        sizes = torch.tensor([lengths[i] for i in members])
        offsets = torch.tensor([starts[i] for i in members])
        longest = lengths[members[-1]]
        column = torch.arange(longest)
        pad = column >= sizes[:, None]
        key_mask = None
        if bool(pad.any()):
            padded = True
            key_mask = torch.zeros(pad.shape).masked_fill_(pad, float("-inf"))[:, None, None].to(device)
        pieces.append((offsets[:, None] + column.masked_fill(pad, 0)).flatten())
        masks.append(pad.flatten())
        groups.append(AttentionGroup(len(members), longest, first, key_mask))
        first += pad.numel()
    empty = torch.empty(0, dtype=torch.int64)
    slot_token = torch.cat([empty, *pieces])
    padding = torch.cat([empty.bool(), *masks])
    slots = torch.arange(first)
    token_slot = torch.empty(starts[-1], dtype=torch.int64)
    token_slot[slot_token[~padding]] = slots[~padding]
    return AttentionPlan(
        groups=tuple(groups),
        slot_token=slot_token.to(device),
        token_slot=token_slot.to(device),
        padding=padding.to(device) if padded else None,
        in_order=torch.equal(slot_token, torch.arange(starts[-1])),
    )


def _cuts(lengths: list[int]) -> list[tuple[int, int]]:
    """Spans of the ascending `lengths` with the least total cost, by dynamic programming over distinct lengths."""
    ends = [i + 1 for i in range(len(lengths)) if i + 1 == len(lengths) or lengths[i] != lengths[i + 1]]
    starts = [0, *ends]
    best = [0.0]
    choice = [0]
    for end in ends:
        longest = lengths[end - 1]
        each = longest * (longest + _TOKEN_COST)
        cost, cut = min((best[k] + (end - starts[k]) * each, -k) for k in range(len(best)))
        best.append(cost + _GROUP_COST)
        choice.append(-cut)
    spans = []
    k = len(ends)
    while k:
        spans.append((starts[choice[k]], starts[k]))
        k = choice[k]
    return spans[::-1]


def _make_indices(plan: AttentionPlan, heads: int) -> _Indices:
    device = plan.slot_token.device
    head = torch.arange(heads, device=device)
    part = torch.arange(3, device=device)
    qkv_gather, out_gather, qkv_slot, out_slot, key_masks = [], [], [], [], []
    for group in plan.groups:
        n, length, first = group.sequences, group.length, group.first_slot
        token = plan.slot_token[first : first + n * length].view(n, 1, length)
        out_gather.append((token * heads + head[:, None]).flatten())
        qkv_gather.append(((token * 3 + part[:, None, None, None]) * heads + head[:, None]).flatten())
        sequence = torch.arange(n, device=device)[:, None, None]
        row = torch.arange(length, device=device)[:, None]
        local = (sequence * heads + head) * length + row
        out_slot.append((first * heads + local).view(n * length, heads))
        whole = first * 3 * heads + part[:, None] * (n * heads * length) + local[..., None, :]
        qkv_slot.append(whole.view(n * length, 3 * heads))
        mask = group.key_mask
        key_masks.append(None if mask is None else mask.expand(-1, heads, -1, -1).reshape(-1, 1, length))
    empty = torch.empty(0, dtype=torch.int64, device=device)
    out_padding = None
    if plan.padding is not None:
        slot = torch.cat([empty.view(0, heads), *out_slot])
        out_padding = slot[plan.padding].flatten()
    return _Indices(
        torch.cat([empty, *qkv_gather]),
        torch.cat([empty.view(0, 3 * heads), *qkv_slot]).index_select(0, plan.token_slot).flatten(),
        torch.cat([empty, *out_gather]),
        torch.cat([empty.view(0, heads), *out_slot]).index_select(0, plan.token_slot).flatten(),
        out_padding,
        tuple(key_masks),
    )


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
        indices = plan.indices(heads)
        gathered = qkv.reshape(-1, size).index_select(0, indices.qkv_gather)
        work = _arithmetic(gathered)
        out = work.new_empty(gathered.shape[0] // 3, size)
        ctx.keep = 1.0 if seed is None else keep_scale(p)
        saved, masks = [], []
        for i, group in enumerate(plan.groups):
            kept = None
            if seed is not None:
                rows = indices.out_gather[group.first_slot * heads :][: group.sequences * heads * group.length]
                kept = keep_mask(rows, group.length, p, seed, site)
                masks.append(kept)
            (target,) = _blocks(out, group, heads, 1)
            blocks = _blocks(work, group, heads, 3)
            probability = _attend(group, heads, blocks, indices.key_masks[i], kept, ctx.keep, target)
            saved.append(probability.to(qkv.dtype))
        ctx.plan = plan
        ctx.save_for_backward(gathered, *saved, *masks)
        return out.index_select(0, indices.out_return).view(tokens, heads, size).to(qkv.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        gathered, *rest = ctx.saved_tensors
        tokens, heads, size = grad.shape
        plan: AttentionPlan = ctx.plan
        count = len(plan.groups)
        saved, masks = rest[:count], rest[count:] or [None] * count
        indices = plan.indices(heads)
        work = _arithmetic(gathered)
        d_out = _arithmetic(grad.reshape(-1, size).index_select(0, indices.out_gather)).mul_(ctx.keep)
        if indices.out_padding is not None:
            d_out.index_fill_(0, indices.out_padding, 0.0)
        d_work = torch.empty_like(work)
        for group, probability, kept in zip(plan.groups, saved, masks, strict=True):
            (d_o,) = _blocks(d_out, group, heads, 1)
            blocks, d_blocks = _blocks(work, group, heads, 3), _blocks(d_work, group, heads, 3)
            _attend_backward(group, heads, blocks, _arithmetic(probability), kept, d_o, d_blocks)
        d_qkv = d_work.index_select(0, indices.qkv_return).view(tokens, 3, heads, size)
        return d_qkv.to(grad.dtype), None, None, None, None


def _attend(
    group: AttentionGroup,
    heads: int,
    blocks: tuple[Tensor, ...],
    key_mask: Tensor | None,
    kept: Tensor | None,
    keep: float,
    out: Tensor,
) -> Tensor:
    """Write a group's output; return its probabilities before dropout, [n * heads, L, L]."""
    q, k, v = blocks
    length, scale = group.length, q.shape[-1] ** -0.5
    probability = q.new_empty(q.shape[0], length, length)
    kept = None if kept is None else kept.view(probability.shape)
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
    rows = qkv if plan.in_order else qkv.index_select(0, plan.slot_token)
    out = qkv.new_empty(rows.shape[0], heads, size)
    for group in plan.groups:
        n, length, first = group.sequences, group.length, group.first_slot
        span = slice(first, first + n * length)
        q, k, v = rows[span].view(n, length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        key_mask = None if group.key_mask is None else group.key_mask.to(q.dtype)
        result = functional.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        if n * length == tokens and plan.in_order:
            return result.transpose(1, 2).reshape(tokens, heads, size)
        out[span].view(n, length, heads, size).copy_(result.transpose(1, 2))
    return out if plan.in_order else out.index_select(0, plan.token_slot)


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

    Args:
        qkv: [T, 3, heads, d], queries, keys and values of one projection.
        cu_seqlens: [S + 1], where each sequence begins, and T.
        max_seqlen: the longest sequence, or more; kernels size their work by it, this implementation does not.
        p: dropout probability of the attention probabilities; off when `seed` is None.
        seed: see `dropout`.
        site: see `dropout`.
        plan: of `attention_plan(cu_seqlens)`, when more than one layer uses it; made here otherwise.

    Returns:
        [T, heads, d] in the dtype of `qkv`.

    Raises:
        ValueError: `qkv` is not [T, 3, heads, d], T is not the end of `cu_seqlens`, or `p` is outside [0, 1).
    """
    if qkv.dim() != 4 or qkv.shape[1] != 3:
        raise ValueError(f"qkv must be [T, 3, heads, d], got {tuple(qkv.shape)}")
    if plan is None:
        plan = attention_plan(cu_seqlens)
    if plan.token_slot.shape[0] != qkv.shape[0]:
        raise ValueError(f"qkv has {qkv.shape[0]} tokens, cu_seqlens end at {plan.token_slot.shape[0]}")
    seed = seed if is_active(p, seed) else None
    if seed is None and not (qkv.requires_grad and torch.is_grad_enabled()):
        return _without_gradient(qkv, plan)
    apply: Callable[..., Tensor] = _PackedAttention.apply
    return apply(qkv, plan, p, seed, site)
