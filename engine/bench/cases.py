"""Every public operation that has kernels: its shapes, the ways to compute it, and what no way can avoid.

`OPERATIONS` is the table. A case's function makes the inputs of a shape and says how this package, plain torch and
rivals compute it, with its operations (`flops`) and bytes (`moved`) forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels import (
    dropout,
    dropout_residual_layer_norm,
    embedding_layer_norm,
    linear_cross_entropy,
    linear_gelu,
    linear_glu,
    residual_norm,
    soft_label_loss,
    voter_mlp,
    votes,
)
from ...kernels.masks import keep_mask, keep_scale
from ...model.heads import default_voter_widths
from .adamw import adamw, adamw_shapes
from .attention import attention_shapes, packed, windowed, windowed_shapes
from .case import (
    DROPOUT,
    MASKS,
    SEED,
    SITE,
    Call,
    Case,
    Problem,
    Setting,
    Shape,
    Sizes,
    Variant,
    both_paths,
    compare,
    compiled,
    differentiate,
    of_torch,
    ways,
)
from .harness import Tensors

CLASSES, VOTERS = 9, 3
EPS, NORM_EPS = 1e-12, 1e-5
POSITIONS, SEGMENTS = 512, 2
_TRUTH_ELEMENTS = 1 << 26


def _loss(at: Setting, s: Shape) -> Problem:
    n, v, h, frozen = s["N"], s["V"], s["H"], s["matrix"] == "frozen"
    inputs: Tensors = {
        "hidden": at.normal(n, h, key="hidden", grad=True),
        "weight": at.normal(v, h, key="matrix", std=0.05, grad=not frozen),
        "bias": at.normal(v, key="bias", std=0.1, grad=True),
    }
    target = at.integers(v, n, key="target")

    def ours(mode: str) -> Callable[[], Call]:
        return of(lambda: lambda p, h, w, b: linear_cross_entropy(h, w, b, target, mode=mode), True)

    def plain(p: float, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.cross_entropy(functional.linear(hidden, weight, bias).float(), target, reduction="sum")

    of = ways(inputs)
    variants = (
        *(Variant(f"xlt-engine, {mode}", ours(mode), own=True) for mode in ("store", "recompute")),
        Variant("reference", ours("auto"), path="reference"),
        *of_torch(plain, of),
    )
    outputs = n * h + v + (0 if frozen else v * h)
    return Problem(
        variants,
        partial(_loss_truth, inputs, target),
        inputs,
        flops=(4.0 if frozen else 6.0) * n * v * h,
        moved=float(inputs["hidden"].element_size() * (n * h + v * h + v + outputs)),
    )


def _loss_truth(inputs: Tensors, target: Tensor) -> Tensors:
    """Loss and gradients in fp64, some rows at a time."""
    wide = {name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()}
    hidden, weight, bias = wide.values()
    total, step = weight.new_zeros(()), max(1, _TRUTH_ELEMENTS // len(weight))
    for start in range(0, len(target), step):
        rows = slice(start, start + step)
        logits = functional.linear(hidden[rows], weight, bias)
        loss = functional.cross_entropy(logits, target[rows], reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return {"out": total} | {f"d_{name}": x.grad for name, x in wide.items() if x.grad is not None}


def _soft_label_loss(at: Setting, s: Shape) -> Problem:
    """In fp32, as the probabilities of a teacher are."""
    m, k, c = s.values()
    logits = at.normal(m, k, c, key="logits", std=2.0, grad=True, dtype=torch.float32)
    teacher = at.normal(k, c, key="teacher", std=2.0, dtype=torch.float32).softmax(-1)

    def plain(p: float, student: Tensor) -> Tensor:
        return (student.softmax(-1) - teacher.to(student.dtype)).square().mean(-1).mean(0).sum()

    moved = 4.0 * k * c * (2 * (m + 1) + m)
    return compare(lambda p, x: soft_label_loss(x, teacher), plain, {"logits": logits}, moved=moved)


def _votes(at: Setting, s: Shape) -> Problem:
    m, k, c = s.values()
    logits = at.normal(m, k, c, key="votes", std=3.0)

    def ours() -> Tensors:
        result = votes(logits)
        return {"confidence": result.min_confidence, "mean": result.mean_probability}

    def plain(x: Tensor) -> tuple[Tensor, ...]:
        probability = (x if x.dtype == torch.float64 else x.float()).softmax(-1)
        top, choice = probability.max(-1)
        agree, mean = (choice == choice[0]).all(0), probability.mean(0)
        return top.amin(0), mean, agree, torch.where(agree, choice[0], mean.argmax(-1))

    def theirs(function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor) -> Tensors:
        with torch.no_grad():
            confidence, mean, *_ = function(x)
        return {"confidence": confidence, "mean": mean}

    variants = (
        *both_paths(lambda: Call(ours)),
        Variant("torch eager", lambda: Call(partial(theirs, plain, logits)), plain=True),
        Variant("torch.compile", lambda: Call(partial(theirs, compiled(plain), logits))),
    )
    # label int64, agreement a byte, confidence and mean probability fp32
    moved = float(logits.numel() * logits.element_size() + k * (8 + 1 + 4 + 4 * c))
    return Problem(variants, lambda: theirs(plain, logits.double()), {"logits": logits}, moved=moved)


def _layer_norm(at: Setting, s: Shape) -> Problem:
    t, h = s.values()
    inputs = at.leaves({"x": (t, h), "residual": (t, h), "weight": (h,), "bias": (h,)})

    def plain(p: float, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.layer_norm(functional.dropout(x, p) + residual, (h,), weight, bias, EPS)

    return compare(
        lambda p, *x: dropout_residual_layer_norm(*x, eps=EPS, p=p, **MASKS),
        plain,
        inputs,
        upstream=at.normal(t, h, key="upstream"),
        p=DROPOUT,
        # forward reads x and the residual, writes the result and what backward needs of it; backward mirrors it
        moved=8.0 * t * h * inputs["x"].element_size(),
    )


def _residual_norm(at: Setting, s: Shape) -> Problem:
    """The gradient of the norm alone; that of the sum is one more tensor to read."""
    t, h, rms = s["T"], s["H"], s["norm"] == "RMS"
    inputs = at.leaves({"x": (t, h), "residual": (t, h), "weight": (h,)})

    def plain(p: float, x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        if rms:
            return functional.rms_norm(x + residual, (h,), weight, NORM_EPS)
        return functional.layer_norm(x + residual, (h,), weight, None, NORM_EPS)

    return compare(
        lambda p, x, residual, weight: residual_norm(x, residual, weight, None, eps=NORM_EPS, rms=rms)[1],
        plain,
        inputs,
        upstream=at.normal(t, h, key="upstream"),
        moved=7.0 * t * h * inputs["x"].element_size(),
    )


def _gelu(at: Setting, s: Shape) -> Problem:
    t, h, f = s.values()
    inputs = at.leaves({"x": (t, h)}) | at.leaves({"weight": (f, h), "bias": (f,)}, 0.02)
    upstream = at.normal(t, f, key="upstream")

    def products(p: float, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(x, weight, bias.detach())

    alone = ways(inputs, upstream)(lambda: products, False)
    note = "what another row takes longer is its GELU and bias gradient"
    return compare(
        lambda p, *x: linear_gelu(*x),
        lambda p, *x: functional.gelu(functional.linear(*x)),
        inputs,
        upstream=upstream,
        others=[Variant("matrix products alone", alone, note=note, plain=True, rival=False)],
        flops=6.0 * t * h * f,
        moved=3.0 * inputs["x"].element_size() * (t * h + f * h + t * f),
    )


def _glu(at: Setting, s: Shape) -> Problem:
    t, h, f, activation = s.values()
    inputs = at.leaves({"x": (t, h)}) | at.leaves({"weight": (2 * f, h)}, 0.02)
    curve: Any = functional.gelu if activation == "gelu" else functional.silu

    def plain(p: float, x: Tensor, weight: Tensor) -> Tensor:
        first, gate = functional.linear(x, weight).chunk(2, -1)
        out: Tensor = curve(first) * gate
        return out

    return compare(
        lambda p, x, weight: linear_glu(x, weight, None, activation),
        plain,
        inputs,
        upstream=at.normal(t, f, key="upstream"),
        flops=12.0 * t * h * f,
        moved=3.0 * inputs["x"].element_size() * (t * h + 2 * f * h + t * f),
    )


def places(at: Setting, s: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the word, position and segment tables that a case looks up."""
    positions = torch.arange(s["T"], device=at.device) % 128
    return at.integers(s["V"], s["T"], key="ids"), positions, at.integers(SEGMENTS, s["T"], key="segments")


