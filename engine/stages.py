"""What each kind of stage trains: masked language modelling, and fine-tuning on the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from .. import ModelError
from ..data import Corpus, ItemView, MlmBatches, Part, TaskBatches, TokenStore, derive_seed
from ..model import (
    Encoder,
    EncoderConfig,
    Head,
    LinearHead,
    MaskedLM,
    MlpHead,
    TaskModel,
    VoterHeads,
    default_voter_widths,
    load_masked_lm,
    load_pooler,
)
from .config import PretrainConfig, RunConfig, TargetConfig, TaskConfig
from .context import Context, freeze
from .datasets import capped, corpora
from .diagnostics import cut_by_length, low_loss_drop, no_token, slow_learning_rate
from .hashes import tensors_hash
from .loop import Trace
from .objectives import cross_entropy, masked_lm
from .plan import Stage
from .transfer_data import TRANSFER_KINDS, transfer_inputs

LEARNED = ("source", "switched", "few_shot")
"""Roles of the stores that fine-tuning learns."""


@dataclass
class Outcome:
    """What a stage hands to `run`, which saves, scores and seals it.

    Attributes:
        encoder_at_start: hash of the encoder's weights before the first step, for the lineage.
        notes: entries for `stage.json`.
        line: one line for a person.
    """

    model: MaskedLM | TaskModel
    trace: Trace
    seconds: float
    encoder_at_start: str
    notes: dict[str, Any] = field(default_factory=dict)
    line: str = ""


def inputs_of(context: Context, stage: Stage) -> dict[str, TokenStore]:
    """The stores that decide a stage's result, by role."""
    data, config = context.data, context.config
    if stage.kind == "pretrain":
        return {f"text.{i}": store for i, store in enumerate(data.general_text())}
    if stage.kind == "btf":
        stores = _btf_text(context, stage)
        if stage.settings["text"] == "general":
            stores = [*stores, *data.task_text(target_of(config, stage))]
        if config.btf.sides == "target":
            stores = stores[1::2]
        return {f"text.{i}": store for i, store in enumerate(stores)}
    if stage.kind in TRANSFER_KINDS:
        return transfer_inputs(context, stage)
    found = {"source": data.source_train}
    if "code_switch" in stage.settings:
        found["switched"] = data.source_switched
    if "few_shot" in stage.settings:
        found["few_shot"] = data.target_labelled(target_of(config, stage))
    if stage.kind in ("soft", "hard"):
        found["target"] = data.target_pool(target_of(config, stage))
    by_dev = stage.kind in ("soft", "hard") and config.selftrain.alpha.data == "dev"
    if by_dev or (isinstance(stage.optimiser, TaskConfig) and stage.optimiser.keep == "best"):
        assert config.source.dev is not None
        found["dev"] = data.labelled(config.source.dev, config.source.language)
    return found


def target_of(config: RunConfig, stage: Stage) -> TargetConfig:
    return next(t for t in config.targets if t.language == stage.target)


def stage_seed(stage: Stage, *purpose: str | int) -> int:
    """Seed of a stage. Arms and targets that are compared share it: it depends on seed, kind and round alone.

    The second model of co-training has its own.
    """
    second = ("b",) if stage.settings.get("model") == "b" else ()
    return derive_seed(stage.seed, stage.kind, stage.round, *second, *purpose)


def new_encoder_config(context: Context) -> EncoderConfig:
    """The shape of the encoder that the recipe makes from scratch."""
    table = context.config.model.new
    assert table is not None
    return EncoderConfig(
        vocab_size=context.tokenizer.vocab_size,
        hidden_size=table.hidden_size,
        num_layers=table.num_layers,
        num_heads=table.num_heads,
        intermediate_size=table.intermediate_size,
        max_positions=table.max_positions,
        dropout=table.dropout,
        attention_dropout=table.dropout,
        initializer_range=table.initializer_range,
        pad_token_id=context.tokenizer.pad_id,
    )


