"""The case of a whole optimizer step: norm, clipping, AdamW, and the 16-bit copies of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ...kernels import adamw_step, gradient_norm
from .case import SIZES, Call, Problem, Setting, Shape, Sizes, Variant, both_paths
from .harness import Tensors

RATE, DECAY, CLIP, EPS, BETAS = 0.05, 0.01, 1.0, 1e-8, (0.9, 0.999)
"""At a rate like the weights' size an error of the step is one of the weights."""


def adamw_shapes(sizes: Sizes) -> list[tuple[int, Shape]]:
    """All weights of an encoder."""
    found = [torch.Size(shape).numel() for shape in _weights(sizes)]
    return [(0, {"weights": sum(found), "tensors": len(found)})]


def _weights(sizes: Sizes) -> list[tuple[int, ...]]:
    hidden, inner = sizes.hidden, sizes.inner
    matrices = [(3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)]
    vectors = [(3 * hidden,), (inner,), *[(hidden,)] * 6]
    return [(sizes.vocabularies[0], hidden), *(matrices + vectors) * sizes.layers]


class _State:
    """What a step reads and writes, of one who computes it; the first of its steps is the third of the weights."""

    def __init__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        half = gradients[0].dtype.itemsize == 2
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
        weight.grad = gradient.to(weight.dtype, copy=True)
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


def adamw(at: Setting, s: Shape) -> Problem:
    """A step of each side on weights of its own."""
    shapes = next(found for found in map(_weights, SIZES.values()) if len(found) == s["tensors"])
    weights = [at.normal(*size, key=f"weight {i}", std=0.05, dtype=torch.float32) for i, size in enumerate(shapes)]
    gradients = [at.normal(*size, key=f"gradient {i}") for i, size in enumerate(shapes)]

    def once(step: Callable[[_State], Callable[[], Tensor]], dtype: torch.dtype | None = None) -> Tensors:
        fresh = _State([w.to(dtype or w.dtype) for w in weights], [g.to(dtype or g.dtype) for g in gradients])
        return fresh.results(step(fresh)())

    def side(step: Callable[[_State], Callable[[], Tensor]]) -> Call:
        run = step(_State(weights, gradients))
        return Call(lambda: {"norm": run()}, partial(once, step))

    def of_torch(fused: bool, state: _State) -> Callable[[], Tensor]:
        return partial(_torch, state, _optimizer(state, fused))

    count, element = sum(w.numel() for w in weights), gradients[0].element_size()
    return Problem(
        (
            *both_paths(lambda: side(lambda state: partial(_ours, state))),
            Variant("torch eager", lambda: side(partial(of_torch, False)), plain=True),
            Variant("torch fused", lambda: side(partial(of_torch, True)), plain=True),
        ),
        # torch's in fp64
        partial(once, partial(of_torch, False), torch.float64),
        {},
        # twice the gradient; weight and moments, read and written; the copy
        moved=float(count * (2 * element + 24 + (element if element < 4 else 0))),
    )
