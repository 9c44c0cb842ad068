"""The models that stages train: the encoder of an input with a fresh, seeded head; and what text they cannot see."""

from __future__ import annotations

import numpy as np

from ...data import Tokenizer, TokenStore
from ...model import (
    Encoder,
    EncoderConfig,
    Head,
    LinearHead,
    MlpHead,
    PredictionHead,
    TaskModel,
    VoterHeads,
    default_voter_widths,
    load_encoder,
    load_encoder_config,
    load_pooler,
)
from ...tasks import per_word
from ..plan import Stage
from ..pseudolabels.diagnostics import cut_by_length, no_token
from ..recipe.config import RunConfig
from .context import Context
from .kind import stage_seed


def new_encoder_config(config: RunConfig, tokenizer: Tokenizer) -> EncoderConfig:
    """The shape of the encoder that the recipe makes from scratch."""
    table = config.model.new
    assert table is not None
    return EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=table.hidden_size,
        num_layers=table.num_layers,
        num_heads=table.num_heads,
        intermediate_size=table.intermediate_size,
        max_positions=config.max_length,
        dropout=table.dropout,
        attention_dropout=table.dropout,
        initializer_range=table.initializer_range,
        pad_token_id=tokenizer.pad_id,
    )


def encoder_config(context: Context) -> EncoderConfig:
    """The shape of the encoder that every stage trains."""
    path = context.config.model.path
    return new_encoder_config(context.config, context.tokenizer) if path is None else load_encoder_config(path)


def new_task_model(context: Context, stage: Stage, head: str, role: str = "base") -> TaskModel:
    """The encoder of an input with a fresh, seeded head, or with one that is made of the input's own weights.

    Args:
        head: "linear", "mlp", "prediction", "voters".
    """
    config = context.config
    encoder = load_encoder(context.input_folder(stage, role)).to(context.device)
    pooler = None
    if config.pooling == "pooler":
        assert config.model.path is not None
        pooler = load_pooler(config.model.path).to(context.device)
    fresh = new_head(config, head, encoder, len(context.data.labels), stage_seed(stage, "head"))
    model = TaskModel(encoder, fresh, config.task, context.data.labels, pooling=config.pooling, pooler=pooler)
    return model.to(context.device)


def new_head(config: RunConfig, kind: str, encoder: Encoder, num_classes: int, seed: int) -> Head:
    """A head of this kind; "voters" are those of [selftrain]."""
    hidden, spread = encoder.config.hidden_size, encoder.config.initializer_range
    drop, table = encoder.config.dropout, config.selftrain
    if kind == "mlp":
        return MlpHead(hidden, num_classes, drop, seed=seed, initializer_range=spread)
    if kind == "prediction":
        return PredictionHead(encoder.config, num_classes, drop, seed=seed)
    if kind == "linear" or (table.voters == 1 and not table.widths):
        return LinearHead(hidden, num_classes, drop, seed=seed, initializer_range=spread)
    widths = table.widths or default_voter_widths(hidden, table.voters)
    return VoterHeads(hidden, num_classes, widths, drop, seed=seed, initializer_range=spread)


def warn_of_unseen(context: Context, store: TokenStore, role: str, language: str) -> None:
    """What the maximum length cut off a store, and what gave no token."""
    total = int(np.sum(store.num_words)) if per_word(store.task) else int(store.offsets[-1]) + store.cut["tokens"]
    unit = "words" if per_word(store.task) else "tokens"
    context.warn(cut_by_length(store.cut[unit], total, store.max_length, role=role, language=language, unit=unit))
    if store.long.any():
        count = int(store.long.sum())
        context.progress.note(f"{role} {language}: {count} sentences longer than {store.max_length} tokens: in windows")
    if per_word(store.task):
        context.warn(no_token(store.cut["empty_words"], total, role=role, language=language))