def run_pretrain(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Masked language modelling from scratch on general text: the demo's stand-in for multilingual pre-training."""
    encoder = Encoder(new_encoder_config(context), seed=stage_seed(stage, "encoder"))
    model = MaskedLM(encoder, seed=stage_seed(stage, "head")).to(context.device)
    stores = list(inputs_of(context, stage).values())
    for entry, store in zip(context.config.tables, stores, strict=True):
        warn_of_unseen(context, store, "text", entry.language)
    return _run_mlm(context, stage, fingerprint, model, corpora(stores), context.config.pretrain)


def run_btf(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Bilingual task fitting (arXiv 2310.04726 section 3.1), on task text or, as a control, on general text."""
    table = context.config.btf
    model = load_masked_lm(context.input_folder(stage, "base")).to(context.device)
    source, target = _btf_text(context, stage)
    warn_of_unseen(context, source, "text", context.config.source.language)
    warn_of_unseen(context, target, "text", str(stage.target))
    sizes = [len(source), len(target)]
    if stage.settings["text"] == "general":
        # The control sees as much text as BTF does, so that only the kind of text differs.
        task = context.data.task_text(target_of(context.config, stage))
        sizes = [min(size, len(store)) for size, store in zip(sizes, task, strict=True)]
    subsets = [
        capped(len(source), 0 if sizes[0] == len(source) else sizes[0], stage.seed, "source"),
        capped(len(target), min(sizes[1], table.cap or sizes[1]), stage.seed, str(stage.target)),
    ]
    text = [Corpus([store], subset) for store, subset in zip((source, target), subsets, strict=True)]
    if table.sides == "target":
        text = text[1:]
    outcome = _run_mlm(context, stage, fingerprint, model, text, table)
    context.warn(low_loss_drop(outcome.trace.loss))
    return outcome


def _btf_text(context: Context, stage: Stage) -> list[TokenStore]:
    target = target_of(context.config, stage)
    if stage.settings["text"] == "task":
        return context.data.task_text(target)
    return context.data.control_text(target)


def _run_mlm(
    context: Context,
    stage: Stage,
    fingerprint: Mapping[str, Any],
    model: MaskedLM,
    text: Sequence[Corpus],
    table: PretrainConfig,
) -> Outcome:
    freeze(model.encoder, table)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    special = np.zeros(model.config.vocab_size, dtype=bool)
    special[list(context.tokenizer.special_ids)] = True
    special[context.tokenizer.vocab_size :] = True
    batches = MlmBatches(
        text,
        special=special,
        mask_id=context.tokenizer.mask_id,
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=stage_seed(stage, "batches"),
        rate=table.mask_rate,
        balance=table.balance,
        temperature=table.temperature,
        micro_batch=context.world.micro_batch(table.fixed_micro_batch, table.batch_size),
    )
    trace, seconds, _ = context.fit(stage, fingerprint, model, batches, masked_lm, seed=stage_seed(stage, "fit"))
    first, last = _ends(trace.loss)
    notes = {"examples_per_epoch": batches.examples_per_epoch, "loss_first": first, "loss_last": last}
    return Outcome(model, trace, seconds, start, notes, f"loss {first:.2f} -> {last:.2f}")


def run_finetune(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Cross entropy on the labelled source; its result is the teacher of the first round."""
    table = context.config.finetune
    model = new_task_model(context, stage, table.head)
    freeze(model.encoder, table)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    stores = {name: store for name, store in inputs_of(context, stage).items() if name in LEARNED}
    for name, store in stores.items():
        language = str(stage.target) if name == "few_shot" else context.config.source.language
        warn_of_unseen(context, store, name, language)
    for language, (_, test) in context.test_stores(stage).items():
        warn_of_unseen(context, test, "test", language)
    named = {name: _labelled_part(context, stage, model, store) for name, store in stores.items()}
    parts = list(named.values())
    batches = TaskBatches(
        parts,
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=stage_seed(stage, "batches"),
        balance="up" if table.target_mix == "balanced" else "none",
        micro_batch=context.world.micro_batch(table.fixed_micro_batch, table.batch_size),
    )
    context.warn(slow_learning_rate(table.head_lr or table.lr, len(batches)))
    trace, seconds, kept = context.fit(stage, fingerprint, model, batches, cross_entropy, seed=stage_seed(stage, "fit"))
    first, last = _ends(trace.loss)
    notes: dict[str, Any] = {"examples": len(parts[0].examples)}
    for name, mark in (("switched", "uses_dictionary"), ("few_shot", "uses_target_labels")):
        if name in named:
            notes |= {f"{name}_examples": len(named[name].examples), mark: True}
    return Outcome(model, trace, seconds, start, notes | kept, f"loss {first:.3f} -> {last:.3f}")


def _labelled_part(context: Context, stage: Stage, model: TaskModel, store: TokenStore) -> Part:
    """All labelled examples of a store, to learn."""
    examples = labelled_examples(store)
    states = context.frozen_states(stage, model, store, examples)
    return Part(ItemView(store), examples, labels=np.asarray(store.item_labels), frozen_states=states)


def new_task_model(
    context: Context, stage: Stage, kind: Literal["linear", "mlp", "voters"], role: str = "base"
) -> TaskModel:
    """The encoder of an input with a fresh, seeded head."""
    config = context.config
    encoder = context.load_base(stage, role)
    pooler = None
    if config.pooling == "pooler":
        assert config.model.path is not None
        pooler = load_pooler(config.model.path).to(context.device)
    head = new_head(config, kind, encoder, len(context.data.labels), stage_seed(stage, "head"))
    model = TaskModel(encoder, head, config.task, context.data.labels, pooling=config.pooling, pooler=pooler)
    return model.to(context.device)


def new_head(config: RunConfig, kind: str, encoder: Encoder, num_classes: int, seed: int) -> Head:
    hidden, spread = encoder.config.hidden_size, encoder.config.initializer_range
    drop = encoder.config.dropout
    if kind == "linear":
        return LinearHead(hidden, num_classes, drop, seed=seed, initializer_range=spread)
    if kind == "mlp":
        return MlpHead(hidden, num_classes, drop, seed=seed, initializer_range=spread)
    table = config.selftrain
    if table.voters == 1 and not table.widths:
        return LinearHead(hidden, num_classes, drop, seed=seed, initializer_range=spread)
    widths = table.widths or default_voter_widths(hidden, table.voters)
    return VoterHeads(hidden, num_classes, widths, drop, seed=seed, initializer_range=spread)


def labelled_examples(store: TokenStore) -> np.ndarray:
    """Examples with at least one labelled item."""
    known = np.asarray(store.item_labels) >= 0
    counts = np.concatenate([[0], np.cumsum(known)])[np.asarray(store.item_offsets)]
    return np.flatnonzero(np.diff(counts) > 0)


def encoder_of(model: nn.Module) -> Encoder:
    if not isinstance(model, (MaskedLM, TaskModel)):
        raise ModelError(f"{type(model).__name__} has no encoder")
    return model.encoder


def warn_of_unseen(context: Context, store: TokenStore, role: str, language: str) -> None:
    """What the maximum length cut off a store, and what gave no token."""
    total = int(np.sum(store.num_words)) if store.task == "ner" else int(store.offsets[-1]) + store.cut["tokens"]
    unit = "words" if store.task == "ner" else "tokens"
    context.warn(cut_by_length(store.cut[unit], total, store.max_length, role=role, language=language, unit=unit))
    if store.task == "ner":
        context.warn(no_token(store.cut["empty_words"], total, role=role, language=language))


def _ends(loss: Sequence[float]) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps."""
    tenth = max(1, len(loss) // 10)
    return float(np.mean(loss[:tenth])), float(np.mean(loss[-tenth:]))
