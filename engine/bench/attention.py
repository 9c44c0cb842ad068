"""Benchmark cases of attention over packed sequences."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels import attention_plan, packed_attention
from . import peers as peers
from .case import (
    DROPOUT,
    SEED,
    SITE,
    Call,
    Case,
    Forward,
    Problem,
    Setting,
    Sizes,
    Variant,
    both_paths,
    call,
    compiled,
    differentiate,
    in_double,
    lengths,
)
from .measure import Tensors

HEAD_SIZE = 64


def attention_cases(sizes: Sizes) -> list[Case]:
    cases = []
    for index, count in enumerate(sizes.sequences):
        for kind in ("conll", "review"):
            drawn = lengths(kind, count, scale=sizes.name)
            shape: dict[str, int | str] = {"lengths": kind, "S": count, "T": sum(drawn), "longest": max(drawn)}
            shape |= {"heads": sizes.heads, "d": HEAD_SIZE}
            cases.append(Case("packed_attention", shape, index, partial(_attention, drawn, sizes.heads)))
    return cases


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

    def _gather(self, found: Tensors) -> Tensors:
        return {name: value[self.inside] for name, value in found.items()}

    def explicit(self, qkv: Tensor, p: float) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2) * HEAD_SIZE**-0.5).masked_fill(~self.mask, float("-inf"))
        out: Tensor = functional.dropout(scores.softmax(-1), p) @ v
        return out.transpose(1, 2)

    def eager(self, p: float) -> Tensor:
        return self.explicit(self.leaves["qkv"], p)

    def sdpa(self, p: float) -> Tensor:
        q, k, v = self.leaves["qkv"].permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, dropout_p=p).transpose(1, 2)

    def call(self, forward: Forward, comparable: bool = True) -> Call:
        run, check = (differentiate(forward, self.leaves, p, self.upstream) for p in (DROPOUT, 0.0))
        return Call(run, lambda: self._gather(check()), comparable=comparable)

    def truth(self) -> Tensors:
        return self._gather(in_double(lambda qkv: self.explicit(qkv, 0.0), self.leaves, self.upstream)())


def _attention(drawn: list[int], heads: int, at: Setting) -> Problem:
    tokens, longest = sum(drawn), max(drawn)
    qkv = at.normal(tokens, 3, heads, HEAD_SIZE, key="qkv", grad=True)
    upstream = at.normal(tokens, heads, HEAD_SIZE, key="upstream")
    sizes = torch.tensor(drawn, device=at.device)
    bounds = functional.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
    plan = attention_plan(bounds)
    padded = _Padded(sizes, longest, qkv, upstream)

    def ours(p: float) -> Tensor:
        return packed_attention(qkv, bounds, longest, p=p, seed=SEED, site=SITE, plan=plan)

    def flash() -> Call:
        attend = peers.flash_attention(bounds, longest)
        return call(lambda p: attend(qkv, p), {"qkv": qkv}, upstream=upstream, p=DROPOUT)

    note = "padded; padding and unpadding are not timed"
    variants = (
        *both_paths(lambda: call(ours, {"qkv": qkv}, upstream=upstream, p=DROPOUT)),
        Variant("aten flash", flash, note="packed"),
        Variant("padded SDPA", lambda: padded.call(padded.sdpa), note=note),
        Variant("torch eager", lambda: padded.call(padded.eager), note=note, plain=True),
        Variant("torch.compile", lambda: padded.call(compiled(padded.eager), False), note=note),
    )
    # two products forward and five backward; forward reads 3 and writes 1 of [T, heads, d], backward reads 5, writes 3
    flops = 14.0 * heads * HEAD_SIZE * sum(n * n for n in drawn)
    return Problem(variants, padded.truth, flops, 12.0 * upstream.numel() * upstream.element_size())
