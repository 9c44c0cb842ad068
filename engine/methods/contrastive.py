"""Contrastive adaptation on the labelled source: label alignment (Yu and Joty, EMNLP 2021, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from ...data import ItemView, PackedBatch, Part, TaskBatches, TokenStore
from ...kernels import supervised_contrastive, voter_cross_entropy
from ...model import TaskModel
from ..plan import Stage
from ..plan.stage import start_inputs
from ..pseudolabels.diagnostics import slow_learning_rate
from ..recipe.config import RunConfig
from ..stages.context import Context
from ..stages.finetune import labelled_examples
from ..stages.kind import StageKind, StageRun, Training, register_kind, register_planner
from ..stages.models import new_task_model, warn_of_unseen


@dataclass(frozen=True)
class LabelAlignment:
    """Cross entropy, and `weight` times the supervised contrastive loss of what the head reads (Eq. 3).

    Both are sums over the texts of the batch, and the loop divides by their number.
    """

    temperature: float
    weight: float

    def __call__(self, model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
        assert batch.labels is not None
        features = model.features(batch, seed)
        loss = voter_cross_entropy(model.read(features, batch, seed), batch.labels)
        if self.weight == 0:
            return loss
        return loss + self.weight * supervised_contrastive(features, batch.labels, temperature=self.temperature)


class Align(StageKind):
    """Cross entropy and label alignment on the source (Eq. 3)."""

    name = "align"
    tables = ("contrastive.temperature", "contrastive.weight")
    chosen_by = ("contrastive",)

    def head(self, config: RunConfig) -> str:
        return "linear"

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {"source": context.data.source_train}

    def build(self, run: StageRun) -> Training:
        context, table = run.context, run.context.config.contrastive
        store = context.data.source_train
        model = new_task_model(context, run.stage, "linear")
        warn_of_unseen(context, store, "source", context.config.source.language)
        batches = self.batches(run)
        context.warn(slow_learning_rate(run.stage.training.lr, len(batches)))
        count = len(labelled_examples(store))
        objective, notes = LabelAlignment(table.temperature, table.weight), {"source_examples": count}
        return Training(model, batches, objective, notes, lambda trace: f"{count} source texts")

    def batches(self, run: StageRun) -> TaskBatches:
        store = run.context.data.source_train
        part = Part(ItemView(store), labelled_examples(store), labels=np.asarray(store.item_labels))
        # Not a process's share: a smaller part has fewer texts to compare.
        return run.task_batches([part], micro_batch=run.stage.training.fixed_micro_batch)


def contrastive_plan(config: RunConfig, seed: int, stages: tuple[Stage, ...]) -> list[Stage]:
    """Label alignment on the source, one stage for all targets."""
    if not config.contrastive.on:
        return []
    training = config.training_of(config.contrastive)
    # A smaller part has less to compare: "auto" does not halve these batches, and how they are cut decides the result.
    training = replace(training, micro_batch=training.fixed_micro_batch)
    rest: dict[str, Any] = {"inputs": start_inputs(config, seed), "order": 25, "label": "label alignment"}
    rest["options"] = {"parts": training.fixed_micro_batch}
    return [Stage(f"seed-{seed}/la", "align", "la", "contrastive", seed, training, **rest)]


register_kind(Align())
register_planner(contrastive_plan)
