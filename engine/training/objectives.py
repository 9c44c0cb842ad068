"""What a stage minimises. Each objective returns the sum of its batch's losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...data import PackedBatch
from ...kernels import linear_cross_entropy, soft_label_loss, voter_cross_entropy
from ...kernels.dispatch import use_triton
from ...model import MaskedLM, TaskModel


def masked_lm(model: MaskedLM, batch: PackedBatch, seed: int | Tensor) -> Tensor:
    """Cross entropy of the masked tokens (arXiv 2310.04726 section 3.1); logits of all rows are never formed.

    In the kernels a word embedding that is the decoder too and trains has one dense gradient, its own `grad`: backward
    adds the product of the loss to it, and then the rows of the embedding.
    """
    assert batch.labels is not None
    matrix, grad = model.decoder_weight, None
    if matrix.requires_grad and torch.is_grad_enabled() and model.adds_word_gradients and use_triton(matrix):
        if matrix.grad is None:
            matrix.grad = torch.zeros_like(matrix)
        grad = matrix.grad
    hidden = model.transform(batch, seed=seed, word_grad=grad)
    return linear_cross_entropy(
        hidden, matrix, model.decoder_bias, batch.labels, weights=batch.weights, weight_grad=grad
    )


def cross_entropy(model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
    """Cross entropy with hard labels (Eq. 2), averaged over voters."""
    assert batch.labels is not None
    return voter_cross_entropy(model(batch, seed=seed), batch.labels, weights=batch.weights)


@dataclass(frozen=True)
class SoftLabels:
    """Distance to the teacher's probabilities (Eq. 1)."""

    kind: str = "mse"
    temperature: float = 1.0
    combine: str = "per-voter"

    def __call__(self, model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
        assert batch.soft_targets is not None
        return soft_label_loss(
            model(batch, seed=seed),
            batch.soft_targets,
            kind=self.kind,
            temperature=self.temperature,
            weights=batch.weights,
            combine=self.combine,
        )
