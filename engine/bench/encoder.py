"""Benchmark cases of the encoder's and the heads' operations, attention apart."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels import dropout, dropout_residual_layer_norm, embedding_layer_norm, linear_gelu, voter_mlp
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
    compiled,
    differentiate,
    in_double,
    plain_and_compiled,
)
from .measure import Tensors

EPS = 1e-12
POSITIONS, SEGMENTS = 512, 2


def _rank(index: int) -> int:
    return min(index, 2)


def layer_norm_cases(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "dropout_residual_layer_norm",
            f"{tokens:,} tokens, H {sizes.hidden}",
            _rank(index),
            partial(_layer_norm, tokens, sizes.hidden),
            {"T": tokens, "H": sizes.hidden},
        )
        for index, tokens in enumerate(sizes.tokens)
    ]


def _layer_norm(tokens: int, size: int, at: Setting) -> Problem:
    leaves = {
        "x": at.normal(tokens, size, key="x", grad=True),
        "residual": at.normal(tokens, size, key="residual", grad=True),
        "weight": at.normal(size, key="weight", grad=True),
        "bias": at.normal(size, key="norm bias", grad=True),
    }
    x, residual, weight, bias = leaves.values()
    upstream = at.normal(tokens, size, key="upstream")

    def ours(p: float) -> Tensor:
        return dropout_residual_layer_norm(x, residual, weight, bias, eps=EPS, p=p, seed=SEED, site=SITE)

    def plain(p: float) -> Tensor:
        return functional.layer_norm(functional.dropout(x, p) + residual, (size,), weight, bias, EPS)

    def liger() -> Call:
        norm = peers.liger_layer_norm(EPS)
        return call(
            lambda p: norm(functional.dropout(x, p) + residual, weight, bias), leaves, upstream=upstream, p=DROPOUT
        )

    def wide(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.layer_norm(x + residual, (size,), weight, bias, EPS)

    variants = (
        *both_paths(lambda: call(ours, leaves, upstream=upstream, p=DROPOUT)),
        *plain_and_compiled(plain, leaves, upstream=upstream, p=DROPOUT),
        Variant("Liger", liger, note="its LayerNorm alone is fused; dropout and sum are eager"),
    )
    # forward reads x and the residual, writes the result and what backward needs of it; backward the mirror image
    moved = 8.0 * x.numel() * x.element_size()
    return Problem(variants, in_double(wide, leaves, upstream), flops=0.0, moved=moved)


def gelu_cases(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "linear_gelu",
            f"{tokens:,} tokens, {sizes.hidden} to {sizes.inner}",
            _rank(index),
            partial(_linear_gelu, tokens, sizes.hidden, sizes.inner),
            {"T": tokens, "H": sizes.hidden, "F": sizes.inner},
        )
        for index, tokens in enumerate(sizes.tokens)
    ]


def _linear_gelu(tokens: int, size: int, inner: int, at: Setting) -> Problem:
    leaves = {
        "x": at.normal(tokens, size, key="x", grad=True),
        "weight": at.normal(inner, size, key="up", std=0.02, grad=True),
        "bias": at.normal(inner, key="up bias", std=0.02, grad=True),
    }
    x, weight, bias = leaves.values()
    upstream = at.normal(tokens, inner, key="upstream")
    products = "matrix products alone"

    def wide(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.gelu(functional.linear(x, weight, bias))

    def alone() -> Call:
        without = {"x": x, "weight": weight}
        forward = partial(functional.linear, x, weight, bias.detach())
        return call(lambda p: forward(), without, upstream=upstream, comparable=False)

    variants = (
        *both_paths(lambda: call(lambda p: linear_gelu(x, weight, bias), leaves, upstream=upstream)),
        *plain_and_compiled(lambda p: wide(x, weight, bias), leaves, upstream=upstream),
        Variant(products, alone, note="what another row takes longer is its GELU and bias gradient", plain=True),
    )
    flops = 6.0 * tokens * size * inner
    element = x.element_size()
    whole = element * (3 * x.numel() + 3 * weight.numel() + 3 * upstream.numel())
    # the GELU part: forward reads and writes, backward reads two and writes one
    rest = 5.0 * element * upstream.numel()
    return Problem(variants, in_double(wide, leaves, upstream), flops, whole, part=(products, rest))


def embedding_cases(sizes: Sizes) -> list[Case]:
    found = []
    for index, tokens in enumerate(sizes.tokens):
        for frozen in (True, False):
            name = f"{tokens:,} tokens, H {sizes.hidden}, {'frozen: forward alone' if frozen else 'trainable'}"
            build = partial(_embedding, tokens, sizes.hidden, sizes.vocabularies[0], frozen)
            shape: dict[str, int | str] = {"T": tokens, "H": sizes.hidden, "V": sizes.vocabularies[0]}
            shape["tables"] = "frozen" if frozen else "trainable"
            found.append(Case("embedding_layer_norm", name, _rank(index), build, shape))
    return found


def _embedding(tokens: int, size: int, vocabulary: int, frozen: bool, at: Setting) -> Problem:
    tables = {
        "word": at.normal(vocabulary, size, key="word", std=0.02, grad=not frozen),
        "position": at.normal(POSITIONS, size, key="position", std=0.02, grad=not frozen),
        "segment": at.normal(SEGMENTS, size, key="segment", std=0.02, grad=not frozen),
        "weight": at.normal(size, key="weight", grad=not frozen),
        "bias": at.normal(size, key="norm bias", grad=not frozen),
    }
    ids = at.integers(vocabulary, tokens, key="ids")
    positions = torch.arange(tokens, device=at.device) % min(128, POSITIONS)
    segments = at.integers(SEGMENTS, tokens, key="segments")
    leaves = {} if frozen else tables
    upstream = None if frozen else at.normal(tokens, size, key="upstream")

    def ours(p: float) -> Tensor:
        return embedding_layer_norm(
            ids, positions, segments, *tables.values(), eps=EPS, p=p, seed=SEED, site=SITE
        )  # fmt: skip

    def total(word: Tensor, position: Tensor, segment: Tensor) -> Tensor:
        rows = functional.embedding(ids, word) + functional.embedding(positions, position)
        return rows + functional.embedding(segments, segment)

    def wide(word: Tensor, position: Tensor, segment: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.layer_norm(total(word, position, segment), (size,), weight, bias, EPS)

    def plain(p: float) -> Tensor:
        return functional.dropout(wide(*tables.values()), p)

    def liger() -> Call:
        norm, lookup = peers.liger_layer_norm(EPS), peers.liger_embedding()
        word, position, segment, weight, bias = tables.values()

        def forward(p: float) -> Tensor:
            rows = lookup(word, ids) + lookup(position, positions) + lookup(segment, segments)
            return functional.dropout(norm(rows, weight, bias), p)

        return call(forward, leaves, upstream=upstream, p=DROPOUT)

    variants = (
        *both_paths(lambda: call(ours, leaves, upstream=upstream, p=DROPOUT)),
        *plain_and_compiled(plain, leaves, upstream=upstream, p=DROPOUT),
        Variant("Liger", liger, note="its three look-ups and its LayerNorm; dropout is eager"),
    )
    # forward reads rows and writes the result; trainable, it also keeps the sum, which backward reads with the upstream
    # gradient, and the word table's dense gradient is written
    element = tables["word"].element_size()
    values = tokens * size
    moved = element * (2 * values if frozen else 5 * values + tables["word"].numel()) + 24.0 * tokens
    if frozen:
        return Problem(variants, lambda: {"out": wide(*(t.double() for t in tables.values()))}, 0.0, moved)
    return Problem(variants, in_double(wide, tables, upstream), 0.0, moved)


def dropout_cases(sizes: Sizes) -> list[Case]:
    tokens = sizes.tokens[0]
    shape: dict[str, int | str] = {"T": tokens, "H": sizes.hidden}
    return [Case("dropout", f"{tokens:,} tokens, H {sizes.hidden}", 1, partial(_dropout, tokens, sizes.hidden), shape)]


def _dropout(tokens: int, size: int, at: Setting) -> Problem:
    x = at.normal(tokens, size, key="x", grad=True)
    upstream = at.normal(tokens, size, key="upstream")
    leaves = {"x": x}

    def truth() -> Tensors:
        factor = keep_mask(tokens, size, DROPOUT, SEED, SITE, at.device).double() * keep_scale(DROPOUT)
        return {"out": x.detach().double() * factor, "d_x": upstream.double() * factor}

    def ours() -> Call:
        return Call(differentiate(lambda p: dropout(x, p, seed=SEED, site=SITE), leaves, DROPOUT, upstream))

    def plain(p: float) -> Tensor:
        return functional.dropout(x, p)

    def theirs(forward: Forward) -> Call:
        return Call(differentiate(forward, leaves, DROPOUT, upstream), comparable=False)

    variants = (
        *both_paths(ours),
        Variant("torch eager", lambda: theirs(plain), plain=True),
        Variant("torch.compile", lambda: theirs(compiled(plain))),
    )
    return Problem(variants, truth, flops=0.0, moved=4.0 * x.numel() * x.element_size())


def voter_mlp_cases(sizes: Sizes) -> list[Case]:
    items, widths = sorted(sizes.tokens[:2])[0], default_voter_widths(sizes.hidden)
    shape: dict[str, int | str] = {"K": items, "H": sizes.hidden, "M": len(widths), "D": max(widths)}
    name = f"{items:,} items, H {sizes.hidden}, widths {', '.join(map(str, widths))}"
    return [Case("voter_mlp", name, 1, partial(_voter_mlp, items, sizes.hidden, widths), shape)]


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
    stacked = {name: _stack([part[name].detach() for part in parts]) for name in parts[0]}
    each = {"x": x} | {f"{name}_{m}": value for m, part in enumerate(parts) for name, value in part.items()}

    def ours(p: float) -> Tensor:
        return voter_mlp(x, *stacked.values(), p=p, seed=SEED, site=SITE)

    def plain(p: float, *leaves: Tensor) -> Tensor:
        x, *rest = leaves or tuple(each.values())
        voters = []
        for w1, b1, w2, b2 in zip(*[iter(rest)] * 4, strict=True):
            inner = functional.dropout(functional.gelu(functional.linear(x, w1, b1)), p)
            voters.append(functional.linear(inner, w2, b2))
        return torch.stack(voters)

    variants = (
        *both_paths(lambda: call(ours, {"x": x} | stacked, upstream=upstream, p=DROPOUT)),
        *plain_and_compiled(plain, each, upstream=upstream, p=DROPOUT),
    )
    flops = 12.0 * items * size * sum(widths)
    weights = sum(value.numel() for value in each.values()) - x.numel()
    moved = x.element_size() * 2.0 * (x.numel() + weights + upstream.numel())
    return Problem(variants, in_double(partial(plain, 0.0), each, upstream), flops, moved)


def _stack(parts: list[Tensor]) -> Tensor:
    """Voters' parameters as one, zeros where a voter is narrower than the widest."""
    shape = [max(part.shape[i] for part in parts) for i in range(parts[0].dim())]
    out = parts[0].new_zeros(len(parts), *shape)
    for m, part in enumerate(parts):
        out[m][tuple(slice(n) for n in part.shape)] = part
    return out.requires_grad_()
