"""Benchmark cases of the losses and of the votes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels import linear_cross_entropy, soft_label_loss, votes
from . import peers as peers
from .case import (
    Call,
    Case,
    Problem,
    Setting,
    Sizes,
    Variant,
    both_paths,
    call,
    compare,
    compiled,
    plain_and_compiled,
)
from .measure import Tensors

CLASSES, VOTERS = 9, 3
_TRUTH_ELEMENTS = 1 << 26


def linear_cross_entropy_cases(sizes: Sizes) -> list[Case]:
    small, *large = sizes.vocabularies
    cases = []
    for rows, vocabulary in [(n, small) for n in sizes.rows] + [(n, v) for v in large for n in sizes.wide_rows]:
        for frozen in (True, False):
            rank = 2 if vocabulary != small or rows not in sizes.rows[:3] else 0 if rows in sizes.rows[:2] else 1
            shape: dict[str, int | str] = {"N": rows, "V": vocabulary, "H": sizes.hidden}
            shape["matrix"] = "frozen" if frozen else "trainable"
            build = partial(_linear_cross_entropy, rows, vocabulary, sizes.hidden, frozen)
            cases.append(Case("linear_cross_entropy", shape, rank, build))
    return cases


def _linear_cross_entropy(rows: int, vocabulary: int, size: int, frozen: bool, at: Setting) -> Problem:
    hidden = at.normal(rows, size, key="hidden", grad=True)
    weight = at.normal(vocabulary, size, key="matrix", std=0.05, grad=not frozen)
    bias = at.normal(vocabulary, key="bias", std=0.1, grad=True)
    target = at.integers(vocabulary, rows, key="target")
    inputs = {"hidden": hidden, "weight": weight, "bias": bias}

    def plain(p: float) -> Tensor:
        return functional.cross_entropy(functional.linear(hidden, weight, bias).float(), target, reduction="sum")

    def ours(mode: str) -> Call:
        return call(lambda p: linear_cross_entropy(hidden, weight, bias, target, mode=mode), inputs)

    def peer(make: Callable[[], peers.Loss]) -> Call:
        loss = make()
        return call(lambda p: loss(hidden, weight, bias, target), inputs)

    def cut() -> Call:
        loss, has_bias = peers.cut_cross_entropy()
        if has_bias:
            return call(lambda p: loss(hidden, weight, bias, target), inputs)
        fewer = {"hidden": hidden, "weight": weight}
        return call(lambda p: loss(hidden, weight, None, target), fewer, truth=partial(_loss_truth, fewer, target))

    modes = ("store", "recompute")
    element = hidden.element_size()
    outputs = rows * size + vocabulary + (0 if frozen else vocabulary * size)
    return Problem(
        (
            *(Variant(f"xlt-engine, {mode}", partial(ours, mode), own=True) for mode in modes),
            Variant("reference", partial(ours, "auto"), path="reference"),
            *plain_and_compiled(plain, inputs),
            Variant("Liger", partial(peer, partial(peers.liger_loss, None))),
            Variant("Liger, fp32 sums", partial(peer, partial(peers.liger_loss, torch.float32))),
            Variant("Cut Cross Entropy", cut, note="exact mode; releases without one: filter off, no bias"),
            Variant("torch chunked", partial(peer, peers.torch_chunked_loss)),
        ),
        partial(_loss_truth, inputs, target),
        flops=(4 if frozen else 6) * rows * vocabulary * size,
        moved=element * (rows * size + vocabulary * size + vocabulary + outputs),
    )


def _loss_truth(inputs: Mapping[str, Tensor], target: Tensor) -> Tensors:
    """Loss and gradients in fp64, some rows at a time."""
    wide = {name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()}
    hidden, weight, bias = wide["hidden"], wide["weight"], wide.get("bias")
    total = weight.new_zeros(())
    step = max(1, _TRUTH_ELEMENTS // len(weight))
    for start in range(0, len(target), step):
        rows = slice(start, start + step)
        logits = functional.linear(hidden[rows], weight, bias)
        loss = functional.cross_entropy(logits, target[rows], reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return {"out": total} | {f"d_{name}": x.grad for name, x in wide.items() if x.grad is not None}


def soft_label_loss_cases(sizes: Sizes) -> list[Case]:
    return [
        Case("soft_label_loss", {"M": VOTERS, "K": k, "C": CLASSES}, min(i, 2), partial(_soft_label_loss, k))
        for i, k in enumerate(sorted(sizes.tokens[:2]))
    ]


def _soft_label_loss(items: int, at: Setting) -> Problem:
    """In fp32, as the probabilities of a teacher are."""
    logits = at.normal(VOTERS, items, CLASSES, key="logits", std=2.0, grad=True, dtype=torch.float32)
    teacher = at.normal(items, CLASSES, key="teacher", std=2.0, dtype=torch.float32).softmax(-1)

    def plain(p: float, student: Tensor) -> Tensor:
        return (student.softmax(-1) - teacher.to(student.dtype)).square().mean(-1).mean(0).sum()

    moved = 4 * items * CLASSES * (2 * (VOTERS + 1) + VOTERS)
    return compare(lambda p: soft_label_loss(logits, teacher), plain, {"logits": logits}, moved=moved)


def votes_cases(sizes: Sizes) -> list[Case]:
    return [
        Case("votes", {"M": VOTERS, "K": k, "C": CLASSES}, 2 * i, partial(_votes, k)) for i, k in enumerate(sizes.items)
    ]


def _votes(items: int, at: Setting) -> Problem:
    logits = at.normal(VOTERS, items, CLASSES, key="votes", std=3.0)

    def ours() -> Call:
        def run() -> Tensors:
            result = votes(logits)
            return {"confidence": result.min_confidence, "mean": result.mean_probability}

        return Call(run)

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
        *both_paths(ours),
        Variant("torch eager", lambda: Call(partial(theirs, plain, logits)), plain=True),
        Variant("torch.compile", lambda: Call(partial(theirs, compiled(plain), logits))),
    )
    # label int64, agreement a byte, confidence and mean probability fp32
    moved = logits.numel() * logits.element_size() + items * (8 + 1 + 4 + 4 * CLASSES)
    return Problem(variants, lambda: theirs(plain, logits.double()), flops=0.0, moved=moved)
