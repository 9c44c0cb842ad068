"""Fine-tuning: cross entropy on labelled examples of the sources and of a target; in which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data import ItemView, Part, Rows, TaskBatches, TokenStore, epoch_counts
from ..plan import Stage
from ..pseudolabels.diagnostics import ends, slow_learning_rate
from ..recipe.config import RunConfig
from ..training.objectives import cross_entropy
from .context import Context
from .kind import VOTERS, StageKind, StageRun, Training, additions_to, register_kind
from .models import new_task_model, warn_of_unseen

MARK_OF_ROLE = {"switched": "uses_dictionary", "few_shot": "uses_target_labels"}
"""Role of a store -> the mark of a stage that learns from it."""


@dataclass(frozen=True)
class Portion:
    """Labelled examples of one store.

    Attributes:
        role: "source", "switched", or "few_shot" (of several targets "few_shot.<language>").
        language: of the source whose examples these are, where the sources are drawn one by one; else empty.
        examples: int64 [n].
    """

    role: str
    store: TokenStore
    examples: np.ndarray
    language: str = ""


@dataclass(frozen=True)
class Mixture:
    """What makes up an epoch.

    Attributes:
        counts: sequences of each portion in an epoch; None where `balance` ("none" or "up") says it.
    """

    portions: list[Portion]
    counts: list[int] | None
    balance: str

    def count(self, role: str) -> int:
        """The examples there are of a role, whatever the language."""
        return sum(len(p.examples) for p in self.portions if p.role.partition(".")[0] == role)


def learned_stores(context: Context, stage: Stage) -> dict[str, TokenStore]:
    """The stores that a stage of fine-tuning learns, by role."""
    data, config = context.data, context.config
    stores, targets = {"source": data.source_train}, config.targets_of(stage.targets)
    if config.augment.code_switch.on:
        stores["switched"] = data.source_mixed(config.augment.code_switch.dictionaries)
    if "few_shot" in stage.options:
        for target in (t for t in targets if t.labelled is not None):
            role = "few_shot" if len(targets) == 1 else f"few_shot.{target.language}"
            stores[role] = data.target_labelled(target)
    return stores


def mixture(context: Context, stores: Mapping[str, TokenStore]) -> Mixture:
    """How the stores of `learned_stores` make up an epoch of fine-tuning."""
    table, portions = context.config.finetune, list[Portion]()
    one_by_one = table.source_mix != "natural"
    for role, store in stores.items():
        whole = [Portion(role, store, labelled_examples(store))]
        portions += by_language(store) if one_by_one and role == "source" else whole
    if not one_by_one:
        # Only few-shot has another way of mixing, which is a setting of all stages.
        return Mixture(portions, None, "up" if table.target_mix == "balanced" else "none")
    sizes = [len(Rows(ItemView(p.store), p.examples)) for p in portions]  # sequences
    first, mix = sum(p.role == "source" for p in portions), table.source_mix
    weights = {"weights": [s.weight for s in context.config.sources]}
    by = weights if mix == "weights" else {"temperature": table.source_temperature}
    counts = epoch_counts(sizes[:first], mode=mix, **by)
    return Mixture(portions, [*counts, *sizes[first:]], "none")


def by_language(store: TokenStore) -> list[Portion]:
    """The labelled examples of the sources, one portion for each language."""
    examples = labelled_examples(store)
    if store.language is None:
        return [Portion("source", store, examples)]
    of = np.asarray(store.language)[examples]
    return [Portion("source", store, examples[of == i], name) for i, name in enumerate(store.languages)]


def labelled_examples(store: TokenStore) -> np.ndarray:
    """Examples with at least one labelled item."""
    known = np.asarray(store.item_labels) >= 0
    counts = np.concatenate([[0], np.cumsum(known)])[np.asarray(store.item_offsets)]
    return np.flatnonzero(np.diff(counts) > 0)


class Finetune(StageKind):
    """The zero-shot model, and the teacher of the first round."""

    name = "finetune"
    tables = ("finetune",)
    chosen_by = ("finetune", "selftrain")

    def also(self, config: RunConfig, stage: Stage) -> list[str]:
        keys = list(VOTERS) if config.finetune.head == "voters" else []
        if "few_shot" in stage.options:
            keys += ["targets.per_class", "targets.draw"]
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
        mixed = mixture(context, stores)
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
            model, batches, cross_entropy, notes, line=lambda trace: "loss {:.3f} -> {:.3f}".format(*ends(trace.loss))
        )

    def batches(self, run: StageRun) -> TaskBatches:
        return _batches(run, mixture(run.context, learned_stores(run.context, run.stage)))


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
