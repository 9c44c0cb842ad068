"""What the loop is handed: a source of batches, and what is minimised over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ...data import BatchSize, PackedBatch

MicroBatches = Sequence[tuple[int | Tensor, PackedBatch]]
"""Micro-batches on the device, each with its dropout seed."""
TrainStep = Callable[[MicroBatches, int | Tensor], Tensor]
"""Runs one step, whose micro-batches have so many targets in all; returns its numbers, on the device."""


class Objective(Protocol):
    """Sum of the losses of a batch's valid targets; the loop divides by their number in the whole step."""

    def __call__(self, model: Any, batch: PackedBatch, seed: int | Tensor) -> Tensor: ...


class BatchSource(Protocol):
    """`len` is the number of optimiser steps; item `step` holds its micro-batches and depends on `step` alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Sequence[PackedBatch]: ...


@runtime_checkable
class NamedSource(Protocol):
    """A batch source that can name the examples of a step, for messages."""

    def names(self, step: int, /) -> list[str]: ...


@runtime_checkable
class SizedSource(Protocol):
    """A batch source that knows the sizes of a step's batches without making them."""

    def sizes(self, step: int, /) -> Sequence[BatchSize]: ...
