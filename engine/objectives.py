"""What a stage minimises. Each objective returns the sum of its batch's losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import PackedBatch
from ..kernels import linear_cross_entropy, soft_label_loss, voter_cross_entropy
from ..model import MaskedLM, TaskModel


def masked_lm(model: MaskedLM, batch: PackedBatch, seed: int | Tensor) -> Tensor:
    """Cross entropy of the masked tokens (arXiv 2310.04726 section 3.1); logits of all rows are never formed."""
    assert batch.labels is not None
    hidden = model.transform(batch, seed=seed)
    return linear_cross_entropy(hidden, model.decoder_weight, model.decoder_bias, batch.labels, weights=batch.weights)


def cross_entropy(model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
    """Cross entropy with hard labels (Eq. 2), averaged over voters."""
    labels = batch.labels
    assert labels is not None

    def loss(logits: Tensor, weights: Tensor | None) -> Tensor:
        return voter_cross_entropy(logits, labels, weights=weights)

    return over_voters(loss, model(batch, seed=seed), batch.weights)


def over_voters(loss: Callable[[Tensor, Tensor | None], Tensor], logits: Tensor, weights: Tensor | None) -> Tensor:
    """`loss(logits, weights)`; where each voter has weights of its own, the mean over the voters of their losses.

    Args:
        loss: of logits [M, K, C] and weights [K], a mean over the voters.
        weights: [K], [K, M] or None.
    """
    if weights is None or weights.dim() == 1:
        return loss(logits, weights)
    each = [loss(logits[m : m + 1], weights[:, m].contiguous()) for m in range(len(logits))]
    return torch.stack(each).mean(dim=0)


@dataclass(frozen=True)
class SoftLabels:
    """Distance to the teacher's probabilities (Eq. 1)."""

    kind: str = "mse"
    temperature: float = 1.0
    combine: str = "per-voter"

    def __call__(self, model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
        targets = batch.soft_targets
        assert targets is not None

        def loss(logits: Tensor, weights: Tensor | None) -> Tensor:
            return soft_label_loss(
                logits,
                targets,
                kind=self.kind,
                teacher_is="logits" if self.kind == "logits" else "probabilities",
                temperature=self.temperature,
                weights=weights,
                combine=self.combine,
            )

        return over_voters(loss, model(batch, seed=seed), batch.weights)
