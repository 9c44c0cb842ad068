"""The one training loop. It never asks which stage it runs."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ... import DivergedError
from ...kernels.dispatch import use_triton
from ..storage.faults import fault
from ..storage.run_warning import RunWarning
from ..storage.text import some
from .config import OptimizerConfig, PerformanceConfig
from .cuda_graphs import CudaRunner, GraphedSteps, graphs_off, why_no_graphs
from .device import Arriving
from .distributed import ProcessGroup, sum_gradients
from .objectives import BatchSource, MicroBatches, Objective
from .optimizer import SKIPS_IN_A_ROW, OptimizerStep
from .out_of_memory import MemoryRetry, repeatable
from .precision import MasterWeights
from .prefetch import StepBatches, make_prefetcher

MODEL = "model."
"""How the names of a checkpoint's weights begin."""
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
    """Every step of a stage, as columns; part of a checkpoint, so that a resumed run has the whole of it.

    Attributes:
        held_out: not of every step: what a stage measured on text that it does not learn, each with its "step".
    """

    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    valid: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: StepResult) -> None:
        for name in self.__dataclass_fields__.keys() - {"held_out"}:
            getattr(self, name).append(getattr(result, name))


@dataclass(slots=True)
class LaunchedStep:
    """A step that runs, whose numbers may be on their way from the device."""

    batches: StepBatches
    lr: float
    started: float
    numbers: Arriving

    def result(self, loss: float, grad_norm: float, skipped: bool) -> StepResult:
        """The step, which ends now, with the numbers that have arrived."""
        tokens, seconds = sum(batch.num_tokens for batch in self.batches.batches), time.monotonic() - self.started
        valid = self.batches.num_targets
        return StepResult(self.batches.step, loss, valid, tokens, grad_norm, self.lr, seconds, int(skipped))


