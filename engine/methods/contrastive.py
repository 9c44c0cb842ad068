"""Contrastive language adaptation: what its two phases train (Yu and Joty, EMNLP 2021, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import DataError
from ...data import ItemView, PackedBatch, PairBatches, Part, TaskBatches, TokenStore
from ...data.store.store import IGNORE
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

    Both are sums over the texts of the batch, and the loop divides by their number. A batch with weights aligns the
    texts of weight 1 only, among each other; all are in the cross entropy.
    """

    temperature: float
    weight: float

    def __call__(self, model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
        assert batch.labels is not None
        features = model.features(batch, seed)
        loss = voter_cross_entropy(model.read(features, batch, seed), batch.labels)
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
        loss = voter_cross_entropy(model.read(features, batch, seed), batch.labels)
        if self.weight == 0:
            return loss
        # The translations are all that shares the class of the text in the middle, the only one with a weight.
        contrast = supervised_contrastive(features, batch.labels, temperature=self.temperature, weights=batch.weights)
        return loss + self.weight * (batch.labels != IGNORE).sum() * contrast


class Align(StageKind):
    """Cross entropy and label alignment on the source and its translations, where there are any (Eq. 3)."""

    name = "align"
    tables = ("contrastive.temperature", "contrastive.weight", "contrastive.align")
    chosen_by = ("contrastive",)

    def head(self, config: RunConfig) -> str:
        return "linear"

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {"source": context.data.source_train} | _translations(context)

    def build(self, run: StageRun) -> Training:
        context, table = run.context, run.context.config.contrastive
        data, translations = context.data, translations_of(context)
        model = new_task_model(context, run.stage, "linear")
        warn_of_unseen(context, data.source_train, "source", context.config.source.language)
        batches = self.batches(run)
        context.warn(slow_learning_rate(run.stage.training.lr, len(batches)))
        count, *rest = (len(labelled_examples(store)) for store in (data.source_train, *translations.values()))
        translated = sum(rest)
        notes: dict[str, Any] = {"source_examples": count, "translations": translated}
        notes["uses_parallel_data"] = context.config.uses_parallel_data or bool(translations)
        line = f"{count} source texts, {translated} translations"
        return Training(model, batches, LabelAlignment(table.temperature, table.weight), notes, lambda trace: line)

    def batches(self, run: StageRun) -> TaskBatches:
        table, translations = run.context.config.contrastive, translations_of(run.context)
        parts = [_part(run.context.data.source_train, table.align != "translations")]
        parts += [_part(store, table.align != "source") for store in translations.values()]
        if table.align == "both":
            parts = [replace(part, weights=None) for part in parts]
        # Not a process's share: a smaller part has fewer texts to compare.
        return run.task_batches(parts, micro_batch=run.stage.training.fixed_micro_batch)


class Semantic(StageKind):
    """Goes on with the model of the first phase: cross entropy and semantic alignment on the translations (Eq. 5)."""

    name = "semantic"
    tables = ("contrastive.temperature", "contrastive.semantic.weight")
    chosen_by = ("contrastive",)

    def head(self, config: RunConfig) -> str:
        return "linear"

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {"originals": originals_of(context)} | _translations(context)

    def build(self, run: StageRun) -> Training:
        context = run.context
        originals, translations = originals_of(context), translations_of(context)
        model = context.load_task_model(run.stage, "start")
        contrastive = context.config.contrastive
        objective = SemanticAlignment(contrastive.temperature, contrastive.semantic.weight)
        notes = {"uses_parallel_data": True, "originals": len(originals), "languages": sorted(translations)}
        line = f"{len(originals)} texts with translations into {', '.join(sorted(translations))}"
        return Training(model, self.batches(run), objective, notes, lambda trace: line)

    def batches(self, run: StageRun) -> PairBatches:
        table, context = run.stage.training, run.context
        return PairBatches(
            originals_of(context),
            list(translations_of(context).values()),
            batch_size=table.batch_size,
            epochs=table.epochs,
            seed=run.seed("batches"),
        )


def _translations(context: Context) -> dict[str, TokenStore]:
    return {f"translation.{language}": store for language, store in translations_of(context).items()}


def _part(store: TokenStore, aligned: bool) -> Part:
    """A store's labelled texts; their weights say whether the label alignment compares them."""
    weights = np.full(int(store.item_offsets[-1]), float(aligned), dtype=np.float32)
    return Part(ItemView(store), labelled_examples(store), labels=np.asarray(store.item_labels), weights=weights)


def contrastive_plan(config: RunConfig, seed: int, stages: tuple[Stage, ...] = ()) -> list[Stage]:
    """Label alignment on the source and its translations, then semantic alignment on these; for all targets at once."""
    table = config.contrastive
    if not table.on:
        return []
    where, training = f"seed-{seed}", config.training_of(table)
    rest: dict[str, Any] = {"inputs": start_inputs(config, seed), "order": 25, "label": "label alignment"}
    # A smaller part has less to compare: "auto" does not halve these batches, and how they are cut decides the result.
    first = replace(training, micro_batch=training.fixed_micro_batch)
    rest["options"] = {"parts": first.fixed_micro_batch}
    plan = [Stage(f"{where}/la", "align", "la", "contrastive", seed, first, **rest)]
    if table.has_semantic:
        rest = {"inputs": {"start": f"{where}/la"}, "order": 26, "label": "semantic alignment"}
        # A text with its translations and its negatives is one, and is not cut.
        second = replace(training, lr=table.semantic.lr, micro_batch=0)
        plan.append(Stage(f"{where}/sa", "semantic", "sa", "contrastive", seed, second, **rest))
    return plan


def translations_of(context: Context) -> dict[str, TokenStore]:
    """The translated, labelled source texts, by language."""
    paths = context.config.contrastive.translations
    return {language: context.data.labelled(path, language) for language, path in sorted(paths.items())}


def originals_of(context: Context) -> TokenStore:
    """The source texts of the translations.

    Raises:
        DataError: a file of translations has not one text for each original, or not its label.
    """
    table = context.config.contrastive
    assert table.originals is not None
    originals = context.data.labelled(table.originals, context.config.source.language)
    gold = np.asarray(originals.item_labels)
    for language, store in translations_of(context).items():
        path = table.translations[language]
        if len(store) != len(originals):
            raise DataError(
                f"{path}:1: has {len(store)} texts, {table.originals} has {len(originals)}; give them line by line"
            )
        differing = np.flatnonzero(np.asarray(store.item_labels) != gold)
        if len(differing):
            raise DataError(
                f"{path}:1: text number {differing[0] + 1} has another label than that of {table.originals}; "
                "give the translations in the order of the originals"
            )
    return originals


register_kind(Align())
register_kind(Semantic())
register_planner(contrastive_plan)
