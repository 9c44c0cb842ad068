"""The batches of the next steps: made and copied to the device by another thread while the device computes this one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import accumulate
from threading import RLock
from typing import Any

import torch

from ...data import BatchSize, Bucket, PackedBatch, choose_buckets, derive_seed, pad_step, padding_share
from ...data.batches.batch import cut
from ...data.batches.buckets import MOST_BUCKETS, pad_to_few_sizes
from .config import PerformanceConfig
from .objectives import BatchSource, MicroBatches, NamedSource, SizedSource

DEPTH = 2
"""Steps that are made ahead: one that takes longer than the others is made up for before the device has to wait."""
SURVEYED, SAMPLED = 20_000, 64
"""Steps whose batches are measured before buckets are chosen; the latter where a source has no `sizes`."""

Share = Callable[[int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class StepBatches:
    """The micro-batches of a step.

    Attributes:
        batches: as the source made them, those of all processes.
        micro_batches: those that have targets and are computed here, on the device.
        copied: where they are copied meanwhile, what says that they are there.
    """

    step: int
    batches: Sequence[PackedBatch]
    micro_batches: MicroBatches
    copied: torch.cuda.Event | None = None

    @property
    def num_targets(self) -> int:
        """Targets of the whole step; the same in every process."""
        return sum(batch.num_targets for batch in self.batches)


class Prefetcher:
    """Item `step`: the batches of a step, on the device.

    With a `depth` a thread makes the steps that follow, in order, while the caller computes. On CUDA it copies them
    from pinned memory on a stream of its own; the caller's stream waits for the copy, the host does not. The results
    are those of depth 0, to the bit, since a batch depends on its step alone. What the source raises is raised when its
    step is asked for. Another step than the next may be asked for at any time: what was made ahead is then dropped.

    The thread ends with `close`, or with this object.

    Args:
        source: see `BatchSource`; called by one thread at a time.
        depth: steps to make ahead; 0 makes each when it is asked for, without a thread.
        buckets: static shapes to pad micro-batches to; none leaves them as they are.
        share: from a number of micro-batches to those that are computed here; all when absent.
        few_sizes: without buckets, pad each micro-batch as `pad_to_few_sizes` does.

    Attributes:
        waited: seconds that callers have waited for batches.
        padding: share of padding among the tokens that are computed, as far as it is known beforehand.
    """

    def __init__(
        self,
        source: BatchSource,
        device: torch.device,
        *,
        depth: int = 0,
        seed: int = 0,
        buckets: Sequence[Bucket] = (),
        share: Share = range,
        few_sizes: bool = False,
    ) -> None:
        self._source, self._device, self._depth, self._seed, self._share = source, device, depth, seed, share
        self._few_sizes = few_sizes
        self.buckets = tuple(buckets)
        self.waited = self.padding = 0.0
        self._lock = RLock()
        self._ahead: deque[tuple[int, Future[StepBatches]]] = deque()
        self._executor: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None
        if depth and device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, step: int, /) -> StepBatches:
        began = time.perf_counter()
        try:
            return self._make(step) if not self._depth else self._received(self._next(step).result())
        finally:
            self.waited += time.perf_counter() - began

    def names(self, step: int, /) -> list[str]:
        """The ids of the examples of a step; their numbers where the source knows no names."""
        with self._lock:
            if isinstance(self._source, NamedSource):
                return self._source.names(step)
            return [str(int(i)) for batch in self._source[step] for i in batch.example_ids]

    def cut(self, whole: StepBatches, sequences: int) -> StepBatches:
        """The same step in micro-batches of at most so many sequences, without padding."""
        parts = [part for batch in whole.batches for part in cut(batch, sequences)]
        mine = self._mine(whole.step, parts, ())
        return StepBatches(whole.step, parts, [(seed, sent(batch, self._device)) for seed, batch in mine])

    def quiet(self) -> AbstractContextManager[object]:
        """While it is held the thread makes nothing and touches no device."""
        return self._lock

    def close(self) -> None:
        """Drops what was made ahead and waits for the thread's end. The prefetcher may be used again."""
        self._ahead.clear()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def _next(self, step: int) -> Future[StepBatches]:
        if not self._ahead or self._ahead[0][0] != step:
            self.close()
            self._submit(step)
        future = self._ahead.popleft()[1]
        following = self._ahead[-1][0] + 1 if self._ahead else step + 1
        for later in range(following, min(step + 1 + self._depth, len(self))):
            self._submit(later)
        return future

    def _submit(self, step: int) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="xlt-prefetch")
        self._ahead.append((step, self._executor.submit(self._make, step)))

    def _make(self, step: int) -> StepBatches:
        with self._lock:
            batches = self._source[step]
            mine = self._mine(step, batches, self.buckets)
            if self._stream is None:
                return StepBatches(step, batches, [(seed, sent(batch, self._device)) for seed, batch in mine])
            with torch.cuda.stream(self._stream):
                moved = [(seed, sent(batch, self._device)) for seed, batch in mine]
                copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                copied.record()
            return StepBatches(step, batches, moved, copied)

    def _mine(
        self, step: int, batches: Sequence[PackedBatch], buckets: Sequence[Bucket]
    ) -> list[tuple[int, PackedBatch]]:
        """The micro-batches of this process that have targets, padded, with their dropout seeds for this step."""
        # A part has the seed of its whole batch, and counts its rows on: a step is the same however it is cut.
        wholes = list(accumulate(int(batch.first_token == 0) for batch in batches))
        mine = self._share(len(batches))
        padded = pad_step([batches[i] for i in mine], buckets)
        if self._few_sizes and not buckets:
            padded = [pad_to_few_sizes(batch) for batch in padded]
        seeds = [derive_seed(self._seed, "dropout", step, wholes[i] - 1) for i in mine]
        return [(seed, batch) for seed, batch in zip(seeds, padded, strict=True) if batch.num_targets]

    def _received(self, made: StepBatches) -> StepBatches:
        """Orders the copies before what the caller launches next, and their memory's next use after it."""
        if made.copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(made.copied)
            for _, batch in made.micro_batches:
                for tensor in batch.tensors().values():
                    tensor.record_stream(stream)
        return made


