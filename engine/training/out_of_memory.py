"""A step that does not fit into memory: how that is recognised, what is said of it, and how the engine goes on.

With `micro_batch = "auto"` the failed step is repeated from the weights before it, in parts of half as many sequences:
its gradients are dropped, nothing of it was applied. The loss is divided by the targets of the whole step as ever, so
that the run is, from that step on, one with that micro-batch, which differs from one of whole batches by rounding
alone. Among several processes nothing is halved: the others would be in another step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import OutOfMemoryError
from ...data import PackedBatch
from ...data.batches.batch import cut
from ..storage.run_warning import RunWarning
from .objectives import TrainStep
from .prefetch import Prefetcher, StepBatches

SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "[CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch says in a plain RuntimeError where an allocation fails: on the CPU, in CUDA libraries, in Triton."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@dataclass(frozen=True, slots=True)
class StepSize:
    """How large a step is.

    Attributes:
        sequences, tokens: of the whole step.
        longest: tokens of the longest sequence.
        where: index of that sequence in the step.
        at_once: sequences of the largest forward pass.
    """

    sequences: int
    tokens: int
    longest: int
    where: int
    at_once: int

    @classmethod
    def of(cls, batches: Sequence[PackedBatch], limit: int = 0) -> StepSize:
        """The size of a step whose batches are computed whole, or at most `limit` sequences at a time."""
        # Padding of a static shape is at the end, as sequences without a number.
        counts = [len(batch.example_ids) for batch in batches]
        lengths = torch.cat([b.cu_seqlens.diff()[:n].cpu() for b, n in zip(batches, counts, strict=True)])
        where = int(lengths.argmax())
        return cls(len(lengths), int(lengths.sum()), int(lengths[where]), where, min(max(counts), limit or max(counts)))


def _halved(**values: int) -> RunWarning:
    """That the micro-batch went from `before` to `after` sequences, and for which step."""
    text = (
        "step {step}: {before} sequences at a time do not fit into memory ({sequences} sequences, {tokens} tokens, the "
        "longest has {longest}); from this step on the stage runs with micro_batch = {after}: the same up to rounding"
    )
    return RunWarning("micro-batch-halved", text.format(**values), values)


class StepDoesNotFit(RuntimeError):
    """Memory ran out in a forward or backward pass; no weight has changed."""


@contextmanager
def repeatable() -> Iterator[None]:
    """Marks the part of a step that changes no weight: memory that runs out in it is a `StepDoesNotFit`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise StepDoesNotFit(str(error)) from error


