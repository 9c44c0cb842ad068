"""The cases of attention: packed sequences of many lengths beside padded ones, and windows over long sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels import attention_plan, packed_attention, rotary_table
from ...kernels.attention import rotate
from .case import (
    DROPOUT,
    MASKS,
    Call,
    Forward,
    Problem,
    Setting,
    Shape,
    Sizes,
    Variant,
    both_paths,
    compare,
    compiled,
    in_double,
    lengths,
    ways,
)
from .harness import Tensors

HEAD_SIZE = 64


class _Padded:
    """The same sequences as [S, L, ...], for what cannot do without padding; L is a multiple of 8, as they like it."""

    def __init__(self, sizes: Tensor, longest: int, qkv: Tensor, upstream: Tensor) -> None:
        self.inside = torch.arange(-(-longest // 8) * 8, device=sizes.device) < sizes[:, None]
        self.mask = self.inside[:, None, None]
        self.leaves = {"qkv": self._spread(qkv).requires_grad_()}
        self.upstream = self._spread(upstream)

    def _spread(self, x: Tensor) -> Tensor:
        out = x.new_zeros(*self.inside.shape, *x.shape[1:])
        out[self.inside] = x.detach()
        return out

    def _gather(self, results: Tensors) -> Tensors:
        return {name: value[self.inside] for name, value in results.items()}

    def eager(self, p: float, qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return _attend(q, k, v, ~self.mask, p).transpose(1, 2)

    def sdpa(self, p: float, qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, dropout_p=p).transpose(1, 2)

    def call(self, forward: Forward, comparable: bool = True) -> Call:
        made = ways(self.leaves, self.upstream, DROPOUT)(lambda: forward, comparable)()
        check = made.check
        return made._replace(check=check and (lambda: self._gather(check())))

    def truth(self) -> Tensors:
        return self._gather(in_double(partial(self.eager, 0.0), self.leaves, self.upstream)())


def _attend(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, p: float = 0.0) -> Tensor:
    scores = (q @ k.transpose(-1, -2) * HEAD_SIZE**-0.5).masked_fill(hidden, float("-inf"))
    out: Tensor = functional.dropout(scores.softmax(-1), p) @ v
    return out


def attention_shapes(sizes: Sizes) -> Iterator[tuple[int, Shape]]:
    """Batches of both kinds of lengths."""
    for rank, count in enumerate(sizes.sequences):
        for kind in ("conll", "review"):
            drawn = lengths(kind, count, scale=sizes.name)
            shape: Shape = {"lengths": kind, "S": count, "T": sum(drawn), "longest": max(drawn)}
            yield rank, shape | {"heads": sizes.heads, "d": HEAD_SIZE}


def drawn_lengths(s: Shape) -> list[int]:
    """Those of a shape's sequences."""
    return lengths(s["lengths"], s["S"], scale="full" if s["longest"] > 12 else "tiny")


def packed(at: Setting, s: Shape) -> Problem:
    """Sequences of drawn lengths, end to end."""
    drawn = drawn_lengths(s)
    tokens, longest, heads = s["T"], s["longest"], s["heads"]
    qkv = at.normal(tokens, 3, heads, HEAD_SIZE, key="qkv", grad=True)
    upstream = at.normal(tokens, heads, HEAD_SIZE, key="upstream")
    sizes = torch.tensor(drawn, device=at.device)
    bounds = functional.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
    plan, padded = attention_plan(bounds), _Padded(sizes, longest, qkv, upstream)

    def ours(p: float, qkv: Tensor) -> Tensor:
        return packed_attention(qkv, bounds, longest, p=p, plan=plan, **MASKS)

    note = "padded; padding and unpadding are not timed"
    variants = (
        *both_paths(ways({"qkv": qkv}, upstream, DROPOUT)(lambda: ours, True)),
        Variant("padded SDPA", lambda: padded.call(padded.sdpa), note=note),
        Variant("torch eager", lambda: padded.call(padded.eager), note=note, plain=True),
        Variant("torch.compile", lambda: padded.call(compiled(padded.eager), False), note=note),
    )
    # two products forward and five backward; forward reads 3 and writes 1 of [T, heads, d], backward reads 5, writes 3
    flops = 14.0 * heads * HEAD_SIZE * sum(n * n for n in drawn)
    moved = 12.0 * upstream.numel() * upstream.element_size()
    return Problem(variants, padded.truth, {"qkv": qkv}, upstream, DROPOUT, flops, moved)


def windowed_shapes(sizes: Sizes) -> list[tuple[int, Shape]]:
    """Long sequences, within a window and whole."""
    count, length, window = sizes.window
    shape: Shape = {"S": count, "L": length, "heads": sizes.heads, "d": HEAD_SIZE}
    return [(i, shape | {"rotary, window": w}) for i, w in enumerate((window, "all"))]


def windowed(at: Setting, s: Shape) -> Problem:
    """Sequences of one length, which the others need no padding for."""
    count, length, heads, window = s["S"], s["L"], s["heads"], s["rotary, window"]
    window = None if window == "all" else window
    qkv = at.normal(count * length, 3, heads, HEAD_SIZE, key="qkv", grad=True)
    upstream = at.normal(count * length, heads, HEAD_SIZE, key="upstream")
    bounds = torch.arange(count + 1, dtype=torch.int32, device=at.device) * length
    place = torch.arange(length, device=at.device)
    hidden = (place - place[:, None]).abs() > (length if window is None else window)
    rows, plan = rotary_table(place, HEAD_SIZE, 10_000.0).repeat(count, 1), attention_plan(bounds)
    masked = partial(functional.scaled_dot_product_attention, attn_mask=None if window is None else ~hidden)
    sdpa = ways({"qkv": qkv}, upstream)(lambda: by_length(at, s, masked), True)
    return compare(
        lambda p, qkv: packed_attention(qkv, bounds, length, plan=plan, rotary=rows, window=window),
        by_length(at, s, lambda q, k, v: _attend(q, k, v, hidden)),
        {"qkv": qkv},
        upstream=upstream,
        others=[Variant("SDPA, mask", sdpa, plain=True)],
        flops=14.0 * heads * HEAD_SIZE * int((~hidden).sum()) * count,
        moved=12.0 * upstream.numel() * upstream.element_size() + 8.0 * rows.numel(),
    )


def by_length(at: Setting, s: Shape, attend: Callable[..., Tensor]) -> Forward:
    """From attention over q, k and v [S, heads, L, d], which are rotated here, to one over qkv."""
    count, length, heads = s["S"], s["L"], s["heads"]
    table = rotary_table(torch.arange(length, device=at.device), HEAD_SIZE, 10_000.0)

    def forward(p: float, qkv: Tensor) -> Tensor:
        q, k, v = qkv.view(count, length, 3, heads, HEAD_SIZE).permute(2, 0, 3, 1, 4)
        out = attend(rotate(q, table), rotate(k, table), v)
        return out.transpose(1, 2).reshape(count * length, heads, HEAD_SIZE)

    return forward
