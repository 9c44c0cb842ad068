"""The stages that train a masked language model: pre-training from scratch, and bilingual task fitting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...data import MlmBatches, TokenStore, unigram_entropy
from ...model import Encoder, MaskedLM, load_masked_lm
from ..plan import Stage
from ..pseudolabels.diagnostics import low_loss_drop, only_frequencies
from ..recipe.config import PretrainConfig
from ..training.objectives import masked_lm
from ..training.trace import Trace
from .btf_text import BtfText, btf_stores, btf_text, text_by_language
from .context import Context
from .datasets import corpora
from .kind import StageKind, StageRun, Training, Work, register_kind
from .models import new_encoder_config, warn_of_unseen


class Pretrain(StageKind):
    """Masked language modelling from scratch on general text: the demo's stand-in for multilingual pre-training."""

    name = "pretrain"
    chosen_by = ("pretrain",)
    masked = True

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {f"text.{i}": store for i, store in enumerate(context.data.general_text())}

    def build(self, run: StageRun) -> Training:
        context = run.context
        encoder = Encoder(new_encoder_config(context), seed=run.seed("encoder"))
        model = MaskedLM(encoder, seed=run.seed("head")).to(context.device)
        stores = list(self.inputs(context, run.stage).values())
        for entry, store in zip(context.config.tables, stores, strict=True):
            warn_of_unseen(context, store, "text", entry.language)
        special = context.special_tokens(model.config.vocab_size)
        sizes = [len(store.token_ids) for store in stores]

        def after(trace: Trace) -> dict[str, Any]:
            entropy = np.average([unigram_entropy(store, special) for store in stores], weights=sizes)
            context.warn(only_frequencies(trace.loss, float(entropy)))
            return _loss_ends(trace)

        return _training(run, model, BtfText(corpora(stores), None), context.config.pretrain, after)

    def work(self, context: Context, stage: Stage) -> Work:
        return masked_work(BtfText(corpora(list(self.inputs(context, stage).values())), None), context.config.pretrain)


class Btf(StageKind):
    """Bilingual task fitting (arXiv 2310.04726 section 3.1), on task text or, as a control, on general text."""

    name = "btf"
    chosen_by = ("btf",)
    masked = True

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return btf_stores(context, stage, context.config.target(stage.target))

    def build(self, run: StageRun) -> Training:
        context, stage = run.context, run.stage
        model = load_masked_lm(context.input_folder(stage, "base")).to(context.device)
        target = context.config.target(stage.target)
        languages = [*(source.language for source in context.config.all_sources), target.language]
        for language, store in zip(languages, text_by_language(context, stage, target), strict=True):
            warn_of_unseen(context, store, "text", language)
        text = btf_text(context, stage, target)
        pairs: dict[str, Any] = {}
        if "tlm" in stage.settings:
            warn_of_unseen(context, context.data.pairs(target), "pairs", target.language)
            pairs = {"pairs": len(text.corpora[-1]), "uses_parallel_data": True}

        def after(trace: Trace) -> dict[str, Any]:
            context.warn(low_loss_drop(trace.loss))
            return _loss_ends(trace) | pairs

        return _training(run, model, text, context.config.btf, after)

    def work(self, context: Context, stage: Stage) -> Work:
        # One draw for all seeds, so that their estimates are the same.
        text = btf_text(context, replace(stage, seed=0), context.config.target(stage.target))
        return masked_work(text, context.config.btf)


def _training(
    run: StageRun, model: MaskedLM, text: BtfText, table: PretrainConfig, after: Callable[[Trace], dict[str, Any]]
) -> Training:
    context = run.context
    special = context.special_tokens(model.config.vocab_size)
    batches = MlmBatches(
        text.corpora,
        special=special,
        mask_id=context.tokenizer.mask_id,
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=run.seed("batches"),
        rate=table.mask_rate,
        balance=table.balance,
        temperature=table.temperature,
        counts=text.counts,
        sort=table.order == "sorted",
        micro_batch=run.micro_batch(),
    )
    notes = {"examples_per_epoch": batches.examples_per_epoch}
    return Training(model, batches, masked_lm, notes, lambda trace: "loss {:.2f} -> {:.2f}".format(*ends(trace)), after)


def masked_work(text: BtfText, table: PretrainConfig) -> Work:
    """How much masked language modelling on a text trains."""
    batches = MlmBatches(
        text.corpora,
        special=np.zeros(1, dtype=bool),
        mask_id=0,
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=0,
        balance=table.balance,
        temperature=table.temperature,
        rate=table.mask_rate,
        counts=text.counts,
        micro_batch=table.fixed_micro_batch,
    )
    return Work([corpus.lengths for corpus in text.corpora], batches, batches.examples_per_epoch)


def ends(trace: Trace) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps."""
    tenth = max(1, len(trace.loss) // 10)
    return float(np.mean(trace.loss[:tenth])), float(np.mean(trace.loss[-tenth:]))


def _loss_ends(trace: Trace) -> dict[str, Any]:
    first, last = ends(trace)
    return {"loss_first": first, "loss_last": last}


register_kind(Pretrain())
register_kind(Btf())