class Loop:
    """A model, its batches, its objective and its optimizer, at some step.

    Args:
        model: whatever `objective` understands; parameters without `requires_grad` stay as they are.
        batches: one entry per optimiser step.
        optimizer: rates, clipping, decay.
        precision: "fp32"; "bf16" or "fp16" for 16-bit computation over fp32 weights, which `close` gives back.
        processes: the processes that share the micro-batches of every step; this one alone when absent.
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
        processes: ProcessGroup | None = None,
        performance: PerformanceConfig = PLAIN,
        auto_micro_batch: bool = False,
        warn: Callable[[RunWarning], None] = lambda warning: None,
    ) -> None:
        self.model, self.batches, self.objective, self.total = model, batches, objective, len(batches)
        self.processes = processes or ProcessGroup()
        self.device = next(model.parameters()).device
        self.weights = MasterWeights(model, precision)
        self.optimizer_step = OptimizerStep(self.weights, optimizer, self.device, precision)
        obstacle = why_no_graphs(self.device, self.processes.size)
        graphs = performance.graphs is not False and obstacle is None
        if performance.graphs is True and obstacle is not None:
            warn(graphs_off(obstacle))
        # oneDNN, which multiplies 16 bits on a CPU, compiles each product for its number of rows: 1 to 4 ms a size.
        few_sizes = self.device.type == "cpu" and precision != "fp32"
        self.prefetcher = make_prefetcher(
            batches, self.device, performance, graphs=graphs, seed=seed, share=self.processes.share, few_sizes=few_sizes
        )
        self.graphs: GraphedSteps | None = None
        if graphs:
            self.capture(CudaRunner(self.device, self.prefetcher.quiet), warn)
        self.memory = MemoryRetry(
            self.prefetcher,
            auto=auto_micro_batch and self.processes.size == 1,
            clear=self._clear_gradients,
            release=lambda: self.graphs is not None and self.graphs.give_up(),
        )
        self.step = 0
        self.ahead = int(self.device.type == "cuda")
        self.settle: Callable[[int], bool] = lambda step: False
        self.trace = Trace()
        self._launched: deque[LaunchedStep] = deque()
        self._finished: deque[StepResult] = deque()

    def train_step(self, micro_batches: MicroBatches, valid: int | Tensor) -> Tensor:
        """One optimizer step: forward and backward over micro-batches, reduce, update, publish.

        What differs between steps is in the arguments, and nothing waits for the device: a CUDA graph of this call is
        the step of any batch of the same shape.

        Args:
            valid: targets of the whole step, in all micro-batches of all processes.

        Returns:
            What `OptimizerStep.apply` says of the step, on the device.
        """
        loss = torch.zeros((), device=self.device)
        # Not a number: dividing by one rounds otherwise on a GPU than by a tensor, and a graph has a tensor.
        count = valid if isinstance(valid, Tensor) else torch.full_like(loss, valid)
        # Kernels read 16-bit gradients as they are; a sum over parts or processes is made in fp32.
        whole = len(micro_batches) == 1 and self.processes.size == 1 and use_triton(loss)
        with repeatable():
            for seed, batch in micro_batches:
                part = self.objective(self.model, batch, seed) / (math.nan if fault("loop.loss") else count)
                torch.autograd.backward(self.optimizer_step.scaled(part))
                if not whole:
                    self.weights.accumulate()
                loss += part.detach()
        loss = sum_gradients(self.processes, self.weights.trainable.values(), loss, valid)
        return self.optimizer_step.apply(loss)

    def launch(self) -> None:
        """Starts the next step; `finish` reads its numbers."""
        started, batches = time.monotonic(), self.prefetcher[self.step]
        lr = self.optimizer_step.set_lr(self.step, self.total)
        numbers = Arriving(self.memory(self.graphs or self.train_step, batches))
        if self.ahead:
            self.weights.clear()
        self._launched.append(LaunchedStep(batches, lr, started, numbers))
        self.step += 1

    def finish(self, ahead: int = 0) -> None:
        """Reads the numbers of all but the last `ahead` launched steps.

        Raises:
            DivergedError: loss or gradient is not finite; the weights are still those of the step before.
        """
        while len(self._launched) > ahead:
            launched = self._launched.popleft()
            loss, norm, skipped, in_a_row = launched.numbers.wait(self.processes.wait).tolist()
            if skipped and (self.optimizer_step.scaler is None or in_a_row >= SKIPS_IN_A_ROW):
                self._diverged(launched.batches.step, loss, norm)
            if skipped:
                loss, norm = (
                    value if math.isfinite(value) else (past[-1] if past else 0.0)
                    for value, past in ((loss, self.trace.loss), (norm, self.trace.grad_norm))
                )
            self.weights.clear()
            result = launched.result(loss, norm, bool(skipped))
            self.trace.add(result)
            self._finished.append(result)

    def advance(self) -> StepResult:
        """Runs one optimizer step and waits for it; raises what `finish` does."""
        with self.lane():
            self.launch()
            self.finish()
        return self._finished.pop()

    def run(self, on_step: Callable[[Loop, StepResult], None] | None = None) -> Trace:
        """Runs to the end; `on_step` is called after every step and may save, print or raise.

        On a GPU the numbers of a step are read while the next one runs, so that the device never waits for the host.
        """
        with self.lane(), closing(self.prefetcher):
            while self.step < self.total:
                self.launch()
                self.finish(self.ahead if self.step < self.total and not self.settle(self.step) else 0)
                while self._finished:
                    result = self._finished.popleft()
                    if on_step is not None:
                        on_step(self, result)
        return self.trace

    def lane(self) -> AbstractContextManager[object]:
        """All steps are launched within this context."""
        return nullcontext() if self.graphs is None else self.graphs.lane()

    def capture(self, runner: CudaRunner, warn: Callable[[RunWarning], None]) -> None:
        """Has steps captured and replayed from now on."""
        buckets = self.prefetcher.buckets
        self.graphs = GraphedSteps(self.train_step, buckets, runner, clear=self._clear_gradients, warn=warn)

    @property
    def supply(self) -> dict[str, float]:
        """How the device was fed so far: seconds waited for batches, share of padding, steps that were graphs."""
        replayed = 0 if self.graphs is None else self.graphs.replayed
        return {"waited": self.prefetcher.waited, "padding": self.prefetcher.padding, "graphs": replayed}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint needs: trainable weights and moments by name, the loss scale, and the loss trace."""
        self.finish()
        weights = {MODEL + name: p.detach() for name, p in self.weights.trainable.items()}
        return weights | self.optimizer_step.state(), {"trace": vars(self.trace)} | self.memory.state()

    def restore(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continues from `state()` of an equal loop after `step` steps."""
        self.weights.load({name.removeprefix(MODEL): t for name, t in tensors.items() if name.startswith(MODEL)})
        self.optimizer_step.load(tensors)
        if self.graphs is not None:
            self.graphs.forget()
        self.memory.restore(meta)
        self.trace = Trace(**meta["trace"])
        self.step = step

    def close(self) -> None:
        """Ends 16-bit computation: the model has its fp32 weights again, and the loop is of no use after it."""
        self.prefetcher.close()
        self.graphs = None
        self.weights.restore()

    def _clear_gradients(self) -> None:
        self.model.zero_grad()
        self.weights.clear()

    def _diverged(self, step: int, loss: float, norm: float) -> None:
        self.step = step
        self._launched.clear()
        names = self.prefetcher.names(step)
        raise DivergedError(
            f"step {step}: {self.optimizer_step.failure(loss, norm)}; examples {some(names, LISTED)}. "
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
    config = optimizer or OptimizerConfig()
    loop = Loop(
        model, batches, objective, optimizer=config, seed=seed, precision=precision, auto_micro_batch=auto_micro_batch
    )
    try:
        return loop.run(on_step)
    finally:
        loop.close()
