"""What each kind of stage trains: masked language modelling, and fine-tuning on the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...data import Corpus, ItemView, MlmBatches, Part, TaskBatches, TokenStore, derive_seed, unigram_entropy
from ...model import (
    ClozeHead,
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
from ..methods.cloze import new_cloze_model
from ..methods.induce import induced_inputs, mixed_source
from ..methods.transfer_data import TRANSFER_KINDS, transfer_inputs
from ..plan import Stage
from ..pseudolabels.diagnostics import (
    cut_by_length,
    low_loss_drop,
    no_token,
    only_frequencies,
    slow_learning_rate,
)
from ..recipe.config import PretrainConfig, RunConfig, TaskConfig
from ..recipe.config.cloze import prompt_of
from ..training.objectives import cross_entropy, masked_lm
from ..training.trace import Trace
from ..training.weight_hashes import tensors_hash
from .btf_text import btf_stores, btf_text, text_by_language
from .context import Context, freeze
from .datasets import corpora
from .fit import Spent
from .mixture import MARK_OF_ROLE, learned_stores, mixture
from .teachers import teacher_stores


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
    spent: Spent
    encoder_at_start: str
    notes: dict[str, Any] = field(default_factory=dict)
    line: str = ""


def inputs_of(context: Context, stage: Stage) -> dict[str, TokenStore]:
    """The stores that decide a stage's result, by role."""
    data, config = context.data, context.config
    if stage.kind == "pretrain":
        return {f"text.{i}": store for i, store in enumerate(data.general_text())}
    if stage.kind == "btf":
        return btf_stores(context, stage, config.target(stage.target))
    if stage.kind in TRANSFER_KINDS:
        return transfer_inputs(context, stage)
    if stage.kind == "cloze":
        return {}
    found = learned_stores(context, stage) if stage.kind == "finetune" else {"source": data.source_train}
    if "induce" in stage.settings:
        found |= induced_inputs(context, config.target(stage.target))
    if stage.kind in ("soft", "hard"):
        found["target"] = data.target_pool(config.target(stage.target))
        found |= teacher_stores(context, stage)
        found |= btf_stores(context, stage, config.target(stage.target)) if "mlm" in stage.settings else {}
    best_epoch = isinstance(stage.optimiser, TaskConfig) and stage.optimiser.keep == "best"
    if best_epoch or (stage.kind == "hard" and config.has_dev):
        found["dev"] = data.source_dev
    return found


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
    outcome = _run_mlm(context, stage, fingerprint, model, corpora(stores), context.config.pretrain)
    special = context.special_tokens(model.config.vocab_size)
    sizes = [len(store.token_ids) for store in stores]
    entropy = np.average([unigram_entropy(store, special) for store in stores], weights=sizes)
    context.warn(only_frequencies(outcome.trace.loss, float(entropy)))
    return outcome


