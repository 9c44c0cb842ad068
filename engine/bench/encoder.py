"""Benchmark cases of the encoder's and the heads' operations."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels import (
    attention_plan,
    dropout,
    dropout_residual_layer_norm,
    embedding_layer_norm,
    linear_gelu,
    packed_attention,
    voter_mlp,
)
from ...kernels.masks import keep_mask, keep_scale
from ...model.heads import default_voter_widths
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
    compare,
    compiled,
    differentiate,
    in_double,
    lengths,
    plain_and_compiled,
)
from .measure import Tensors

EPS = 1e-12
POSITIONS, SEGMENTS = 512, 2
HEAD_SIZE = 64


def layer_norm_cases(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "dropout_residual_layer_norm", {"T": t, "H": sizes.hidden}, min(i, 2), partial(_layer_norm, t, sizes.hidden)
        )
        for i, t in enumerate(sizes.tokens)
    ]


def _layer_norm(tokens: int, size: int, at: Setting) -> Problem:
    inputs = {
        "x": at.normal(tokens, size, key="x", grad=True),
        "residual": at.normal(tokens, size, key="residual", grad=True),
        "weight": at.normal(size, key="weight", grad=True),
        "bias": at.normal(size, key="norm bias", grad=True),
    }
    x, residual, weight, bias = inputs.values()
    upstream = at.normal(tokens, size, key="upstream")

    def ours(p: float) -> Tensor:
        return dropout_residual_layer_norm(x, residual, weight, bias, eps=EPS, p=p, seed=SEED, site=SITE)

    def plain(p: float, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.layer_norm(functional.dropout(x, p) + residual, (size,), weight, bias, EPS)

    def liger() -> Call:
        norm = peers.liger_layer_norm(EPS)
        return call(
            lambda p: norm(functional.dropout(x, p) + residual, weight, bias), inputs, upstream=upstream, p=DROPOUT
        )

    others = (Variant("Liger", liger, note="its LayerNorm alone is fused; dropout and sum are eager"),)
    # forward reads x and the residual, writes the result and what backward needs of it; backward the mirror image
    moved = 8.0 * x.numel() * x.element_size()
    return compare(ours, plain, inputs, upstream=upstream, p=DROPOUT, others=others, moved=moved)


def gelu_cases(sizes: Sizes) -> list[Case]:
    size, inner = sizes.hidden, sizes.inner
    return [
        Case("linear_gelu", {"T": t, "H": size, "F": inner}, min(i, 2), partial(_linear_gelu, t, size, inner))
        for i, t in enumerate(sizes.tokens)
    ]


def _linear_gelu(tokens: int, size: int, inner: int, at: Setting) -> Problem:
    inputs = {
        "x": at.normal(tokens, size, key="x", grad=True),
        "weight": at.normal(inner, size, key="up", std=0.02, grad=True),
        "bias": at.normal(inner, key="up bias", std=0.02, grad=True),
    }
    x, weight, bias = inputs.values()
    upstream = at.normal(tokens, inner, key="upstream")

    def plain(p: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.gelu(functional.linear(x, weight, bias))

    def products() -> Call:
        forward = partial(functional.linear, x, weight, bias.detach())
        return call(lambda p: forward(), {"x": x, "weight": weight}, upstream=upstream, comparable=False)

    note = "what another row takes longer is its GELU and bias gradient"
    others = (Variant("matrix products alone", products, note=note, plain=True, rival=False),)
    flops = 6.0 * tokens * size * inner
    moved = 3.0 * x.element_size() * (x.numel() + weight.numel() + upstream.numel())
    return compare(
        lambda p: linear_gelu(x, weight, bias),
        plain,
        inputs,
        upstream=upstream,
        others=others,
        flops=flops,
        moved=moved,
    )


def embedding_cases(sizes: Sizes) -> list[Case]:
    size, vocabulary = sizes.hidden, sizes.vocabularies[0]
    return [
        Case(
            "embedding_layer_norm",
            {"T": t, "H": size, "V": vocabulary, "tables": "frozen" if frozen else "trainable"},
            min(i, 2),
            partial(_embedding, t, size, vocabulary, frozen),
        )
        for i, t in enumerate(sizes.tokens)
        for frozen in (True, False)
    ]


def _embedding(tokens: int, size: int, vocabulary: int, frozen: bool, at: Setting) -> Problem:
    """With frozen tables forward alone."""
    inputs = {
        "word": at.normal(vocabulary, size, key="word", std=0.02, grad=not frozen),
        "position": at.normal(POSITIONS, size, key="position", std=0.02, grad=not frozen),
        "segment": at.normal(SEGMENTS, size, key="segment", std=0.02, grad=not frozen),
        "weight": at.normal(size, key="weight", grad=not frozen),
        "bias": at.normal(size, key="norm bias", grad=not frozen),
    }
    word, position, segment, weight, bias = inputs.values()
    ids = at.integers(vocabulary, tokens, key="ids")
    positions = torch.arange(tokens, device=at.device) % min(128, POSITIONS)
    segments = at.integers(SEGMENTS, tokens, key="segments")
    upstream = None if frozen else at.normal(tokens, size, key="upstream")

    def ours(p: float) -> Tensor:
        return embedding_layer_norm(
            ids, positions, segments, word, position, segment, weight, bias, eps=EPS, p=p, seed=SEED, site=SITE
        )

    def plain(p: float, word: Tensor, position: Tensor, segment: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = functional.embedding(ids, word) + functional.embedding(positions, position)
        rows = rows + functional.embedding(segments, segment)
        return functional.dropout(functional.layer_norm(rows, (size,), weight, bias, EPS), p)

    def liger() -> Call:
        norm, lookup = peers.liger_layer_norm(EPS), peers.liger_embedding()

        def forward(p: float) -> Tensor:
            rows = lookup(word, ids) + lookup(position, positions) + lookup(segment, segments)
            return functional.dropout(norm(rows, weight, bias), p)

        return call(forward, inputs, upstream=upstream, p=DROPOUT)

    others = (Variant("Liger", liger, note="its three look-ups and its LayerNorm; dropout is eager"),)
    # forward reads rows and writes the result; trainable, it also keeps the sum, which backward reads with the upstream
    # gradient, and the word table's dense gradient is written
    values = tokens * size
    moved = word.element_size() * (2 * values if frozen else 5 * values + word.numel()) + 24.0 * tokens
    return compare(ours, plain, inputs, upstream=upstream, p=DROPOUT, others=others, moved=moved)


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

    def _gather(self, results: Tensors) -> Tensors:
        return {name: value[self.inside] for name, value in results.items()}

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


def dropout_cases(sizes: Sizes) -> list[Case]:
    tokens = sizes.tokens[0]
    return [Case("dropout", {"T": tokens, "H": sizes.hidden}, 1, partial(_dropout, tokens, sizes.hidden))]


def _dropout(tokens: int, size: int, at: Setting) -> Problem:
    x = at.normal(tokens, size, key="x", grad=True)
    upstream = at.normal(tokens, size, key="upstream")

    def truth() -> Tensors:
        factor = keep_mask(tokens, size, DROPOUT, SEED, SITE, at.device).double() * keep_scale(DROPOUT)
        return {"out": x.detach().double() * factor, "d_x": upstream.double() * factor}

    def of(forward: Forward, comparable: bool) -> Call:
        return Call(differentiate(forward, {"x": x}, DROPOUT, upstream), comparable=comparable)

    def plain(p: float) -> Tensor:
        return functional.dropout(x, p)

    variants = (
        *both_paths(lambda: of(lambda p: dropout(x, p, seed=SEED, site=SITE), True)),
        Variant("torch eager", lambda: of(plain, False), plain=True),
        Variant("torch.compile", lambda: of(compiled(plain), False)),
    )
    return Problem(variants, truth, flops=0.0, moved=4.0 * x.numel() * x.element_size())


def voter_mlp_cases(sizes: Sizes) -> list[Case]:
    items, widths = min(sizes.tokens[:2]), default_voter_widths(sizes.hidden)
    shape: dict[str, int | str] = {"K": items, "H": sizes.hidden, "M": len(widths), "D": max(widths)}
    return [Case("voter_mlp", shape, 1, partial(_voter_mlp, items, sizes.hidden, widths))]


def _voter_mlp(items: int, size: int, widths: tuple[int, ...], at: Setting) -> Problem:
    """The others compute voter by voter, without padding."""
    x = at.normal(items, size, key="x", grad=True)
    upstream = at.normal(len(widths), items, size, key="upstream")
    parts: list[Tensors] = [
        {
            "w1": at.normal(d, size, key=f"w1 {m}", std=0.02, grad=True),
            "b1": at.normal(d, key=f"b1 {m}", std=0.02, grad=True),
            "w2": at.normal(size, d, key=f"w2 {m}", std=0.02, grad=True),
            "b2": at.normal(size, key=f"b2 {m}", std=0.02, grad=True),
        }
        for m, d in enumerate(widths)
    ]
    stacked = {"x": x} | {name: _stack([part[name].detach() for part in parts]) for name in parts[0]}
    each = {"x": x} | {f"{name}_{m}": value for m, part in enumerate(parts) for name, value in part.items()}

    def ours(p: float) -> Tensor:
        return voter_mlp(*stacked.values(), p=p, seed=SEED, site=SITE)

    def plain(p: float, x: Tensor, *rest: Tensor) -> Tensor:
        voters = []
        for w1, b1, w2, b2 in zip(*[iter(rest)] * 4, strict=True):
            inner = functional.dropout(functional.gelu(functional.linear(x, w1, b1)), p)
            voters.append(functional.linear(inner, w2, b2))
        return torch.stack(voters)

    flops = 12.0 * items * size * sum(widths)
    moved = x.element_size() * 2.0 * (sum(value.numel() for value in each.values()) + upstream.numel())
    variants = (
        *both_paths(lambda: call(ours, stacked, upstream=upstream, p=DROPOUT)),
        *plain_and_compiled(lambda p: plain(p, *each.values()), each, upstream=upstream, p=DROPOUT),
    )
    return Problem(variants, in_double(partial(plain, 0.0), each, upstream), flops, moved)


def _stack(parts: list[Tensor]) -> Tensor:
    """Voters' parameters as one, zeros where a voter is narrower than the widest."""
    shape = [max(part.shape[i] for part in parts) for i in range(parts[0].dim())]
    out = parts[0].new_zeros(len(parts), *shape)
    for m, part in enumerate(parts):
        out[m][tuple(slice(n) for n in part.shape)] = part
    return out.requires_grad_()
