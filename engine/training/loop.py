"""The one training loop. It never asks which stage it runs."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ... import DivergedError
from ...data import PackedBatch, derive_seed
from ..run_warning import RunWarning
from ..storage.faults import fault
from .batch_source import BatchSource, NamedSource, Objective
from .config import OptimizerConfig, PerformanceConfig
from .cuda_graphs import CudaRunner, GraphedSteps, Parts, graphs_off, why_no_graphs
from .distributed import GradientSum, World
from .out_of_memory import StepMemory
from .precision import Weights
from .prefetch import Fed, make_feed
from .update import SKIPS_IN_A_ROW, Update

LISTED = 16
"""Examples that a message names."""
PLAIN = PerformanceConfig(graphs=False, buckets=0, feed=False)
"""Batches as they come, one operation at a time."""


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


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step whose numbers may still be on their way from the device."""

    step: int
    batches: Sequence[PackedBatch]
    valid: int
    lr: float
    started: float
    numbers: Tensor
    arrived: torch.cuda.Event | None


class Loop:
    """A model, its batches, its objective and its optimiser, at some step.

    Args:
        model: whatever `objective` understands; parameters without `requires_grad` stay as they are.
        batches: one entry per optimiser step.
        objective: see `Objective`.
        optimizer: rates, clipping, decay.
        seed: key of the dropout masks.
        precision: "fp32"; "bf16" or "fp16" for 16-bit computation over fp32 weights, which `close` gives back.
        world: the processes that share the micro-batches of every step; this one alone when absent.
        performance: how steps reach the device; each as it comes, when absent.
        auto_micro_batch: whether a step that does not fit into memory is repeated, and the rest run, in micro-batches
            of half as many sequences; in one process alone.
        warn: hears what does not work as `performance` asks.

    Attributes:
        step: steps launched so far.
        ahead: steps that may be launched before the numbers of one are read.
        settle: after which numbers of steps `run` reads all of them, so that `on_step` sees the weights of just then.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource,
        objective: Objective,
        *,
        optimizer: OptimizerConfig,
        seed: int,
        precision: str = "fp32",
        world: World | None = None,
        performance: PerformanceConfig = PLAIN,
        auto_micro_batch: bool = False,
        warn: Callable[[RunWarning], None] = lambda warning: None,
    ) -> None:
        self.model, self.batches, self.objective, self.seed = model, batches, objective, seed
        self.world = world or World()
        self.device = next(model.parameters()).device
        self.weights = Weights(model, precision)
        self.update = Update(self.weights, optimizer, self.device, precision)
        self.total_gradients = GradientSum(self.world, self.weights.trainable)
        auto = auto_micro_batch and self.world.size == 1
        self.memory = StepMemory(auto=auto, drop=self._drop_gradients, names=self._names, release=self._release_graphs)
        obstacle = why_no_graphs(self.device, self.world.size)
        graphs = performance.graphs is not False and obstacle is None
        if performance.graphs is True and obstacle is not None:
            warn(graphs_off(obstacle))
        self.feed = make_feed(batches, self.device, performance, graphs=graphs, share=self.world.share)
        self.graphs: GraphedSteps | None = None
        if graphs:
            runner = CudaRunner(self.device, self.feed.quiet)
            self.graphs = GraphedSteps(self._whole, self.feed.buckets, runner, clear=self._drop_gradients, warn=warn)
        self.step = 0
        self.ahead = int(self.device.type == "cuda")
        self.settle: Callable[[int], bool] = lambda step: False
        self.trace = Trace()
        self._launched: deque[_Launched] = deque()
        self._finished: deque[StepResult] = deque()

    @property
    def total(self) -> int:
        return len(self.batches)

    @property
    def supply(self) -> dict[str, float]:
        """How the device was fed so far: seconds waited for batches, share of padding, steps that were graphs."""
        replayed = 0 if self.graphs is None else self.graphs.replayed
        return {"waited": self.feed.waited, "padding": self.feed.padding, "graphs": replayed}

    def advance(self) -> StepResult:
        """Runs one optimiser step and waits for it.

        Raises:
            DivergedError: loss or gradient is not finite; the weights are still those of the step before.
        """
        with self._lane():
            self._launch()
            self._finish(0)
        return self._finished.pop()

    def run(self, on_step: Callable[[Loop, StepResult], None] | None = None) -> Trace:
        """Runs to the end; `on_step` is called after every step and may save, print or raise.

        On a GPU the numbers of a step are read while the next one runs, so that the device never waits for the host.
        """
        with self._lane(), closing(self.feed):
            while self.step < self.total:
                self._launch()
                self._finish(self.ahead if self.step < self.total and not self.settle(self.step) else 0)
                while self._finished:
                    result = self._finished.popleft()
                    if on_step is not None:
                        on_step(self, result)
        return self.trace

    def _lane(self) -> AbstractContextManager[object]:
        return nullcontext() if self.graphs is None else self.graphs.lane()

    def _launch(self) -> None:
        started = time.monotonic()
        fed = self.feed[self.step]
        batches, numbers = fed.batches, None
        valid = sum(batch.num_targets for batch in batches)
        lr = self.update.set_rate(self.step, self.total)
        if self.graphs is not None and not self.memory.limit:
            numbers = self.graphs(self._seeded(fed.parts), valid)
        if numbers is None:
            batches, loss = self.memory.attempt(
                self.step, batches, lambda cut: self._gradients(self._own(cut, fed), valid)
            )
            numbers = self.update.apply(self.total_gradients(loss, valid))
        arrived = None
        if self.device.type == "cuda":
            numbers = numbers.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        if self.ahead:
            self.weights.clear()
        self._launched.append(_Launched(self.step, batches, valid, lr, started, numbers, arrived))
        self.step += 1

    def _own(self, batches: Sequence[PackedBatch], fed: Fed) -> Parts:
        """The micro-batches that this process computes, on the device: those of the feed, unless they were cut."""
        if batches is fed.batches:
            return self._seeded(fed.parts)
        return self._seeded([(i, batches[i].to(self.device)) for i in self.world.share(len(batches))])

    def _seeded(self, numbered: Sequence[tuple[int, PackedBatch]]) -> Parts:
        """Micro-batches with targets, each with its dropout seed for this step."""
        return [(derive_seed(self.seed, "dropout", self.step, i), batch) for i, batch in numbered if batch.num_targets]

    def _whole(self, parts: Parts, valid: int | Tensor) -> Tensor:
        """A step in one process, as it is captured: what differs between steps is in the arguments alone."""
        return self.update.apply(self._gradients(parts, valid))

    def _drop_gradients(self) -> None:
        self.model.zero_grad()
        self.weights.clear()

    def _release_graphs(self) -> bool:
        return self.graphs is not None and self.graphs.give_up()

    def _names(self, step: int) -> list[str]:
        return self.feed.names(step) if isinstance(self.batches, NamedSource) else []

    def _gradients(self, parts: Parts, valid: int | Tensor) -> Tensor:
        """What micro-batches add to the gradients of a step's mean loss; returns their loss, on the device."""
        total = torch.zeros((), device=self.device)
        # Not a number: dividing by one rounds otherwise on a GPU than by a tensor, and a graph has a tensor.
        count = valid if isinstance(valid, Tensor) else torch.full_like(total, valid)
        for seed, batch in parts:
            part = self.objective(self.model, batch, seed)
            part = part / (math.nan if fault("loop.loss") else count)
            torch.autograd.backward(self.update.scaled(part))
            self.weights.collect()
            total += part.detach()
        return total

    def _finish(self, ahead: int) -> None:
        """Reads the numbers of all but the last `ahead` launched steps."""
        while len(self._launched) > ahead:
            launched = self._launched.popleft()
            if launched.arrived is not None:
                self.world.wait(launched.arrived)
            loss, norm, held, in_a_row = launched.numbers.tolist()
            if held and (self.update.scaler is None or in_a_row >= SKIPS_IN_A_ROW):
                self._diverged(launched, loss, norm)
            if held:
                loss, norm = (
                    value if math.isfinite(value) else (past[-1] if past else 0.0)
                    for value, past in ((loss, self.trace.loss), (norm, self.trace.grad_norm))
                )
            self.weights.clear()
            tokens = sum(batch.num_tokens for batch in launched.batches)
            seconds = time.monotonic() - launched.started
            result = StepResult(launched.step, loss, launched.valid, tokens, norm, launched.lr, seconds, int(held))
            self.trace.add(result)
            self._finished.append(result)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint needs: trainable weights and moments by name, the loss scale, and the loss trace."""
        self._finish(0)
        weights = {f"model.{name}": p.detach() for name, p in self.weights.trainable.items()}
        return weights | self.update.state(), {"trace": vars(self.trace)} | self.memory.state()

    def restore(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continues from `state()` of an equal loop after `step` steps."""
        self.weights.load({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
        self.update.load(tensors)
        if self.graphs is not None:
            self.graphs.forget()
        self.memory.restore(meta)
        self.trace = Trace(**meta["trace"])
        self.step = step

    def close(self) -> None:
        """Ends 16-bit computation: the model has its fp32 weights again, and the loop is of no use after it."""
        self.feed.close()
        self.graphs = None
        self.weights.close()

    def _diverged(self, launched: _Launched, loss: float, norm: float) -> None:
        self.step = launched.step
        self._launched.clear()
        if isinstance(self.batches, NamedSource):
            rows = self.feed.names(launched.step)
        else:
            rows = [str(int(i)) for batch in launched.batches for i in batch.example_ids]
        listed = ", ".join(rows[:LISTED]) + (f" and {len(rows) - LISTED} more" if len(rows) > LISTED else "")
        bad = [n for n, p in self.weights.trainable.items() if p.grad is not None and not p.grad.isfinite().all()]
        found = f"loss {loss}, gradient norm {norm}" + (f"; first bad gradient: {bad[0]}" if bad else "")
        if self.update.scaler is not None:
            found += f", the {SKIPS_IN_A_ROW}th overflow of fp16 in a row; bf16 has more range"
        raise DivergedError(
            f"step {launched.step}: {found}; examples {listed}. "
            "The weights were not updated; lower the learning rate or look at these examples"
        )


def train(
    model: nn.Module,
    batches: BatchSource,
    objective: Objective,
    *,
    optimizer: OptimizerConfig | None = None,
    seed: int = 0,
    precision: str = "fp32",
    auto_micro_batch: bool = False,
    on_step: Callable[[Loop, StepResult], None] | None = None,
) -> Trace:
    """Trains `model` in place over all of `batches`; the short form of `Loop(...).run()`."""
    loop = Loop(
        model,
        batches,
        objective,
        optimizer=optimizer or OptimizerConfig(),
        seed=seed,
        precision=precision,
        auto_micro_batch=auto_micro_batch,
    )
    try:
        return loop.run(on_step)
    finally:
        loop.close()
