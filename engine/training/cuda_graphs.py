"""A whole optimiser step as one launch: captured once for each static shape as a CUDA graph, and replayed.

A captured step reads all that differs from step to step from memory: batches, number of targets and dropout seeds from
buffers that are filled before a replay, learning rates and the loss scale from the tensors of the optimiser. The first
steps of a shape are run as usual: they compile kernels and make what is made once, such as the moments of the
optimiser. They are steps like any other, so that nothing has to be put back, on the stream that is captured later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...data import BatchSize, Bucket, PackedBatch
from ...kernels.dispatch import kernels_path
from ..storage.run_warning import RunWarning
from .objectives import MicroBatches, TrainStep

WARM_UP = 2
"""Steps of a shape before it is captured: in the first Triton compiles, in the second nothing is new any more."""
_FAILED: list[torch.cuda.CUDAGraph] = []
"""Kept as long as the process: torch's allocator of pinned memory goes on asking a graph whose capture failed."""
HOST_FIELDS = ("example_ids", "item_example")
"""Tensors of a batch that no kernel reads."""

Replay = Callable[[], Tensor]


class CudaRunner:
    """Captures and replays steps, all in one memory pool: they run one after another, and none needs what another left.

    Args:
        quiet: a context in which no other thread of this process calls CUDA.
    """

    def __init__(self, device: torch.device, quiet: Callable[[], AbstractContextManager[object]]) -> None:
        self._device, self._quiet = device, quiet
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle()

    @contextmanager
    def lane(self) -> Iterator[None]:
        """All steps run within this context, captured or not."""
        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            before.wait_stream(self._stream)

    def capture(self, step: Replay) -> Replay:
        """Every call of the result computes what `step` would, on the memory that it reads here; this call nothing.

        Raises:
            RuntimeError: the step cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        # The autograd engine launches from a thread of its own: only this one is watched for calls a capture forbids.
        watched = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        try:
            with self._quiet(), watched:
                numbers = step()
        except RuntimeError:
            _FAILED.append(graph)
            self._end_capture()
            raise

        def replay() -> Tensor:
            graph.replay()
            return numbers

        return replay

    def _end_capture(self) -> None:
        """Has the allocator forget a capture that failed: torch does so only after one that succeeded.

        Left as it is, memory that several streams have used would never be free again in this process.
        """
        device = self._stream.device_index
        with suppress(RuntimeError, AttributeError):  # the first refuses where torch has done it
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)

    def renew(self) -> None:
        """All that was captured is gone: what follows shares nothing with it."""
        # A pool that lost its last graph while one of its blocks is in use takes no other graph.
        self._pool = torch.cuda.graph_pool_handle()


class GraphedSteps:
    """Runs steps, those whose batches have the shapes of a bucket as graphs.

    Where a capture fails, the warning `graphs-off` says why, and no step is a graph any more.

    Args:
        train_step: what to run; reads what differs between steps from its arguments, and from tensors that stay in
            place.
        buckets: the shapes that are captured, once for each number of micro-batches.
        clear: drops the gradients; called around a capture, so that each graph makes its own anew.

    Attributes:
        replayed: how many steps were graphs.
    """

    def __init__(
        self,
        train_step: TrainStep,
        buckets: Sequence[Bucket],
        runner: CudaRunner,
        *,
        clear: Callable[[], None],
        warn: Callable[[RunWarning], None] = lambda warning: None,
    ) -> None:
        self._train_step, self._runner, self._clear, self._warn = train_step, runner, clear, warn
        self._buckets = frozenset(buckets)
        self._captured: dict[tuple[Any, ...], TrainStep] = {}
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._on = True
        self.replayed = 0

    def lane(self) -> AbstractContextManager[object]:
        """All steps run within this context, those that are not graphs too."""
        return self._runner.lane()

    def __call__(self, micro_batches: MicroBatches, valid: int | Tensor) -> Tensor:
        """One step; its numbers are overwritten by the next one."""
        graph = self._graph(micro_batches, valid)
        if graph is None:
            return self._train_step(micro_batches, valid)
        self.replayed += 1
        return graph(micro_batches, valid)

    def _graph(self, micro_batches: MicroBatches, valid: int | Tensor) -> TrainStep | None:
        """The graph of a step, captured now if its shape has been warmed up; None for a step that is none."""
        key = self._key(micro_batches)
        if key is not None and key not in self._captured:
            self._seen[key] += 1
            if self._seen[key] > WARM_UP:
                self._capture(key, micro_batches, valid)
        return None if key is None else self._captured.get(key)

    def forget(self) -> None:
        """Drops all graphs: what they read may have moved."""
        self._captured.clear()
        self._runner.renew()

    def give_up(self) -> bool:
        """Drops all graphs for good, for the memory that they hold; returns whether there were any."""
        if not self._captured:
            return False
        self._off("the memory that graphs hold is needed")
        return True

    def _key(self, micro_batches: MicroBatches) -> tuple[Any, ...] | None:
        """What tells graphs apart; None for a step that is none."""
        if not self._on or not micro_batches:
            return None
        sizes = {BatchSize.of(batch) for _, batch in micro_batches}
        if len(sizes) != 1 or Bucket(*next(iter(sizes))) not in self._buckets:
            return None
        return next(iter(sizes)), *(tuple(_tensors(batch)) for _, batch in micro_batches)

    def _capture(self, key: tuple[Any, ...], micro_batches: MicroBatches, valid: int | Tensor) -> None:
        device = micro_batches[0][1].token_ids.device
        # What dropout counts from in each micro-batch, a scalar each: its seed, its first token and item.
        counters = [torch.zeros(3, dtype=torch.int64, device=device).unbind() for _ in micro_batches]
        static = [_static(batch) for _, batch in micro_batches]
        inputs = [tensor for batch in static for tensor in _tensors(batch).values()]
        targets = torch.zeros((), dtype=torch.float32, device=device)
        _fill(counters, inputs, targets, micro_batches, valid)
        parts = [
            (seed, replace(batch, first_token=token, first_item=item))
            for (seed, token, item), batch in zip(counters, static, strict=True)
        ]

        def refill(fresh: MicroBatches, valid: int | Tensor) -> Tensor:
            """Replays the step on these inputs; nothing waits for the device."""
            _fill(counters, inputs, targets, fresh, valid)
            return replay()

        self._clear()
        try:
            replay = self._runner.capture(lambda: self._train_step(parts, targets))
        except RuntimeError as error:  # torch has no narrower class for all that CUDA and its allocator refuse
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self._off(f"a step could not be captured: {reason}")
        else:
            self._captured[key] = refill
        finally:
            self._clear()

    def _off(self, reason: str) -> None:
        self._on = False
        self.forget()
        self._warn(graphs_off(reason))


def graphs_off(reason: str) -> RunWarning:
    """`graphs-off`: steps that were to be CUDA graphs are launched one operation at a time."""
    return RunWarning(
        "graphs-off",
        f"{reason}; steps are launched one operation at a time, which changes no result; "
        "performance.graphs = false asks for that",
        {"reason": reason},
    )


def why_no_graphs(device: torch.device, processes: int = 1) -> str | None:
    """Why steps cannot be captured on a device; None where they can.

    Plain torch reads the boundaries of the sequences on the host, so that none of its steps could be captured.
    """
    if device.type != "cuda":
        return f"there are no CUDA graphs on {device.type}"
    if processes > 1:
        return "sums over several processes are not captured"
    path, reason = kernels_path(device)
    return None if path == "triton" else f"plain torch reads sequence boundaries on the host ({reason})"


def _tensors(batch: PackedBatch) -> dict[str, Tensor]:
    """The tensors that kernels read, by name."""
    return {name: value for name, value in batch.tensors().items() if name not in HOST_FIELDS}


def _static(batch: PackedBatch) -> PackedBatch:
    """Buffers in the shapes of a batch. That there are targets is all a step may ask of their number."""
    buffers: dict[str, Any] = {name: torch.empty_like(tensor) for name, tensor in _tensors(batch).items()}
    buffers |= dict.fromkeys(HOST_FIELDS, batch.token_ids.new_empty(0))
    return replace(batch, **buffers, num_targets=1, starts=None)


def _fill(
    counters: list[tuple[Tensor, ...]],
    inputs: list[Tensor],
    targets: Tensor,
    micro_batches: MicroBatches,
    valid: int | Tensor,
) -> None:
    fresh = [tensor for _, batch in micro_batches for tensor in _tensors(batch).values()]
    for dtype in dict.fromkeys(tensor.dtype for tensor in inputs):
        same = [i for i, tensor in enumerate(inputs) if tensor.dtype == dtype]
        # One launch for a list of one dtype.
        torch._foreach_copy_([inputs[i] for i in same], [fresh[i] for i in same])
    for buffers, (seed, batch) in zip(counters, micro_batches, strict=True):
        for buffer, value in zip(buffers, (seed, batch.first_token, batch.first_item), strict=True):
            buffer.fill_(value)
    targets.fill_(valid)
