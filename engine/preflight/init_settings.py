"""Settings that can learn from the amount of text there is.

The published rates (arXiv 2310.04726 section 4.2: 1e-6 and 2e-5) belong to thousands of steps with a large encoder;
with some hundred sentences they leave a fresh head where it was initialised. Here steps are counted first, epochs
follow from them, and rates from the width of the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...model import EncoderConfig
from ..pseudolabels.diagnostics import slow_learning_rate

Values = dict[str, tuple[Any, str]]
"""Keys of a table, each with its value and the reason for it."""
POOL = 10_000
"""Unlabelled examples of a target that self-training uses at most with a new encoder."""
_SIZES = (
    # words up to, vocabulary, hidden size, layers
    (20_000, 1500, 64, 2),
    (300_000, 3000, 96, 2),
    (1_500_000, 8000, 128, 3),
    (float("inf"), 16_000, 192, 4),
)


@dataclass
class Settings:
    """The table `model.new`, the tables of stages by name, the maximum length with its reason, more keys of the top."""

    model: Values = field(default_factory=dict)
    tables: dict[str, Values] = field(default_factory=dict)
    length: tuple[int, str] = (0, "")
    top: Values = field(default_factory=dict)


def for_new_encoder(train: int, targets: Sequence[int], words: int) -> Settings:
    """Settings for an encoder made from scratch: labelled examples, unlabelled ones of each target, words in all."""
    _, vocabulary, hidden, layers = next(row for row in _SIZES if words <= row[0])
    amount = f"for {words:,} words of text"
    settings = Settings(
        {
            "vocab_size": (vocabulary, f"pieces at most, {amount}"),
            "hidden_size": (hidden, f"width, {amount}"),
            "num_layers": (layers, "deeper encoders need more text"),
            "num_heads": (4, "divides the width"),
            "intermediate_size": (4 * hidden, "four times the width, as in BERT"),
            "initializer_range": (0.04, "wider than BERT's 0.02: a narrow encoder leaves its start sooner"),
        }
    )
    rate, most = learning_rate(hidden), max(train, *targets)
    settings.tables["training"] = {"freeze_layers": (0, "a small encoder needs all its layers")}
    settings.tables["pretrain"] = _mlm((1 + len(targets)) * most, 1000, 2 * rate, (3, 60))
    settings.tables["btf"] = _mlm(2 * most, 600, 1.5 * rate, (3, 40)) | {
        "freeze_embeddings": (False, "the words of the task are still to be learned"),
    }
    settings.tables |= _task_tables(train, max(targets), rate, POOL)
    return settings


def for_folder(shape: EncoderConfig, train: int, targets: Sequence[int]) -> Settings:
    """Settings for an encoder of a model folder; arguments as above."""
    rate, most = learning_rate(shape.hidden_size), max(train, *targets)
    frozen = shape.num_layers // 4
    kept = "lowest layers kept as they are" if frozen else "a small encoder needs all its layers"
    training: Values = {"freeze_layers": (frozen, kept)}
    big = shape.vocab_size >= 50_000
    btf = _mlm(2 * most, 500, 1.5 * rate, (3, 20)) | {
        "freeze_embeddings": (big, "a large embedding is most of the memory" if big else "small enough to train"),
        "freeze_layers": (frozen if big else 0, "lowest layers kept as they are (the paper: 3 of 12)"),
    }
    tables = {"training": training, "btf": btf, **_task_tables(train, max(targets), rate, max(targets))}
    return Settings(tables=tables)


def learning_rate(hidden_size: int) -> float:
    """Peak rate of a task stage, between 3e-5 for a width of 768 and 1e-3 for 96, with one digit."""
    rate = 3e-5 * (768 / hidden_size) ** 1.7
    return float(f"{min(1e-3, rate):.0e}")


def _task_tables(train: int, target: int, rate: float, cap: int) -> dict[str, Values]:
    pool = min(target, cap)
    loop: Values = {
        "rounds": (2, "soft and hard stage, twice; 0.5 is one soft stage"),
        "voters": (3, "heads that must agree before a label is accepted"),
    }
    if target > cap:
        loop["cap"] = (cap, f"of {target:,} examples, to keep the run short; 0 takes all")
    hard = _task(train + pool, 250, float(f"{rate / 5:.0e}"), (2, 10))
    # The published 1e-6 would need ten thousand steps to change anything.
    why = "peak learning rate; a fifth of the soft stage's, since the student is trained already"
    hard["lr"] = (hard["lr"][0], why)
    return {
        "finetune": _task(train, 300, rate, (3, 20)),
        "selftrain": loop,
        "selftrain.soft": _task(pool, 300, rate, (3, 20)),
        "selftrain.hard": hard,
        "arms": {"baseline": (True, "also fine-tune without bilingual task fitting, to see what it brings")},
    }


def _mlm(examples: int, steps: int, rate: float, limits: tuple[int, int]) -> Values:
    batch = 64 if examples >= 8000 else 32 if examples >= 2000 else 16
    return _training(examples, batch, steps, float(f"{rate:.1e}"), limits)[0]


def _task(examples: int, steps: int, rate: float, limits: tuple[int, int]) -> Values:
    values, taken = _training(examples, 32 if examples >= 1500 else 16, steps, rate, limits)
    if slow_learning_rate(rate, taken, init_std=0.04):
        # Four times the movement below which a head is held to be stuck.
        head = float(f"{min(1e-3, 0.08 / taken):.0e}")
        values["head_lr"] = (max(rate, head), f"the head is new: {taken:,} steps of {rate:g} would hardly move it")
    return values


def _training(examples: int, batch: int, steps: int, rate: float, limits: tuple[int, int]) -> tuple[Values, int]:
    """Rate, epochs that come to about so many steps within limits, and batch size; and the steps."""
    an_epoch = -(-max(1, examples) // batch)
    epochs = max(limits[0], min(limits[1], round(steps / an_epoch)))
    values: Values = {
        "lr": (rate, "peak learning rate, by the width of the encoder"),
        "epochs": (epochs, f"about {an_epoch * epochs:,} steps over {examples:,} examples"),
        "batch_size": (batch, "sequences in a step"),
    }
    return values, an_epoch * epochs
