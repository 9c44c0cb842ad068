"""What the loop is handed: a source of batches, and what a stage minimises, the sum of a batch's losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...data import BatchSize, PackedBatch
from ...kernels import linear_cross_entropy, soft_label_loss, voter_cross_entropy
from ...kernels.dispatch import use_triton
from ...model import MaskedLM, TaskModel

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


def masked_lm(model: MaskedLM, batch: PackedBatch, seed: int | Tensor) -> Tensor:
    """Cross entropy of the masked tokens (arXiv 2310.04726 section 3.1); logits of all rows are never formed.

    The kernels add the gradient of the decoder to its `grad` in place, where a tied embedding's is added too.
    """
    assert batch.labels is not None
    matrix, grad = model.decoder_weight, None
    if matrix.requires_grad and torch.is_grad_enabled() and use_triton(matrix):
        if matrix.grad is None:
            matrix.grad = torch.zeros_like(matrix)
        grad = matrix.grad
    hidden = model.transform(batch, seed=seed)
    return linear_cross_entropy(
        hidden, matrix, model.decoder_bias, batch.labels, weights=batch.weights, weight_grad=grad
    )


def cross_entropy(model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
    """Cross entropy with hard labels (Eq. 2), averaged over voters."""
    assert batch.labels is not None
    return voter_cross_entropy(model(batch, seed=seed), batch.labels, weights=batch.weights)


def soft_labels(model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
    """Distance to the teacher's probabilities (Eq. 1), averaged over voters."""
    assert batch.soft_targets is not None
    return soft_label_loss(model(batch, seed=seed), batch.soft_targets, weights=batch.weights)
