"""How the plain-torch attention of a packed batch is cut into batched matrix products.

The Triton kernels read `cu_seqlens` on the device and need none of this; so a plan is made when something asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

_SHORTEST = 16
"""Numbers of a vector register: torch's softmax takes shorter rows one number at a time, ten times slower."""
MULTIPLE_IN_16_BITS = 8
"""Lengths of groups where oneDNN multiplies 16 bits: it compiles a product for each length, and pads to as many numbers
itself."""
_GROUP_COST = 3000
_TOKEN_COST = 40
_QUERIES = 64
_OUT_OF_SIGHT = -1e30
"""In place of -inf for padding under a window: a query that is padding may see nothing else, and must stay a number."""


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences that are attended together.

    Attributes:
        sequences: how many, n.
        length: of the longest, or more (`_slots`), L.
        first_slot: where the group's n * L slots begin among those of all groups.
        runs: of sequences of one length, in ascending order: where each ends among the n, and the length.
        key_mask: [n, 1, 1, L], 0 for tokens and -inf for padding; None when all have length L.
    """

    sequences: int
    length: int
    first_slot: int
    runs: tuple[tuple[int, int], ...]
    key_mask: Tensor | None


@dataclass(frozen=True)
class Piece:
    """Queries of each sequence of a group, and the keys that any of them sees.

    Attributes:
        queries, keys: where they are in their sequences.
        alone: whether they are all of the group's.
        padding: [n, 1, 1, keys], 0 for tokens and `hidden` for padding; None where there is none.
        hidden: the score of a key that is padding.
        ends: of sequences with padding: the first one, where they end, and the first of their keys that is padding.
        band: [queries, keys], 0 within the window and -inf beyond it; None without a window.
    """

    queries: slice
    keys: slice
    alone: bool
    padding: Tensor | None
    hidden: float
    ends: tuple[tuple[int, int, int], ...]
    band: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """Queries and keys of a sequence."""
        return self.queries.stop - self.queries.start, self.keys.stop - self.keys.start


@dataclass(frozen=True)
class Layout:
    """Where the tokens lie in the groups.

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


@dataclass(frozen=True)
class Rows:
    """Row numbers of a [T * parts * heads, d] memory beside the groups' blocks [parts, n, heads, L, d], end to end.

    Attributes:
        gather: the memory's row for each row of the blocks; padding repeats its sequence's first token.
        back: the blocks' row for each row of the memory.
        padding: the blocks' rows that are padding; None when no group is padded.
    """

    gather: Tensor
    back: Tensor
    padding: Tensor | None


def _sent(value: Any, device: torch.device) -> Any:
    """The same with its tensors on a device; the host does not wait."""
    if isinstance(value, Tensor):
        return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_sent(part, device) for part in value)
    if not is_dataclass(value):
        return value
    sent = {field.name: _sent(getattr(value, field.name), device) for field in fields(value)}
    return replace(value, **sent)  # type: ignore[type-var]


class AttentionPlan:
    """How a packed batch is cut into groups; reusable for every layer of a forward pass, and its backward.

    The groups are chosen when the layout is first read: kernels that take `cu_seqlens` as it is never do, and then
    nothing waits for the device. Boundaries on the host are checked at once, except under `torch.export`.

    Attributes:
        cu_seqlens: [S + 1] integers from 0 to T, where each sequence begins.
    """

    def __init__(self, cu_seqlens: Tensor, multiple: int = 1, starts: Sequence[int] | None = None) -> None:
        self.cu_seqlens, self._multiple = cu_seqlens, multiple
        at_once = cu_seqlens.device.type == "cpu" and not torch.compiler.is_exporting()
        self._starts = _checked(cu_seqlens.tolist()) if at_once else None if starts is None else _checked(starts)
        self._rows: dict[tuple[int, int], Rows] = {}
        self._pieces: dict[int | None, list[list[Piece]]] = {}

    @property
    def tokens(self) -> int | None:
        """T; None while `cu_seqlens` is on a device and has not been read."""
        return None if self._starts is None else self._starts[-1]

    @cached_property
    def _on_host(self) -> Layout:
        if self._starts is None:
            self._starts = _checked(self.cu_seqlens.tolist())
        return _make_layout(self._starts, self._multiple)

    @cached_property
    def layout(self) -> Layout:
        layout: Layout = _sent(self._on_host, self.cu_seqlens.device)
        return layout

    def rows(self, heads: int, parts: int) -> Rows:
        """Row numbers for `parts` of `heads` heads, made at the first call."""
        if (heads, parts) not in self._rows:
            self._rows[heads, parts] = _sent(_make_rows(self._on_host, heads, parts), self.cu_seqlens.device)
        return self._rows[heads, parts]

    def pieces(self, window: int | None) -> list[list[Piece]]:
        """Of each group, by the window of a layer, made at the first call."""
        if window not in self._pieces:
            device = self.cu_seqlens.device
            self._pieces[window] = [_make_pieces(group, window, device) for group in self.layout.groups]
        return self._pieces[window]


def attention_plan(cu_seqlens: Tensor, *, multiple: int = 1, starts: Sequence[int] | None = None) -> AttentionPlan:
    """Choose the groups for a packed batch, at the first use of the plan.

    Sequences are sorted by length; the cuts minimise the area of all score matrices and the number of slots, plus a
    fixed cost for each group, so that equal lengths form one group and small batches are not cut into slivers.

    Args:
        cu_seqlens: [S + 1] integers from 0 to T, where each sequence begins; read on the host, from a device only
            where plain torch is the implementation and there are no `starts`.
        multiple: of the lengths of groups; what is above the longest sequence is padding.
        starts: the numbers in `cu_seqlens`, where the host knows them and the tensor is on a device.

    Raises:
        ValueError: `cu_seqlens` does not rise from 0; on a device at the first use.
    """
    return AttentionPlan(cu_seqlens, multiple, starts)


