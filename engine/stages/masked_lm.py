"""The stages that train a masked language model: pre-training from scratch, and bilingual task fitting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...data import Corpus, MlmBatches, TokenStore, unigram_entropy
from ...model import Encoder, MaskedLM, load_masked_lm
from ..evaluation.held_out import HeldOut, split_off
from ..plan import Stage
from ..pseudolabels.diagnostics import ends, low_loss_drop, only_frequencies
from ..recipe.config import MaskedLmConfig
from ..training.loop import Trace
from ..training.objectives import masked_lm
from .context import Context
from .datasets import capped
from .kind import StageKind, StageRun, Training, register_kind
from .models import encoder_config, new_encoder_config, warn_of_unseen


def text_by_language(context: Context, stage: Stage) -> list[TokenStore]:
    """Text of each source language, then of each target."""
    data, targets = context.data, context.config.targets_of(stage.targets)
    return data.task_text(*targets) if stage.options["text"] == "task" else data.control_text(*targets)


def btf_text(context: Context, stage: Stage) -> list[Corpus]:
    """What fitting reads, by language. The control sees as much text as BTF does: only the kind of text differs."""
    config, table = context.config, context.config.btf
    targets, first = config.targets_of(stage.targets), len(config.sources)
    stores = text_by_language(context, stage)
    sizes = [len(store) for store in stores]
    if stage.options["text"] == "general":
        task = context.data.task_text(*targets)
        sizes = [min(size, len(store)) for size, store in zip(sizes, task, strict=True)]
    sizes[first:] = [min(size, table.cap or size) for size in sizes[first:]]
    keys = ["source", *(source.language for source in config.sources[1:]), *stage.targets]
    corpora = [
        Corpus(store, capped(len(store), size, stage.seed, key))
        for store, size, key in zip(stores, sizes, keys, strict=True)
    ]
    return corpora[first:] if table.sides == "target" else corpora


class Pretrain(StageKind):
    """Masked language modelling on general text: from scratch, or on from the weights of the recipe's encoder."""

    name = "pretrain"
    tables = ("pretrain", "model.new")
    chosen_by = ("pretrain",)
    masked = True

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {f"text.{i}": store for i, store in enumerate(context.data.general_text())}

    def build(self, run: StageRun) -> Training:
        context = run.context
        model = self._model(run).to(context.device)
        stores = list(self.inputs(context, run.stage).values())
        for entry, store in zip(context.config.tables, stores, strict=True):
            warn_of_unseen(context, store, "text", entry.language)
        special = context.special_tokens(model.config.vocab_size)
        sizes = [len(store.token_ids) for store in stores]

        def after(trace: Trace) -> dict[str, Any]:
            entropy = np.average([unigram_entropy(store, special) for store in stores], weights=sizes)
            context.warn(only_frequencies(trace.loss, float(entropy)))
            return _loss_ends(trace)

        table = context.config.pretrain
        if table.dropout is not None:
            model.encoder.set_dropout(table.dropout)
        batches, (_, held) = self.batches(run), self._texts(context, run.stage)
        training = _training(model, batches, after)
        if held:
            masking = {"special": special, "mask_id": context.tokenizer.mask_id, "rate": table.mask_rate}
            training.held_out = HeldOut(held, total=len(batches), **masking)
        return training

    def _texts(self, context: Context, stage: Stage) -> tuple[list[Corpus], dict[str, Corpus]]:
        """What is learned, and by language what is held out."""
        languages = [entry.language for entry in context.config.tables]
        stores = dict(zip(languages, self.inputs(context, stage).values(), strict=True))
        learned, held = split_off(stores, context.config.pretrain.held_out)
        return list(learned.values()), held

    def _model(self, run: StageRun) -> MaskedLM:
        context = run.context
        if context.config.pretrain.further:
            return load_masked_lm(context.input_folder(run.stage, "base"))
        encoder = Encoder(new_encoder_config(context.config, context.tokenizer), seed=run.seed("encoder"))
        return MaskedLM(encoder, seed=run.seed("head"))

    def batches(self, run: StageRun) -> MlmBatches:
        return masked_batches(run, self._texts(run.context, run.stage)[0], run.context.config.pretrain)


class Btf(StageKind):
    """Bilingual task fitting (arXiv 2310.04726 section 3.1), on task text or, as a control, on general text."""

    name = "btf"
    tables = ("btf",)
    chosen_by = ("btf",)
    masked = True

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        targets = context.config.targets_of(stage.targets)
        stores = text_by_language(context, stage)
        count = len(stores)
        if stage.options["text"] == "general":
            stores = [*stores, *context.data.task_text(*targets)]
        if context.config.btf.sides == "target":
            stores = [store for i, store in enumerate(stores) if i % count >= count - len(targets)]
        return {f"text.{i}": store for i, store in enumerate(stores)}

    def build(self, run: StageRun) -> Training:
        context, stage = run.context, run.stage
        model = load_masked_lm(context.input_folder(stage, "base")).to(context.device)
        languages = [*(source.language for source in context.config.sources), *stage.targets]
        for language, store in zip(languages, text_by_language(context, stage), strict=True):
            warn_of_unseen(context, store, "text", language)

        def after(trace: Trace) -> dict[str, Any]:
            context.warn(low_loss_drop(trace.loss))
            return _loss_ends(trace)

        return _training(model, self.batches(run), after)

    def batches(self, run: StageRun) -> MlmBatches:
        return masked_batches(run, btf_text(run.context, run.stage), run.context.config.btf)


def _training(model: MaskedLM, batches: MlmBatches, after: Callable[[Trace], dict[str, Any]]) -> Training:
    notes = {"examples_per_epoch": batches.examples_per_epoch}
    return Training(
        model, batches, masked_lm, notes, lambda trace: "loss {:.2f} -> {:.2f}".format(*ends(trace.loss)), after
    )


def masked_batches(run: StageRun, corpora: Sequence[Corpus], table: MaskedLmConfig) -> MlmBatches:
    """Masked batches of a text as the stage's table says."""
    return MlmBatches(
        corpora,
        batch_size=run.stage.training.batch_size,
        epochs=run.stage.training.epochs,
        rate=table.mask_rate,
        balance=table.balance,
        temperature=table.temperature,
        seed=run.seed("batches"),
        special=run.context.special_tokens(encoder_config(run.context).vocab_size),
        mask_id=run.context.tokenizer.mask_id,
        micro_batch=run.micro_batch(),
    )


def _loss_ends(trace: Trace) -> dict[str, Any]:
    return dict(zip(("loss_first", "loss_last"), ends(trace.loss), strict=True))


register_kind(Pretrain())
register_kind(Btf())