def _embedding(at: Setting, s: Shape) -> Problem:
    """With frozen tables forward alone."""
    t, h, v, frozen = s["T"], s["H"], s["V"], s["tables"] == "frozen"
    tables, norms = (
        {"word": (v, h), "position": (POSITIONS, h), "segment": (SEGMENTS, h)},
        {"weight": (h,), "bias": (h,)},
    )
    inputs = at.leaves(tables, 0.02, grad=not frozen) | at.leaves(norms, grad=not frozen)
    rows = places(at, s)

    def plain(p: float, word: Tensor, position: Tensor, segment: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found = [functional.embedding(ids, x) for ids, x in zip(rows, (word, position, segment), strict=True)]
        return functional.dropout(functional.layer_norm(found[0] + found[1] + found[2], (h,), weight, bias, EPS), p)

    element = inputs["word"].element_size()
    return compare(
        lambda p, *x: embedding_layer_norm(*rows, *x, eps=EPS, p=p, **MASKS),
        plain,
        inputs,
        upstream=None if frozen else at.normal(t, h, key="upstream"),
        p=DROPOUT,
        # forward reads rows and writes the result; trainable, it also keeps the sum, which backward reads with the
        # upstream gradient, and the word table's dense gradient is written
        moved=element * (2.0 * t * h if frozen else 5.0 * t * h + v * h) + 24.0 * t,
    )


def _dropout(at: Setting, s: Shape) -> Problem:
    t, h = s.values()
    inputs, upstream = at.leaves({"x": (t, h)}), at.normal(t, h, key="upstream")
    x = inputs["x"]

    def truth() -> Tensors:
        factor = keep_mask(t, h, DROPOUT, SEED, SITE, at.device).double() * keep_scale(DROPOUT)
        return {"out": x.detach().double() * factor, "d_x": upstream.double() * factor}

    def of(forward: Callable[..., Tensor], comparable: bool) -> Call:
        return Call(differentiate(lambda p: forward(x, p), inputs, DROPOUT, upstream), comparable=comparable)

    variants = (
        *both_paths(lambda: of(partial(dropout, **MASKS), True)),
        Variant("torch eager", lambda: of(functional.dropout, False), plain=True),
        Variant("torch.compile", lambda: of(compiled(functional.dropout), False)),
    )
    return Problem(variants, truth, inputs, upstream, DROPOUT, moved=4.0 * x.numel() * x.element_size())


def _voter_mlp(at: Setting, s: Shape) -> Problem:
    """The others compute voter by voter, without padding."""
    k, h = s["K"], s["H"]
    widths = default_voter_widths(h)
    upstream = at.normal(len(widths), k, h, key="upstream")
    shapes: dict[str, Callable[[int], tuple[int, ...]]] = {
        "w1": lambda d: (d, h), "b1": lambda d: (d,), "w2": lambda d: (h, d), "b2": lambda d: (h,)
    }  # fmt: skip
    x = at.leaves({"x": (k, h)})
    parts = [at.leaves({f"{n}_{m}": shape(d) for n, shape in shapes.items()}, 0.02) for m, d in enumerate(widths)]
    each = x | {name: value for part in parts for name, value in part.items()}
    stacked = x | {name: _stack([each[f"{name}_{m}"].detach() for m in range(len(widths))]) for name in shapes}

    def plain(p: float, x: Tensor, *rest: Tensor) -> Tensor:
        voters = []
        for w1, b1, w2, b2 in zip(*[iter(rest)] * 4, strict=True):
            inner = functional.dropout(functional.gelu(functional.linear(x, w1, b1)), p)
            voters.append(functional.linear(inner, w2, b2))
        return torch.stack(voters)

    def ours(p: float, *inputs: Tensor) -> Tensor:
        x, w1, b1, w2, b2 = inputs
        return voter_mlp(x, w1, b1, w2, b2, p=p, **MASKS)

    moved = upstream.element_size() * 2.0 * (sum(value.numel() for value in each.values()) + upstream.numel())
    problem = compare(ours, plain, each, upstream=upstream, p=DROPOUT, flops=12.0 * k * h * sum(widths), moved=moved)
    own = both_paths(ways(stacked, upstream, DROPOUT)(lambda: ours, True))
    return problem._replace(variants=(*own, *problem.variants[len(own) :]))


def _stack(parts: list[Tensor]) -> Tensor:
    """Voters' parameters as one, zeros where a voter is narrower than the widest."""
    out = parts[0].new_zeros(len(parts), *(max(part.shape[i] for part in parts) for i in range(parts[0].dim())))
    for m, part in enumerate(parts):
        out[m][tuple(slice(n) for n in part.shape)] = part
    return out.requires_grad_()


def _shapes_of_loss(sizes: Sizes) -> Iterator[tuple[int, Shape]]:
    small, *large = sizes.vocabularies
    for n, v in [(n, small) for n in sizes.rows] + [(n, v) for v in large for n in sizes.wide_rows]:
        rank = 2 if v != small or n not in sizes.rows[:3] else 0 if n in sizes.rows[:2] else 1
        for matrix in ("frozen", "trainable"):
            yield rank, {"N": n, "V": v, "H": sizes.hidden, "matrix": matrix}


def _by_tokens(**more: Callable[[Sizes], Any]) -> Callable[[Sizes], Iterator[tuple[int, Shape]]]:
    """Shapes T, H and what else a case has; of a tuple of further values all, the second one rank later."""

    def shapes(sizes: Sizes) -> Iterator[tuple[int, Shape]]:
        rest = {key: value(sizes) for key, value in more.items()}
        several = next((key for key, value in rest.items() if isinstance(value, tuple)), None)
        for i, t in enumerate(sizes.tokens):
            shape = {"T": t, "H": sizes.hidden} | rest
            if several is None:
                yield min(i, 2), shape
                continue
            for j, value in enumerate(rest[several]):
                yield min(i, 2) + j * (several != "tables"), shape | {several: value}

    return shapes


def _shapes_of_voters(sizes: Sizes) -> Iterator[tuple[int, Shape]]:
    widths = default_voter_widths(sizes.hidden)
    yield 1, {"K": min(sizes.tokens[:2]), "H": sizes.hidden, "M": len(widths), "D": max(widths)}


Shapes = Callable[[Sizes], Iterable[tuple[int, Shape]]]
OPERATIONS: dict[str, list[tuple[Shapes, Callable[[Setting, Shape], Problem]]]] = {
    "linear_cross_entropy": [(_shapes_of_loss, _loss)],
    "dropout_residual_layer_norm": [(_by_tokens(), _layer_norm)],
    "linear_gelu": [(_by_tokens(F=lambda s: s.inner), _gelu)],
    "packed_attention": [(attention_shapes, packed), (windowed_shapes, windowed)],
    # ModernBERT's inner size, 1,152 for 768
    "linear_glu": [(_by_tokens(F=lambda s: s.inner * 3 // 8, activation=lambda s: ("gelu", "silu")), _glu)],
    "residual_norm": [(_by_tokens(norm=lambda s: ("LayerNorm", "RMS")), _residual_norm)],
    "votes": [(lambda s: [(2 * i, {"M": VOTERS, "K": k, "C": CLASSES}) for i, k in enumerate(s.items)], _votes)],
    "soft_label_loss": [
        (
            lambda s: [(i, {"M": VOTERS, "K": k, "C": CLASSES}) for i, k in enumerate(sorted(s.tokens[:2]))],
            _soft_label_loss,
        )
    ],
    "embedding_layer_norm": [
        (_by_tokens(V=lambda s: s.vocabularies[0], tables=lambda s: ("frozen", "trainable")), _embedding)
    ],
    "voter_mlp": [(_shapes_of_voters, _voter_mlp)],
    "dropout": [(lambda s: [(1, {"T": s.tokens[0], "H": s.hidden})], _dropout)],
    "adamw_step": [(adamw_shapes, adamw)],
}
"""Of every public operation that has kernels, the most important first: its ranked shapes, and what makes a problem."""


def cases_of(operation: str, sizes: Sizes) -> list[Case]:
    """The cases of an operation at these sizes."""
    found = OPERATIONS[operation]
    return [Case(operation, shape, rank, make) for shapes, make in found for rank, shape in shapes(sizes)]