def _checked(starts: Sequence[int]) -> Sequence[int]:
    if not starts or starts[0] != 0 or any(end < start for start, end in zip(starts, starts[1:], strict=False)):
        raise ValueError("cu_seqlens must rise from 0")
    return starts


def _make_layout(starts: Sequence[int], multiple: int) -> Layout:
    lengths = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (lengths[i], i))
    groups, pieces, masks = [], [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.bool)]
    first = 0
    for begin, end in _cuts([lengths[i] for i in order], multiple):
        members = order[begin:end]
        sizes = torch.tensor([lengths[i] for i in members])
        offsets = torch.tensor([starts[i] for i in members])
        column = torch.arange(_slots(lengths[members[-1]], multiple))
        pad = column >= sizes[:, None]
        key_mask = None
        if bool(pad.any()):
            key_mask = torch.zeros(pad.shape).masked_fill_(pad, float("-inf"))[:, None, None]
        pieces.append((offsets[:, None] + column.masked_fill(pad, 0)).flatten())
        masks.append(pad.flatten())
        lengths_of = sizes.tolist()
        runs = tuple((end, size) for end, size in enumerate(lengths_of, 1) if lengths_of[end : end + 1] != [size])
        groups.append(AttentionGroup(len(members), len(column), first, runs, key_mask))
        first += pad.numel()
    slot_token, padding = torch.cat(pieces), torch.cat(masks)
    token_slot = torch.empty(starts[-1], dtype=torch.int64)
    token_slot[slot_token[~padding]] = torch.arange(first)[~padding]
    return Layout(
        groups=tuple(groups),
        slot_token=slot_token,
        token_slot=token_slot,
        padding=padding if bool(padding.any()) else None,
        in_order=torch.equal(slot_token, torch.arange(starts[-1])),
    )


def _slots(longest: int, multiple: int) -> int:
    """The length of a group with this longest sequence."""
    return max(-(-longest // multiple) * multiple, _SHORTEST)


def _cuts(lengths: list[int], multiple: int = 1) -> list[tuple[int, int]]:
    """Spans of the ascending `lengths` with the least total cost, by dynamic programming over distinct lengths."""
    ends = [i + 1 for i in range(len(lengths)) if i + 1 == len(lengths) or lengths[i] != lengths[i + 1]]
    starts = [0, *ends]
    best = [0.0]
    choice = [0]
    for end in ends:
        longest = _slots(lengths[end - 1], multiple)
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


def _make_pieces(group: AttentionGroup, window: int | None, device: torch.device) -> list[Piece]:
    """The group as it is where a window hides nothing; else blocks of queries, one where they would see all keys.

    Keys begin at even places, where the words of a dropout mask do.
    """
    length = group.length
    if window is None or window >= length - 1:
        whole = slice(0, length)
        return [Piece(whole, whole, True, group.key_mask, float("-inf"), _ends(group, whole), None)]
    height = length if length <= _QUERIES + 2 * window else _QUERIES
    before = window + window % 2
    place = torch.arange(-before, height + window, device=device)
    hidden = (place - torch.arange(height, device=device)[:, None]).abs() > window
    band = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))
    pieces = []
    for begin in range(0, length, height):
        queries = slice(begin, min(begin + height, length))
        keys = slice(max(0, begin - before), min(queries.stop + window, length))
        first = keys.start - begin + before
        part = band[: queries.stop - begin, first : first + keys.stop - keys.start]
        ends, padding = _ends(group, keys), None
        if ends and group.key_mask is not None:
            padding = group.key_mask[..., keys].clamp(min=_OUT_OF_SIGHT)
        pieces.append(Piece(queries, keys, height == length, padding, _OUT_OF_SIGHT, ends, part))
    return pieces


def _ends(group: AttentionGroup, keys: slice) -> tuple[tuple[int, int, int], ...]:
    """`Piece.ends` of the group's sequences, by their keys in a piece."""
    starts = (0, *(end for end, _ in group.runs))
    runs = ((start, end, max(0, size - keys.start)) for start, (end, size) in zip(starts, group.runs, strict=False))
    return tuple(run for run in runs if run[2] < keys.stop - keys.start)


def _make_rows(layout: Layout, heads: int, parts: int) -> Rows:
    tokens = layout.token_slot.shape[0]
    lane = torch.arange(parts * heads).view(parts, 1, heads, 1)
    gathers, paddings = [lane.new_empty(0)], [lane.new_empty(0, dtype=torch.bool)]
    for group in layout.groups:
        slots = slice(group.first_slot, group.first_slot + group.sequences * group.length)
        shape = 1, group.sequences, 1, group.length
        rows = layout.slot_token[slots].view(shape) * (parts * heads) + lane
        gathers.append(rows.flatten())
        if layout.padding is not None:
            paddings.append(layout.padding[slots].view(shape).expand(rows.shape).flatten())
    gather = torch.cat(gathers)
    numbers, back = torch.arange(len(gather)), lane.new_empty(tokens * parts * heads)
    if layout.padding is None:
        return Rows(gather, back.index_copy_(0, gather, numbers), None)
    padding = torch.cat(paddings)
    return Rows(gather, back.index_copy_(0, gather[~padding], numbers[~padding]), numbers[padding])