def run_btf(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Bilingual task fitting (arXiv 2310.04726 section 3.1), on task text or, as a control, on general text."""
    table = context.config.btf
    model = load_masked_lm(context.input_folder(stage, "base")).to(context.device)
    target = context.config.target(stage.target)
    languages = [*(source.language for source in context.config.all_sources), target.language]
    for language, store in zip(languages, text_by_language(context, stage, target), strict=True):
        warn_of_unseen(context, store, "text", language)
    text = btf_text(context, stage, target)
    outcome = _run_mlm(context, stage, fingerprint, model, text.corpora, table, text.counts)
    if "tlm" in stage.settings:
        warn_of_unseen(context, context.data.pairs(target), "pairs", target.language)
        outcome.notes |= {"pairs": len(text.corpora[-1]), "uses_parallel_data": True}
    context.warn(low_loss_drop(outcome.trace.loss))
    return outcome


def _run_mlm(
    context: Context,
    stage: Stage,
    fingerprint: Mapping[str, Any],
    model: MaskedLM,
    text: Sequence[Corpus],
    table: PretrainConfig,
    counts: Sequence[int] | None = None,
) -> Outcome:
    freeze(model.encoder, table)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    batches = MlmBatches(
        text,
        special=context.special_tokens(model.config.vocab_size),
        mask_id=context.tokenizer.mask_id,
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=stage_seed(stage, "batches"),
        rate=table.mask_rate,
        balance=table.balance,
        temperature=table.temperature,
        counts=counts,
        sort=table.order == "sorted",
        micro_batch=context.processes.micro_batch(table.fixed_micro_batch, table.batch_size),
    )
    trace, spent, _ = context.fit(stage, fingerprint, model, batches, masked_lm, seed=stage_seed(stage, "fit"))
    first, last = _ends(trace.loss)
    notes = {"examples_per_epoch": batches.examples_per_epoch, "loss_first": first, "loss_last": last}
    return Outcome(model, trace, spent, start, notes, f"loss {first:.2f} -> {last:.2f}")


def run_finetune(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Cross entropy on labelled examples, of the source above all; its result is the teacher of the first round."""
    table = context.config.finetune
    model = new_task_model(context, stage, table.head)
    freeze(model.encoder, table)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    stores = learned_stores(context, stage)
    if "induce" in stage.settings:
        mixed_store = mixed_source(context, stage, context.config.target(stage.target), model.encoder, folder)
        stores |= {} if mixed_store is None else {"mixed": mixed_store}
    for name, store in stores.items():
        warn_of_unseen(context, store, name, _language_of(context, stage, name))
    for language, (_, test) in context.test_stores(stage).items():
        warn_of_unseen(context, test, "test", language)
    mixed = mixture(context, stage, stores)
    batches = TaskBatches(
        [Part(ItemView(p.store), p.examples, labels=np.asarray(p.store.item_labels)) for p in mixed.portions],
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=stage_seed(stage, "batches"),
        balance=mixed.balance,
        counts=mixed.counts,
        sort=table.order == "sorted",
        micro_batch=context.processes.micro_batch(table.fixed_micro_batch, table.batch_size),
    )
    context.warn(slow_learning_rate(table.head_lr or table.lr, len(batches)))
    trace, spent, kept = context.fit(stage, fingerprint, model, batches, cross_entropy, seed=stage_seed(stage, "fit"))
    first, last = _ends(trace.loss)
    notes: dict[str, Any] = {"examples": mixed.count("source")}
    for role, mark in MARK_OF_ROLE.items():
        if count := mixed.count(role):
            notes |= {f"{role}_examples": count, mark: True}
    if "induce" in stage.settings:
        notes["mixed_examples"] = mixed.count("mixed")
    if mixed.counts is not None:
        notes["per_epoch"] = {p.language or p.role: n for p, n in zip(mixed.portions, mixed.counts, strict=True)}
    return Outcome(model, trace, spent, start, notes | kept, f"loss {first:.3f} -> {last:.3f}")


def run_cloze(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Nothing is trained: the masked-LM head of the input is asked for the classes' words."""
    model = new_task_model(context, stage, "cloze")
    start = tensors_hash(dict(model.encoder.named_parameters()))
    return Outcome(model, Trace(), Spent(), start, {"examples": 0}, "no training")


def _language_of(context: Context, stage: Stage, role: str) -> str:
    """What messages call the language of a store that fine-tuning learns."""
    if role == "few_shot":
        return str(stage.target)
    if role == "source":
        return ", ".join(source.language for source in context.config.all_sources)
    return role.partition(".")[2] or context.config.source.language


def new_task_model(
    context: Context, stage: Stage, kind: Literal["linear", "mlp", "voters", "cloze"], role: str = "base"
) -> TaskModel:
    """The encoder of an input with a fresh, seeded head, or with its own masked-LM head."""
    if kind == "cloze":
        return new_cloze_model(context, stage, role)
    config = context.config
    encoder = context.load_base(stage, role)
    pooler = None
    if config.pooling == "pooler":
        assert config.model.path is not None
        pooler = load_pooler(config.model.path).to(context.device)
    head = new_head(config, kind, encoder, len(context.data.labels), stage_seed(stage, "head"))
    labels, prompt = context.data.labels, prompt_of(config)
    model = TaskModel(encoder, head, config.task, labels, pooling=config.pooling, pooler=pooler, prompt=prompt)
    return model.to(context.device)


def new_head(config: RunConfig, kind: str, encoder: Encoder, num_classes: int, seed: int) -> Head:
    hidden, spread = encoder.config.hidden_size, encoder.config.initializer_range
    drop = encoder.config.dropout
    if kind == "linear":
        return LinearHead(hidden, num_classes, drop, seed=seed, initializer_range=spread)
    if kind == "mlp":
        return MlpHead(hidden, num_classes, drop, seed=seed, initializer_range=spread)
    if kind == "cloze":  # of the right size; `new_cloze_model` has the right words
        return ClozeHead(encoder.config, [[0]] * num_classes, seed=seed)
    table = config.selftrain
    if table.voters == 1 and not table.widths:
        return LinearHead(hidden, num_classes, drop, seed=seed, initializer_range=spread)
    widths = table.widths or default_voter_widths(hidden, table.voters)
    return VoterHeads(hidden, num_classes, widths, drop, seed=seed, initializer_range=spread)


def warn_of_unseen(context: Context, store: TokenStore, role: str, language: str) -> None:
    """What the maximum length cut off a store, and what gave no token."""
    total = int(np.sum(store.num_words)) if store.task == "ner" else int(store.offsets[-1]) + store.cut["tokens"]
    unit = "words" if store.task == "ner" else "tokens"
    context.warn(cut_by_length(store.cut[unit], total, store.max_length, role=role, language=language, unit=unit))
    if store.long.any():
        count = int(store.long.sum())
        context.progress.note(f"{role} {language}: {count} sentences longer than {store.max_length} tokens: in windows")
    if store.task == "ner":
        context.warn(no_token(store.cut["empty_words"], total, role=role, language=language))


def _ends(loss: Sequence[float]) -> tuple[float, float]:
    """Mean loss of the first and of the last tenth of the steps."""
    tenth = max(1, len(loss) // 10)
    return float(np.mean(loss[:tenth])), float(np.mean(loss[-tenth:]))
