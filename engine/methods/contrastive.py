"""Contrastive language adaptation: what its two phases train (Yu and Joty, EMNLP 2021, section 3.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...data import ItemView, PairBatches, Part, TokenStore
from ..plan import Stage
from ..pseudolabels.diagnostics import slow_learning_rate
from ..recipe.config import RunConfig
from ..stages.context import Context
from ..stages.kind import StageKind, StageRun, Training, Work, register_kind
from ..stages.mixture import labelled_examples
from ..stages.models import new_task_model, warn_of_unseen
from ..stages.soft import task_work
from .contrastive_objectives import LabelAlignment, SemanticAlignment
from .transfer_data import originals_of, translations_of


class Align(StageKind):
    """Cross entropy and label alignment on the source and its translations, where there are any (Eq. 3)."""

    name = "align"

    def head(self, config: RunConfig) -> str:
        return config.contrastive.head

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {"source": context.data.source_train} | _translations(context)

    def build(self, run: StageRun) -> Training:
        context, table = run.context, run.context.config.contrastive
        data, translations = context.data, translations_of(context)
        model = new_task_model(context, run.stage, table.head)
        warn_of_unseen(context, data.source_train, "source", context.config.source.language)
        parts = [_part(data.source_train, table.align != "translations")]
        parts += [_part(store, table.align != "source") for store in translations.values()]
        if table.align == "both":
            parts = [replace(part, weights=None) for part in parts]
        # Not a process's share: a smaller part has fewer texts to compare.
        batches = run.task_batches(parts, micro_batch=table.fixed_micro_batch)
        context.warn(slow_learning_rate(table.head_lr or table.lr, len(batches)))
        count, translated = len(parts[0].examples), sum(len(part.examples) for part in parts[1:])
        notes: dict[str, Any] = {"source_examples": count, "translations": translated}
        notes["uses_parallel_data"] = context.config.uses_parallel_data or bool(translations)
        line = f"{count} source texts, {translated} translations"
        return Training(model, batches, LabelAlignment(table.temperature, table.weight), notes, lambda trace: line)

    def work(self, context: Context, stage: Stage) -> Work:
        return task_work(stage, [(store, labelled_examples(store)) for store in self.inputs(context, stage).values()])


class Semantic(StageKind):
    """Goes on with the model of the first phase: cross entropy and semantic alignment on the translations (Eq. 5)."""

    name = "semantic"

    def head(self, config: RunConfig) -> str:
        return config.contrastive.head

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {"originals": originals_of(context)} | _translations(context)

    def build(self, run: StageRun) -> Training:
        context, table = run.context, run.context.config.contrastive.semantic
        originals, translations = originals_of(context), translations_of(context)
        model = context.load_task_model(run.stage, "start")
        batches = PairBatches(
            originals,
            list(translations.values()),
            batch_size=table.batch_size,
            epochs=table.epochs,
            seed=run.seed("batches"),
        )
        objective = SemanticAlignment(context.config.contrastive.temperature, table.weight)
        notes = {"uses_parallel_data": True, "originals": len(originals), "languages": sorted(translations)}
        line = f"{len(originals)} texts with translations into {', '.join(sorted(translations))}"
        return Training(model, batches, objective, notes, lambda trace: line)

    def work(self, context: Context, stage: Stage) -> Work:
        table, originals = stage.optimiser, originals_of(context)
        translations = list(translations_of(context).values())
        batches = PairBatches(originals, translations, batch_size=table.batch_size, epochs=table.epochs, seed=0)
        # Each original is in the middle once, and about as often in the company of another for each language.
        per_epoch = [len(originals) * (1 + len(translations)), *map(len, translations)]
        return Work([originals.lengths, *(store.lengths for store in translations)], batches, per_epoch)


def _translations(context: Context) -> dict[str, TokenStore]:
    return {f"translation.{language}": store for language, store in translations_of(context).items()}


def _part(store: TokenStore, aligned: bool) -> Part:
    """A store's labelled texts; their weights say whether the label alignment compares them."""
    weights = np.full(int(store.item_offsets[-1]), float(aligned), dtype=np.float32)
    return Part(ItemView(store), labelled_examples(store), labels=np.asarray(store.item_labels), weights=weights)


register_kind(Align())
register_kind(Semantic())
