"""Steps with two losses: batches of a task, and masked ones beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .batch import MASKED, PackedBatch
from .buckets import BatchSize
from .sources import MlmBatches, TaskBatches


class JointBatches:
    """The batches of a task, and after them in each step masked ones, for task loss + `weight` * masked-LM loss.

    Each loss is a mean over its own targets in the whole step, whatever the micro-batches. A loop that divides the sum
    by the number of all targets, N, gives that, since the weights of the items carry N / n with n their own number.

    Args:
        task: decides the number of steps.
        masked: with at least as many steps; its batches are marked as `MASKED`.
        weight: of the masked-LM loss, above 0.

    Raises:
        ValueError: there are not enough masked batches.
    """

    def __init__(self, task: TaskBatches, masked: MlmBatches, weight: float) -> None:
        if len(masked) < len(task):
            raise ValueError(f"{len(masked)} masked batches for {len(task)} steps")
        self._task, self._masked, self._weight = task, masked, weight

    def __len__(self) -> int:
        return len(self._task)

    def names(self, step: int) -> list[str]:
        """The ids of the examples of a step."""
        return self._task.names(step) + self._masked.names(step)

    def sizes(self, step: int) -> list[BatchSize]:
        """The sizes of a step's batches, without making them."""
        return self._task.sizes(step) + self._masked.sizes(step)

    def __getitem__(self, step: int) -> list[PackedBatch]:
        task, masked = self._task[step], self._masked[step]
        own, others = _targets(task), _targets(masked)
        share, other_share = (own + others) / max(1, own), self._weight * (own + others) / max(1, others)
        marked = [replace(_weighted(batch, other_share), kind=MASKED) for batch in masked]
        return [*(_weighted(batch, share) for batch in task), *marked]


def _targets(batches: Sequence[PackedBatch]) -> int:
    return sum(batch.num_targets for batch in batches)


def _weighted(batch: PackedBatch, factor: float) -> PackedBatch:
    """The batch with the weights of its items multiplied."""
    weights = torch.ones(len(batch.item_index)) if batch.weights is None else batch.weights
    return replace(batch, weights=weights * factor)
