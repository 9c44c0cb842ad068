"""How much a stage trains and reads, for `estimate`: exact where that does not depend on what the run finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..data import ItemView, MlmBatches, Part, TaskBatches
from .btf_text import BtfText, btf_text
from .config import PretrainConfig
from .context import Context
from .datasets import corpora
from .induce import induced_inputs
from .learned import labelled_examples, learned_stores, mixture
from .plan import Stage
from .stages import inputs_of, target_of
from .teachers import count_teachers
from .transfer.data import TRANSFER_KINDS, pools_of
from .transfer.work import transfer_work


def stage_work(context: Context, stage: Stage) -> tuple[list[np.ndarray], int, list[int], bool]:
    """Lengths of the examples of each corpus, optimiser steps, examples per epoch of each, whether these are bounds."""
    config, stores = context.config, inputs_of(context, stage)
    if stage.kind in ("pretrain", "btf"):
        table = config.pretrain if stage.kind == "pretrain" else config.btf
        if stage.kind == "pretrain":
            text = BtfText(corpora(list(stores.values())), None)
        else:
            # One draw for all seeds, so that their estimates are the same.
            text = btf_text(context, replace(stage, seed=0), target_of(config, stage))
        batches = _mlm_batches(text, table)
        return [corpus.lengths for corpus in text.corpora], len(batches), batches.examples_per_epoch, False
    if stage.kind in TRANSFER_KINDS:
        return transfer_work(context, stage, stores)
    if stage.kind == "cloze":
        return [np.zeros(0, dtype=np.int64)], 0, [0], False
    if stage.kind == "finetune":
        return _finetune_work(context, stage)
    parts = [(stores["source"], labelled_examples(stores["source"]))]
    balance, at_most, table_st = "none", False, config.selftrain
    if stage.kind in ("soft", "hard"):
        target = stores["target"]
        cap = table_st.cap or len(target)
        chosen = np.flatnonzero(np.diff(np.asarray(target.item_offsets)) > 0)[:cap]
        if stage.kind == "soft":
            parts, at_most = [(target, chosen)], stage.round > 1 and table_st.abandoned == "drop"
        else:
            parts.append((target, chosen))
            balance = "up" if table_st.hard.mix == "balanced" else "none"
            at_most = not (table_st.target_filter == "none" and table_st.source_filter == "none")
    optimiser = stage.optimiser
    total = TaskBatches(
        [Part(ItemView(store), examples) for store, examples in parts],
        batch_size=optimiser.batch_size,
        epochs=optimiser.epochs,
        seed=0,
        balance=balance,
    )
    lengths = [store.lengths[examples] for store, examples in parts]
    sizes = [len(part) for part in lengths]
    return lengths, len(total), [max(sizes)] * len(sizes) if balance == "up" else sizes, at_most


def _finetune_work(context: Context, stage: Stage) -> tuple[list[np.ndarray], int, list[int], bool]:
    mixed, optimiser = mixture(context, stage, learned_stores(context, stage)), stage.optimiser
    total = TaskBatches(
        [Part(ItemView(p.store), p.examples) for p in mixed.portions],
        batch_size=optimiser.batch_size,
        epochs=optimiser.epochs,
        seed=0,
        balance=mixed.balance,
        counts=mixed.counts,
    )
    return [p.store.lengths[p.examples] for p in mixed.portions], len(total), mixed.per_epoch(), False


def masked_work(context: Context, stage: Stage, steps: int) -> tuple[float, np.ndarray]:
    """Tokens of the masked text that so many steps learn beside their own, and the lengths of its examples."""
    if "mlm" not in stage.settings:
        return 0.0, np.zeros(0, dtype=np.int64)
    table, text = context.config.btf, btf_text(context, stage, target_of(context.config, stage))
    counts = _mlm_batches(text, table).examples_per_epoch
    mean = np.average([corpus.lengths.mean() for corpus in text.corpora], weights=counts)
    return steps * table.batch_size * float(mean), np.concatenate([corpus.lengths for corpus in text.corpora])


def _mlm_batches(text: BtfText, table: PretrainConfig) -> MlmBatches:
    return MlmBatches(
        text.corpora,
        special=np.zeros(1, dtype=bool),
        mask_id=0,
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=0,
        balance=table.balance,
        temperature=table.temperature,
        counts=text.counts,
    )


def read_tokens(context: Context, stage: Stage) -> list[int]:
    """Tokens that a stage reads without learning from them: a teacher's text, its own votes, and the test sets."""
    config = context.config
    found: list[int] = []
    if stage.kind in ("pretrain", "btf"):
        return found
    if stage.kind == "soft":
        found += [_pool_tokens(context, stage)] * count_teachers(context, stage)
    if stage.kind == "hard":
        found += _vote_tokens(context, stage)
    if "induce" in stage.settings:
        text = induced_inputs(context, target_of(config, stage))
        found += [int(store.offsets[-1]) for store in text.values()]
    if stage.kind == "cotrain" and stage.round > 1:
        found += [int(store.offsets[-1]) for store in pools_of(context, stage).values()]
    return found + [int(test.offsets[-1]) for _, test in context.test_stores(stage).values()]


def _vote_tokens(context: Context, stage: Stage) -> list[int]:
    """Tokens that the labeller of a hard stage votes on (`decide_round`): both languages, and what judges them."""
    table, data, target = context.config.selftrain, context.data, target_of(context.config, stage)
    source = int(data.source_train.offsets[-1])
    found = [source] * (1 + (table.source_filter == "agreed"))
    if table.alpha.data == "dev":
        found.append(int(data.source_dev.offsets[-1]))
    found += [_pool_tokens(context, stage)] * (1 + table.consistency)
    if target.test is not None:
        found += [int(data.scored(target.test, target.language).offsets[-1])] * (1 + table.consistency)
    return found


def _pool_tokens(context: Context, stage: Stage) -> int:
    """Tokens of the unlabelled examples that a target's self-training draws; of the mean length, whichever it draws."""
    config = context.config
    pool = context.data.target_pool(target_of(config, stage))
    drawn = min(len(pool), config.selftrain.cap or len(pool))
    return round(float(pool.lengths.mean()) * drawn)
