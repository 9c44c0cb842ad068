"""Contrastive language adaptation: what its two phases train (Yu and Joty, EMNLP 2021, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data import ItemView, PairBatches, Part, TaskBatches, TokenStore
from ..plan import Stage
from ..pseudolabels.diagnostics import slow_learning_rate
from ..stages.common import Outcome, new_task_model, stage_seed, warn_of_unseen
from ..stages.context import Context, freeze
from ..stages.mixture import labelled_examples
from ..training.weight_hashes import tensors_hash
from .contrastive_objectives import LabelAlignment, SemanticAlignment
from .transfer_data import originals_of, translations_of


def run_align(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Cross entropy and label alignment on the source and its translations, where there are any (Eq. 3)."""
    table, data = context.config.contrastive, context.data
    translations = translations_of(context)
    model = new_task_model(context, stage, table.head)
    freeze(model.encoder, table)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    warn_of_unseen(context, data.source_train, "source", context.config.source.language)
    parts = [_part(data.source_train, table.align != "translations")]
    parts += [_part(store, table.align != "source") for store in translations.values()]
    if table.align == "both":
        parts = [replace(part, weights=None) for part in parts]
    batches = TaskBatches(
        parts,
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=stage_seed(stage, "batches"),
        sort=table.order == "sorted",
        # Not a process's share: a smaller part has fewer texts to compare.
        micro_batch=table.fixed_micro_batch,
    )
    context.warn(slow_learning_rate(table.head_lr or table.lr, len(batches)))
    objective = LabelAlignment(table.temperature, table.weight)
    trace, spent, kept = context.fit(stage, fingerprint, model, batches, objective, seed=stage_seed(stage, "fit"))
    count, translated = len(parts[0].examples), sum(len(part.examples) for part in parts[1:])
    notes: dict[str, Any] = {"source_examples": count, "translations": translated}
    notes["uses_parallel_data"] = context.config.uses_parallel_data or bool(translations)
    return Outcome(model, trace, spent, start, notes | kept, f"{count} source texts, {translated} translations")


def _part(store: TokenStore, aligned: bool) -> Part:
    """A store's labelled texts; their weights say whether the label alignment compares them."""
    weights = np.full(int(store.item_offsets[-1]), float(aligned), dtype=np.float32)
    return Part(ItemView(store), labelled_examples(store), labels=np.asarray(store.item_labels), weights=weights)


def run_semantic(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Goes on with the model of the first phase: cross entropy and semantic alignment on the translations (Eq. 5)."""
    table = context.config.contrastive.semantic
    originals, translations = originals_of(context), translations_of(context)
    model = context.load_task_model(stage, "start")
    freeze(model.encoder, table)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    batches = PairBatches(
        originals,
        list(translations.values()),
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=stage_seed(stage, "batches"),
    )
    objective = SemanticAlignment(context.config.contrastive.temperature, table.weight)
    trace, spent, kept = context.fit(stage, fingerprint, model, batches, objective, seed=stage_seed(stage, "fit"))
    notes = {"uses_parallel_data": True, "originals": len(originals), "languages": sorted(translations)}
    line = f"{len(originals)} texts with translations into {', '.join(sorted(translations))}"
    return Outcome(model, trace, spent, start, notes | kept, line)