def make_prefetcher(
    source: BatchSource,
    device: torch.device,
    config: PerformanceConfig,
    *,
    graphs: bool,
    seed: int = 0,
    share: Share = range,
    few_sizes: bool = False,
) -> Prefetcher:
    """The prefetcher that the configuration asks for.

    "auto" makes batches ahead on CUDA, and pads them where steps are graphs. On a CPU it does neither, but for
    `few_sizes`.
    """
    ahead = device.type == "cuda" if config.feed == "auto" else config.feed
    most = (MOST_BUCKETS if graphs else 0) if config.buckets == "auto" else config.buckets
    sizes = survey(source) if most else []
    buckets = choose_buckets(sizes, most) if most else ()
    depth = DEPTH if ahead else 0
    prefetcher = Prefetcher(source, device, depth=depth, seed=seed, buckets=buckets, share=share, few_sizes=few_sizes)
    prefetcher.padding = padding_share(sizes, buckets)
    return prefetcher


def survey(source: BatchSource) -> list[BatchSize]:
    """The sizes of a source's batches: of all steps, up to `SURVEYED`; of `SAMPLED` where it has to make them."""
    total = len(source)
    if isinstance(source, SizedSource):
        return [size for step in range(min(total, SURVEYED)) for size in source.sizes(step)]
    steps = sorted({total * i // SAMPLED for i in range(SAMPLED)}) if total else []
    return [BatchSize.of(batch) for step in steps for batch in source[step]]


def sent(batch: PackedBatch, device: torch.device) -> PackedBatch:
    """The batch on a device; to a GPU it is copied from pinned memory, for which the host does not wait."""
    if device.type == "cpu":
        return batch.to(device)
    moved: dict[str, Any] = {name: tensor.pin_memory() for name, tensor in batch.tensors().items()}
    return replace(batch, **moved).to(device)
