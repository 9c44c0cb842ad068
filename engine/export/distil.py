"""One linear head that has learned the voters' mean probability, in the place where transformers has its own."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...data import ItemView, PackedBatch, TokenStore
from ...kernels import votes
from ...model import LinearHead, MlpHead, Pooler, PredictionHead, TaskModel
from ...model.info import head_of_layout
from ..evaluation.inference import predict_items

HELD_OUT = 10
"""Every so many texts one is kept from the fit, to see how often the head agrees with the voters."""
STEPS = 300
_CHUNK = 4096
_SHARP = 2.0
_DECAY = 1e-6


class _Features(nn.Module):
    """What the head reads, in the place of logits: [1, K, H]."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch) -> Tensor:
        return self.model.features(batch).unsqueeze(0)


class _Student:
    """The head of transformers' class, and the pooler where it has one; `first` is what is before the last layer."""

    def __init__(self, model: TaskModel) -> None:
        config, classes = model.config, len(model.labels)
        kind, self.pooling = head_of_layout(config, model.task)
        if model.pooling in config.layout.poolings:
            self.pooling = model.pooling
        self.head: LinearHead | MlpHead | PredictionHead
        if kind == "prediction":
            self.head = PredictionHead(config, classes, model.head.dropout)
        else:
            self.head = (MlpHead if kind == "mlp" else LinearHead)(config.hidden_size, classes, model.head.dropout)
        self.pooler = Pooler(config) if self.pooling == "pooler" else None
        self.first = self.head if isinstance(self.head, MlpHead) else self.pooler
        self.pooled = model.pooler is not None  # the features have passed the checkpoint's own pooler
        if self.first is not None and model.pooler is not None:
            with torch.no_grad():
                self.first.dense_weight.copy_(model.pooler.dense_weight)
                self.first.dense_bias.copy_(model.pooler.dense_bias)

    def learning(self) -> list[nn.Parameter]:
        """The parameters that are fitted."""
        if isinstance(self.head, PredictionHead):
            return list(self.head.parameters())
        last = [self.head.weight, self.head.bias]
        return last if self.first is None or self.pooled else [self.first.dense_weight, self.first.dense_bias, *last]

    def __call__(self, features: Tensor) -> Tensor:
        """The logits, [K, C]."""
        if isinstance(self.first, Pooler) and not self.pooled:
            features = self.first(features)
        if isinstance(self.head, PredictionHead) or (isinstance(self.head, MlpHead) and not self.pooled):
            return self.head(features)[0]
        return functional.linear(features, self.head.weight, self.head.bias)


def distil(model: TaskModel, store: TokenStore) -> tuple[TaskModel, float]:
    """The model with a head that transformers has, and the share of items in % on which both name one class.

    The encoder and a pooler stay as they are. The head is fitted to the mean probability over the voters by L-BFGS on
    cross entropy, both squared, so that what is nearly even counts more; the agreement is that on texts that it did not
    learn from.
    """
    reader, width = cast(TaskModel, _Features(model)), model.config.hidden_size
    features = predict_items(reader, ItemView(store), lambda x: x[0], width=width)
    with torch.inference_mode():
        chunks = [votes(model.head(chunk)).mean_probability for chunk in torch.split(features, _CHUNK)]
    target = torch.cat(chunks).pow(_SHARP)
    target = target / target.sum(-1, keepdim=True)
    text_of_item = np.repeat(np.arange(len(store)), np.diff(store.item_offsets))
    held = torch.from_numpy(text_of_item % HELD_OUT == HELD_OUT - 1)
    student = _Student(model)
    _fit(student, features[~held], target[~held])
    held = held if bool(held.any()) else ~held
    with torch.no_grad():
        student.head.weight.div_(_SHARP)
        student.head.bias.div_(_SHARP)
        agreement = (student(features[held]).argmax(-1) == target[held].argmax(-1)).double().mean()
    head, pooling, pooler = student.head, student.pooling, student.pooler
    made = TaskModel(model.encoder, head, model.task, model.labels, pooling=pooling, pooler=pooler)
    return made, 100 * float(agreement)


def _fit(student: _Student, features: Tensor, target: Tensor) -> None:
    weights = student.learning()
    optimizer = torch.optim.LBFGS(weights, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(student(features), target)
        loss = loss + _DECAY * torch.stack([weight.square().sum() for weight in weights]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
