"""The numbers of a stage's steps: loss, gradient norm, learning rate, tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .prefetch import StepBatches


@dataclass(frozen=True, slots=True)
class StepResult:
    """One optimiser step: mean loss over `valid` targets, gradient norm before clipping, rate of the first group.

    `skipped`: 1 where fp16 overflowed and no weight was changed, else 0; loss and norm are then those of the step
    before, where they are not finite.
    """

    step: int
    loss: float
    valid: int
    tokens: int
    grad_norm: float
    lr: float
    seconds: float
    skipped: int = 0


@dataclass
class Trace:
    """Every step of a stage, as columns; part of a checkpoint, so that a resumed run has the whole of it."""

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    valid: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name).append(getattr(result, name))


@dataclass(slots=True)
class LaunchedStep:
    """A step from the moment its batches are there; once it runs, its numbers may be on their way from the device."""

    batches: StepBatches
    lr: float
    started: float
    numbers: Tensor = field(init=False)
    arrived: torch.cuda.Event | None = None

    def result(self, loss: float, grad_norm: float, skipped: bool) -> StepResult:
        """The step, which ends now, with the numbers that have arrived."""
        tokens, seconds = sum(batch.num_tokens for batch in self.batches.batches), time.monotonic() - self.started
        valid = self.batches.num_targets
        return StepResult(self.batches.step, loss, valid, tokens, grad_norm, self.lr, seconds, int(skipped))
