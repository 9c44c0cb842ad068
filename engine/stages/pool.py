"""The examples that are still in play in a round of self-training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...data import TokenStore
from ..plan import Stage
from .context import Context
from .datasets import capped
from .decision_files import DECISION


@dataclass(frozen=True)
class Pool:
    """The examples that are still in: of the target text, and of the labelled source."""

    target: np.ndarray
    source: np.ndarray


def load_pool(context: Context, stage: Stage) -> Pool:
    """What the last hard stage left: source examples leave for good, target ones only where the recipe says so."""
    data, config = context.data, context.config
    target = config.target(stage.target)
    if "previous" in stage.inputs:
        saved = DECISION.arrays(context.folder(stage.inputs["previous"]))
        return Pool(np.flatnonzero(saved["target.pool"]), np.flatnonzero(saved["source.keep"]))
    chosen = capped(len(data.target_pool(target)), config.selftrain.cap, stage.seed, target.language)
    return Pool(chosen, np.arange(len(data.source_train)))


def target_examples(context: Context, stage: Stage) -> tuple[TokenStore, np.ndarray]:
    """As many unlabelled examples as a round draws, whichever it draws: for an estimate."""
    store = context.data.target_pool(context.config.target(stage.target))
    cap = context.config.selftrain.cap or len(store)
    return store, np.flatnonzero(np.diff(np.asarray(store.item_offsets)) > 0)[:cap]


def pool_tokens(context: Context, stage: Stage, at_most: int | None = None) -> int:
    """Tokens of the unlabelled examples that a target's self-training draws; of the mean length, whichever it draws."""
    store = context.data.target_pool(context.config.target(stage.target))
    drawn = min(len(store), context.config.selftrain.cap or len(store), at_most or len(store))
    return round(float(store.lengths.mean()) * drawn)