class MemoryRetry:
    """Runs steps, and those that do not fit into memory again: in smaller parts, where the user allows it.

    Args:
        prefetcher: cuts steps, and names their examples for messages.
        release: gives up memory that steps can do without, and says whether there was any; the step is then tried again
            as it is.

    Attributes:
        limit: sequences in one forward pass; 0: as the batch source cuts.
    """

    def __init__(
        self,
        prefetcher: Prefetcher,
        *,
        auto: bool,
        clear: Callable[[], None],
        release: Callable[[], bool],
    ) -> None:
        self._prefetcher, self._auto, self._clear, self._release = prefetcher, auto, clear, release
        self.limit = 0
        self.halvings: list[RunWarning] = []
        self.report: Callable[[RunWarning], None] = lambda warning: None

    def __call__(self, train_step: TrainStep, batches: StepBatches) -> Tensor:
        """What `train_step` returns for a step, after as many attempts as it takes.

        Raises:
            OutOfMemoryError: the step does not fit; the weights are those before it.
        """
        while True:
            try:
                with repeatable():
                    parts = self._prefetcher.cut(batches, self.limit) if self.limit else batches
                return train_step(parts.micro_batches, batches.num_targets)
            except StepDoesNotFit as error:
                if not self._release():
                    self._shrink(batches.step, StepSize.of(batches.batches, self.limit), error)
            # Only here, after the error with its frames is gone, nothing holds the activations any more.
            self._clear()
            _give_back()

    def _shrink(self, step: int, size: StepSize, error: StepDoesNotFit) -> None:
        after = size.at_once // 2
        if not self._auto or after < 1:
            self._clear()
            raise OutOfMemoryError(self._message(step, size)) from error.__cause__
        self.limit = after
        sizes = {name: getattr(size, name) for name in ("sequences", "tokens", "longest")}
        self.halvings.append(_halved(step=step, before=size.at_once, after=after, **sizes))
        self.report(self.halvings[-1])

    def _message(self, step: int, size: StepSize) -> str:
        names = self._prefetcher.names(step)
        name = f" ({names[size.where]})" if size.where < len(names) else ""
        problem = (
            f"step {step} does not fit into memory: {size.sequences} sequences, {size.tokens} tokens, the longest has "
            f"{size.longest}{name}, {size.at_once} sequences at a time"
        )
        if size.at_once == 1:
            return f"{problem}; set training.recompute = true, or lower max_length"
        return (
            f"{problem}; set training.micro_batch = {size.at_once // 2}, or --micro-batch auto: the same loss over the "
            "same batch, in smaller parts. training.recompute = true saves memory too"
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint; nothing where nothing has happened."""
        if not self.limit:
            return {}
        return {"memory": {"limit": self.limit, "halvings": [halving.values for halving in self.halvings]}}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        stored = meta.get("memory", {"limit": 0, "halvings": []})
        self.limit = stored["limit"]
        self.halvings = [_halved(**entry) for entry in stored["halvings"]]


class PassRetry:
    """Runs batches without a backward pass, and those that do not fit into memory again in halves, if it may.

    Attributes:
        limit: tokens above which a batch of several sequences is cut; 0: none is.
    """

    def __init__(self, auto: bool = True, report: Callable[[RunWarning], None] = lambda warning: None) -> None:
        self._auto, self._report = auto, report
        self.limit = 0

    def __call__(self, run: Callable[[PackedBatch], Tensor], batch: PackedBatch) -> Iterator[Tensor]:
        """What `run` returns for the batch, or for its parts in their order.

        Raises:
            OutOfMemoryError: it does not fit.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            count = len(part.example_ids)
            if 0 < self.limit < part.num_tokens and count > 1:
                waiting += reversed(cut(part, -(-count // 2)))
                continue
            try:
                with repeatable():
                    result = run(part)
            except StepDoesNotFit as error:
                self._shrink(StepSize.of([part]), error)
                waiting.append(part)
            else:
                yield result
                continue
            _give_back()

    def _shrink(self, size: StepSize, error: StepDoesNotFit) -> None:
        after, text = size.tokens // 2, f"{size.tokens} tokens, the longest has {size.longest}"
        if not self._auto or size.sequences == 1:
            remedy = "lower max_length" if size.sequences == 1 else f"set inference_tokens = {after} in the recipe"
            raise OutOfMemoryError(
                f"a pass without gradients does not fit into memory: {size.sequences} sequences, {text}; {remedy}"
            ) from error.__cause__
        self.limit = after
        self._report(
            RunWarning(
                "inference-halved",
                f"a pass without gradients over {size.sequences} sequences ({text}) does not fit into memory; from "
                f"here on it goes in parts of about {after} tokens: the same up to rounding",
                {"tokens": after, **{name: getattr(size, name) for name in ("sequences", "longest")}},
            )
        )


def _give_back() -> None:
    """Frees what a failed attempt held; its error, and the frames in it, must be gone."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def outside_of_steps(error: Exception, stage: str) -> OutOfMemoryError | None:
    """The error for memory that ran out where no step can be named; None where an error is another."""
    if not is_out_of_memory(error):
        return None
    return OutOfMemoryError(
        f"{stage or 'before the first stage'}: out of memory outside of a forward or backward pass, where weights, "
        f"gradients and moments or the data take their room: {str(error)[:200]}. Smaller micro-batches will not help; "
        "freeze more layers, take a smaller model, or free memory of other processes"
    )
