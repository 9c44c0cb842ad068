"""Benchmark case of a whole optimizer step: norm, clipping, AdamW, and the 16-bit copies of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ...kernels import adamw_step, gradient_norm
from .case import Call, Case, Problem, Setting, Sizes, Variant, both_paths
from .measure import Tensors

LAYERS = {"full": 12, "reduced": 2, "tiny": 1}
RATE, DECAY, CLIP, EPS, BETAS = 0.05, 0.01, 1.0, 1e-8, (0.9, 0.999)
"""At a rate like the weights' size an error of the step is one of the weights."""


def adamw_step_cases(sizes: Sizes) -> list[Case]:
    hidden, inner, layers = sizes.hidden, sizes.inner, LAYERS[sizes.name]
    matrices = [(3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)]
    vectors = [(3 * hidden,), (inner,), *[(hidden,)] * 6]
    shapes = [(sizes.vocabularies[0], hidden), *(matrices + vectors) * layers]
    count = sum(torch.Size(shape).numel() for shape in shapes)
    return [Case("adamw_step", {"weights": count, "tensors": len(shapes)}, 0, partial(_adamw_step, shapes))]


class _State:
    """What a step reads and writes, of one who computes it; the first of its steps is the third of the weights."""

    def __init__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        half = gradients[0].dtype != torch.float32
        self.weights = [nn.Parameter(w.clone()) for w in weights]
        self.gradients = [g.clone() for g in gradients]
        self.first = [0.1 * w for w in weights]
        self.second = [w.square() for w in weights]
        self.steps = [torch.full((), 2.0, dtype=torch.float32, device=w.device) for w in weights]
        self.copies: list[Tensor | None] = [w.to(gradients[0].dtype) if half else None for w in weights]
        self.rate = torch.full((), RATE, device=weights[0].device)

    def results(self, norm: Tensor) -> Tensors:
        columns: dict[str, Sequence[Tensor]] = {"weights": self.weights, "first": self.first, "second": self.second}
        flat = {name: torch.cat([t.detach().flatten() for t in column]) for name, column in columns.items()}
        return {"norm": norm} | flat


def _ours(state: _State) -> Tensor:
    norm = gradient_norm(state.gradients)
    adamw_step(
        state.weights,
        state.gradients,
        state.first,
        state.second,
        state.steps,
        state.copies,
        [state.rate] * len(state.weights),
        [DECAY] * len(state.weights),
        betas=BETAS,
        eps=EPS,
        scale=(CLIP / (norm + 1e-6)).clamp(max=1.0),
    )
    return norm


def _torch(state: _State, optimizer: torch.optim.AdamW) -> Tensor:
    for weight, gradient in zip(state.weights, state.gradients, strict=True):
        weight.grad = gradient.to(torch.float32, copy=True)
    norm = nn.utils.clip_grad_norm_(state.weights, CLIP)
    optimizer.step()
    for weight, copy in zip(state.weights, state.copies, strict=True):
        if copy is not None:
            copy.copy_(weight.detach())
    return norm


def _optimizer(state: _State, fused: bool) -> torch.optim.AdamW:
    made = torch.optim.AdamW(
        state.weights, lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=fused, foreach=not fused
    )
    for weight, m, v, step in zip(state.weights, state.first, state.second, state.steps, strict=True):
        made.state[weight] = {"step": step if fused else step.cpu(), "exp_avg": m, "exp_avg_sq": v}
    return made


def _adamw_step(shapes: Sequence[tuple[int, ...]], at: Setting) -> Problem:
    weights = [at.normal(*s, key=f"weight {i}", std=0.05, dtype=torch.float32) for i, s in enumerate(shapes)]
    gradients = [at.normal(*s, key=f"gradient {i}") for i, s in enumerate(shapes)]

    def ours() -> Call:
        state = _State(weights, gradients)

        def check() -> Tensors:
            fresh = _State(weights, gradients)
            return fresh.results(_ours(fresh))

        return Call(lambda: {"norm": _ours(state)}, check)

    def plain(fused: bool) -> Call:
        state = _State(weights, gradients)
        run = partial(_torch, state, _optimizer(state, fused))

        def check() -> Tensors:
            fresh = _State(weights, gradients)
            return fresh.results(_torch(fresh, _optimizer(fresh, fused)))

        return Call(lambda: {"norm": run()}, check)

    count = sum(w.numel() for w in weights)
    element = gradients[0].element_size()
    return Problem(
        (
            *both_paths(ours),
            Variant("torch eager", partial(plain, False), plain=True),
            Variant("torch fused", partial(plain, True), plain=True),
        ),
        partial(_truth, weights, gradients),
        flops=0.0,
        # twice the gradient; weight and moments, read and written; the copy
        moved=count * (2 * element + 24 + (element if element < 4 else 0)),
    )


def _truth(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensors:
    w, g = (torch.cat([t.double().flatten() for t in column]) for column in (weights, gradients))
    first = torch.cat([(0.1 * t).double().flatten() for t in weights])
    second = torch.cat([t.square().double().flatten() for t in weights])
    norm = g.norm()
    g *= min(1.0, CLIP / (float(norm) + 1e-6))
    first.lerp_(g, 1 - BETAS[0])
    second.lerp_(g.square_(), 1 - BETAS[1])
    root = (second / (1 - BETAS[1] ** 3)).sqrt_().add_(EPS)
    w = w * (1 - RATE * DECAY) - RATE * first / (1 - BETAS[0] ** 3) / root
    return {"norm": norm, "weights": w, "first": first, "second": second}
