"""Fine-tuning: cross entropy on labelled examples, of the source above all."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...data import ItemView, Part, TaskBatches, TokenStore
from ..plan import Stage
from ..pseudolabels.diagnostics import slow_learning_rate
from ..recipe.config import RunConfig
from ..training.objectives import cross_entropy
from .context import Context
from .kind import VOTERS, StageKind, StageRun, Training, additions_to, register_kind
from .masked_lm import ends
from .mixture import MARK_OF_ROLE, Mixture, learned_stores, mixture
from .models import new_task_model, warn_of_unseen


class Finetune(StageKind):
    """The zero-shot model, and the teacher of the first round."""

    name = "finetune"
    tables = ("finetune",)
    chosen_by = ("finetune", "selftrain")

    def also(self, config: RunConfig, stage: Stage) -> list[str]:
        keys = list(VOTERS) if config.finetune.head == "voters" else []
        if "few_shot" in stage.options:
            keys += ["targets.per_class", "targets.draw"]
        if "translated" in stage.options:
            keys.append("finetune.translated")
            if config.finetune.translated == "only":
                return keys
        keys += ["augment.code_switch.rate"] if config.augment.code_switch.on else []
        weighted = {"natural": [], "weights": ["source.weight"], "temperature": ["finetune.source_temperature"]}
        return [*keys, "finetune.source_mix", *weighted[config.finetune.source_mix]]

    def head(self, config: RunConfig) -> str:
        return config.finetune.head

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return learned_stores(context, stage)

    def build(self, run: StageRun) -> Training:
        context, stage = run.context, run.stage
        model = new_task_model(context, stage, context.config.finetune.head)
        stores = learned_stores(context, stage)
        for addition in additions_to(stage):
            stores |= addition.stores(run, model.encoder)
        for name, store in stores.items():
            warn_of_unseen(context, store, name, _language_of(context, stage, name))
        for language, (_, test) in context.test_stores(stage).items():
            warn_of_unseen(context, test, "test", language)
        mixed = mixture(context, stage, stores)
        batches = _batches(run, mixed)
        context.warn(slow_learning_rate(stage.training.head_lr or stage.training.lr, len(batches)))
        notes: dict[str, Any] = {"examples": mixed.count("source")}
        for role, mark in MARK_OF_ROLE.items():
            if count := mixed.count(role):
                notes |= {f"{role}_examples": count, mark: True}
        for addition in additions_to(stage):
            if addition.role:
                notes[f"{addition.role}_examples"] = mixed.count(addition.role)
        if mixed.counts is not None:
            notes["per_epoch"] = {p.language or p.role: n for p, n in zip(mixed.portions, mixed.counts, strict=True)}
        return Training(
            model, batches, cross_entropy, notes, line=lambda trace: "loss {:.3f} -> {:.3f}".format(*ends(trace))
        )

    def batches(self, run: StageRun) -> TaskBatches:
        return _batches(run, mixture(run.context, run.stage, learned_stores(run.context, run.stage)))


def _batches(run: StageRun, mixed: Mixture) -> TaskBatches:
    parts = [Part(ItemView(p.store), p.examples, labels=np.asarray(p.store.item_labels)) for p in mixed.portions]
    return run.task_batches(parts, balance=mixed.balance, counts=mixed.counts)


def _language_of(context: Context, stage: Stage, role: str) -> str:
    """What messages call the language of a store that fine-tuning learns."""
    if role == "source":
        return ", ".join(source.language for source in context.config.sources)
    if role == "few_shot":
        return str(stage.pair)
    return role.partition(".")[2] or context.config.source.language


register_kind(Finetune())
