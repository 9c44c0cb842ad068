"""What contrastive language adaptation minimises (Yu and Joty, EMNLP 2021, Eq. 2 to 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...data import PackedBatch
from ...data.store.format import IGNORE
from ...kernels import supervised_contrastive, voter_cross_entropy
from ...model import TaskModel


@dataclass(frozen=True)
class LabelAlignment:
    """Cross entropy, and `weight` times the supervised contrastive loss of what the head reads (Eq. 3).

    Both are sums over the texts of the batch, and the loop divides by their number. A batch with weights aligns the
    texts of weight 1 only, among each other; all are in the cross entropy.
    """

    temperature: float
    weight: float

    def __call__(self, model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
        assert batch.labels is not None
        features = model.features(batch, seed)
        loss = voter_cross_entropy(model.head(features, seed), batch.labels)
        if self.weight == 0:
            return loss
        labels = batch.labels
        if batch.weights is not None:
            labels = torch.where(batch.weights > 0, labels, IGNORE)
        return loss + self.weight * supervised_contrastive(features, labels, temperature=self.temperature)


@dataclass(frozen=True)
class SemanticAlignment:
    """Cross entropy, and `weight` times the contrast of a text with its translations (Eq. 5), for `PairBatches`.

    The loop divides by the number of texts; a micro-batch has one contrastive loss, which is therefore multiplied by
    that number: the mean over texts of the one, and over the texts in the middle of the other.
    """

    temperature: float
    weight: float

    def __call__(self, model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
        assert batch.labels is not None
        features = model.features(batch, seed)
        loss = voter_cross_entropy(model.head(features, seed), batch.labels)
        if self.weight == 0:
            return loss
        # The translations are all that shares the class of the text in the middle, the only one with a weight.
        contrast = supervised_contrastive(features, batch.labels, temperature=self.temperature, weights=batch.weights)
        return loss + self.weight * (batch.labels != IGNORE).sum() * contrast
