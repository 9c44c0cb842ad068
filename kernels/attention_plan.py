"""How the plain-torch attention of a packed batch is cut into batched matrix products.

The Triton kernels read `cu_seqlens` on the device and need none of this; so a plan is made when something asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_GROUP_COST = 3000
_TOKEN_COST = 40


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
class _Layout:
    """The groups, and the four attributes of a plan."""

    groups: tuple[AttentionGroup, ...]
    slot_token: Tensor
    token_slot: Tensor
    padding: Tensor | None
    in_order: bool


class AttentionPlan:
    """How a packed batch is cut into groups; reusable for every layer of a forward pass, and its backward.

    The groups are chosen when an attribute is first read: kernels that take `cu_seqlens` as it is read none, and then
    nothing waits for the device. Boundaries on the CPU are checked at once.

    Attributes:
        cu_seqlens: [S + 1] integers from 0 to T, where each sequence begins.
        tokens: T; None while `cu_seqlens` is on a device and has not been read.
        groups: in order of length.
        slot_token: [slots] int64, the token of each slot; padding repeats the sequence's first token.
        token_slot: [T] int64, the slot of each token.
        padding: [slots] bool; None when no group is padded.
        in_order: whether slot i is token i, as in a batch of equal lengths.
    """

    def __init__(self, cu_seqlens: Tensor) -> None:
        self.cu_seqlens = cu_seqlens
        self._starts = _read(cu_seqlens) if cu_seqlens.device.type == "cpu" else None
        self._indices: dict[int, _Indices] = {}

    @property
    def tokens(self) -> int | None:
        return None if self._starts is None else self._starts[-1]

    @cached_property
    def _layout(self) -> _Layout:
        if self._starts is None:
            self._starts = _read(self.cu_seqlens)
        return _make_layout(self._starts, self.cu_seqlens.device)

    @property
    def groups(self) -> tuple[AttentionGroup, ...]:
        return self._layout.groups

    @property
    def slot_token(self) -> Tensor:
        return self._layout.slot_token

    @property
    def token_slot(self) -> Tensor:
        return self._layout.token_slot

    @property
    def padding(self) -> Tensor | None:
        return self._layout.padding

    @property
    def in_order(self) -> bool:
        return self._layout.in_order

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
    """Choose the groups for a packed batch, at the first use of the plan.

    Sequences are sorted by length; the cuts minimise the area of all score matrices and the number of slots, plus a
    fixed cost for each group, so that equal lengths form one group and small batches are not cut into slivers.

    Args:
        cu_seqlens: [S + 1] integers from 0 to T, where each sequence begins; read on the host, from a device only
            where plain torch is the implementation.

    Raises:
        ValueError: `cu_seqlens` does not rise from 0; on a device at the first use.
    """
    return AttentionPlan(cu_seqlens)


def _read(cu_seqlens: Tensor) -> list[int]:
    starts: list[int] = cu_seqlens.tolist()
    if not starts or starts[0] != 0 or any(end < start for start, end in zip(starts, starts[1:], strict=False)):
        raise ValueError("cu_seqlens must rise from 0")
    return starts


def _make_layout(starts: list[int], device: torch.device) -> _Layout:
    lengths = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (lengths[i], i))
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
    return _Layout(
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
