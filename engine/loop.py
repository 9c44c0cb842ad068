"""The one training loop. It never asks which stage it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .. import DivergedError
from ..data import PackedBatch, derive_seed
from .checkpoint import load_optimiser_tensors, optimiser_tensors
from .config import OptimiserConfig
from .faults import fault
from .optimiser import lr_factor, make_optimiser, set_lr

LISTED = 16
"""Examples that a message names."""


class Objective(Protocol):
    """Sum of the losses of a batch's valid targets; the loop divides by their number in the whole step."""

    def __call__(self, model: Any, batch: PackedBatch, seed: int) -> Tensor: ...


class BatchSource(Protocol):
    """`len` is the number of optimiser steps; item `step` holds its micro-batches and depends on `step` alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Sequence[PackedBatch]: ...


@runtime_checkable
class NamedSource(Protocol):
    """A batch source that can name the examples of a step, for messages."""

    def names(self, step: int, /) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimiser step: mean loss over `valid` targets, gradient norm before clipping, rate of the first group."""

    step: int
    loss: float
    valid: int
    tokens: int
    grad_norm: float
    lr: float
    seconds: float


@dataclass
class Trace:
    """Every step of a stage, as columns; part of a checkpoint, so that a resumed run has the whole of it."""

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    valid: list[int] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name).append(getattr(result, name))


class Loop:
    """A model, its batches, its objective and its optimiser, at some step.

    Args:
        model: whatever `objective` understands; parameters without `requires_grad` stay as they are.
        batches: one entry per optimiser step.
        objective: see `Objective`.
        optimiser: rates, clipping, decay. Batch sizes and epochs are the batch source's affair.
        seed: key of the dropout masks.
        precision: "fp32", or "bf16" for autocast with fp32 weights.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource,
        objective: Objective,
        *,
        optimiser: OptimiserConfig,
        seed: int,
        precision: str = "fp32",
    ) -> None:
        self.model, self.batches, self.objective, self.config = model, batches, objective, optimiser
        self.seed, self.precision = seed, precision
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.device = next(model.parameters()).device
        self.optimiser = make_optimiser(model, optimiser)
        self.step = 0
        self.trace = Trace()

    @property
    def total(self) -> int:
        return len(self.batches)

    def advance(self) -> StepResult:
        """Runs one optimiser step.

        Raises:
            DivergedError: the gradient is not finite; the weights are still those of the step before.
        """
        started = time.monotonic()
        batches = [batch.to(self.device) for batch in self.batches[self.step]]
        valid = sum(batch.num_targets for batch in batches)
        loss = 0.0
        for index, batch in enumerate(batches):
            if batch.num_targets:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    part = self.objective(self.model, batch, derive_seed(self.seed, "dropout", self.step, index))
                part = part / (math.nan if fault("loop.loss") else valid)
                torch.autograd.backward(part)
                loss += part.item()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
        if not (math.isfinite(norm) and math.isfinite(loss)):
            self._diverged(batches, loss, float(norm))
        if self.config.clip > 0:
            torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.config.clip, norm)
        lr = set_lr(self.optimiser, lr_factor(self.step, self.total, self.config.warmup))
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        tokens = sum(batch.num_tokens for batch in batches)
        result = StepResult(self.step, loss, valid, tokens, float(norm), lr, time.monotonic() - started)
        self.trace.add(result)
        self.step += 1
        return result

    def run(self, on_step: Callable[[Loop, StepResult], None] | None = None) -> Trace:
        """Runs to the end; `on_step` is called after every step and may save, print or raise."""
        while self.step < self.total:
            result = self.advance()
            if on_step is not None:
                on_step(self, result)
        return self.trace

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint needs: trainable weights and moments by name, and the loss trace."""
        weights = {f"model.{name}": p.detach() for name, p in self.parameters.items()}
        return weights | optimiser_tensors(self.optimiser, self.parameters), {"trace": vars(self.trace)}

    def restore(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continues from `state()` of an equal loop after `step` steps."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
        load_optimiser_tensors(self.optimiser, self.parameters, tensors)
        self.trace = Trace(**meta["trace"])
        self.step = step

    def _diverged(self, batches: Sequence[PackedBatch], loss: float, norm: float) -> None:
        bad = next(
            (n for n, p in self.parameters.items() if p.grad is not None and not p.grad.isfinite().all()), "none"
        )
        if isinstance(self.batches, NamedSource):
            rows = self.batches.names(self.step)
        else:
            rows = [str(int(i)) for batch in batches for i in batch.example_ids]
        listed = ", ".join(rows[:LISTED]) + (f" and {len(rows) - LISTED} more" if len(rows) > LISTED else "")
        raise DivergedError(
            f"step {self.step}: loss {loss}, gradient norm {norm}; first bad gradient: {bad}; examples {listed}. "
            "The weights were not updated; lower the learning rate or look at these examples"
        )


def train(
    model: nn.Module,
    batches: BatchSource,
    objective: Objective,
    *,
    optimiser: OptimiserConfig | None = None,
    seed: int = 0,
    precision: str = "fp32",
    on_step: Callable[[Loop, StepResult], None] | None = None,
) -> Trace:
    """Trains `model` in place over all of `batches`; the short form of `Loop(...).run()`."""
    config = OptimiserConfig() if optimiser is None else optimiser
    return Loop(model, batches, objective, optimiser=config, seed=seed, precision=precision).run(on_step)
