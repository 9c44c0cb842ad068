"""How much a stage trains and reads, for `estimate`: exact where that does not depend on what the run finds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...data import BatchSize, ItemView, MlmBatches, PairBatches, Part, TaskBatches
from ..methods.induce import induced_inputs
from ..methods.transfer_data import TRANSFER_KINDS, pools_of
from ..methods.work import Work, transfer_work
from ..plan import Stage
from ..recipe.config import PretrainConfig
from ..stages.btf_text import BtfText, btf_text
from ..stages.common import inputs_of
from ..stages.context import Context
from ..stages.datasets import corpora
from ..stages.mixture import labelled_examples, learned_stores, mixture
from ..stages.teachers import count_teachers

SURVEYED = 2000
"""Steps of the first epoch whose batches are looked at for the largest one."""


def stage_work(context: Context, stage: Stage) -> Work:
    """Lengths of the examples of each corpus, batches, examples per epoch of each, whether these are bounds.

    The batches are those of seed 0, as many as there are steps, and only good for their sizes; None without training.
    """
    config, stores = context.config, inputs_of(context, stage)
    if stage.kind in ("pretrain", "btf"):
        table = config.pretrain if stage.kind == "pretrain" else config.btf
        if stage.kind == "pretrain":
            text = BtfText(corpora(list(stores.values())), None)
        else:
            # One draw for all seeds, so that their estimates are the same.
            text = btf_text(context, replace(stage, seed=0), config.target(stage.target))
        batches = _mlm_batches(text, table)
        return [corpus.lengths for corpus in text.corpora], batches, batches.examples_per_epoch, False
    if stage.kind in TRANSFER_KINDS:
        return transfer_work(context, stage, stores)
    if stage.kind == "cloze":
        return [np.zeros(0, dtype=np.int64)], None, [0], False
    if stage.kind == "finetune":
        return _finetune_work(context, stage)
    parts = [(stores["source"], labelled_examples(stores["source"]))]
    balance, at_most, table_st = "none", False, config.selftrain
    if stage.kind in ("soft", "hard"):
        target = stores["target"]
        cap = table_st.cap or len(target)
        chosen = np.flatnonzero(np.diff(np.asarray(target.item_offsets)) > 0)[:cap]
        if stage.kind == "soft":
            both = table_st.soft.sides == "both"
            parts = [(target, chosen), *(parts if both else [])]
            at_most = stage.round > 1 and (table_st.abandoned == "drop" or (both and table_st.source_filter != "none"))
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
        micro_batch=optimiser.fixed_micro_batch,
    )
    lengths = [store.lengths[examples] for store, examples in parts]
    sizes = [len(part) for part in lengths]
    return lengths, total, [max(sizes)] * len(sizes) if balance == "up" else sizes, at_most


def _finetune_work(context: Context, stage: Stage) -> Work:
    mixed, optimiser = mixture(context, stage, learned_stores(context, stage)), stage.optimiser
    total = TaskBatches(
        [Part(ItemView(p.store), p.examples) for p in mixed.portions],
        batch_size=optimiser.batch_size,
        epochs=optimiser.epochs,
        seed=0,
        balance=mixed.balance,
        counts=mixed.counts,
        micro_batch=optimiser.fixed_micro_batch,
    )
    return [p.store.lengths[p.examples] for p in mixed.portions], total, mixed.per_epoch(), False


def largest_batch(batches: MlmBatches | TaskBatches | PairBatches | None, epochs: float) -> BatchSize:
    """The size of the micro-batch with the most tokens of the first epoch, as it is drawn and cut."""
    steps = 0 if batches is None else min(SURVEYED, max(1, round(len(batches) / max(1.0, epochs))))
    found = [size for step in range(steps) if batches is not None for size in batches.sizes(step)]
    return max(found, key=lambda size: size.tokens, default=BatchSize(0, 0, 0, 0))


def masked_work(context: Context, stage: Stage, steps: int) -> tuple[float, BatchSize]:
    """Tokens of the masked text that so many steps learn beside their own, and its largest batch."""
    if "mlm" not in stage.settings:
        return 0.0, BatchSize(0, 0, 0, 0)
    table, text = context.config.btf, btf_text(context, stage, context.config.target(stage.target))
    batches = _mlm_batches(text, table)
    counts = batches.examples_per_epoch
    mean = np.average([corpus.lengths.mean() for corpus in text.corpora], weights=counts)
    return steps * table.batch_size * float(mean), largest_batch(batches, table.epochs)


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
        rate=table.mask_rate,
        counts=text.counts,
        micro_batch=table.fixed_micro_batch,
    )


def read_tokens(context: Context, stage: Stage) -> list[int]:
    """Tokens that a stage reads without learning from them: a teacher's text, its own votes, and the test sets."""
    config = context.config
    found: list[int] = []
    if stage.kind in ("pretrain", "btf"):
        return found
    if stage.kind == "soft":
        asked = _pool_tokens(context, stage)
        if config.selftrain.soft.sides == "both":
            asked += int(context.data.source_train.offsets[-1])
        found += [asked] * count_teachers(context, stage)
    if stage.kind == "hard":
        found += _vote_tokens(context, stage)
    if "induce" in stage.settings:
        text = induced_inputs(context, config.target(stage.target))
        found += [int(store.offsets[-1]) for store in text.values()]
    if stage.kind == "cotrain" and stage.round > 1:
        found += [int(store.offsets[-1]) for store in pools_of(context, stage).values()]
    return found + [int(test.offsets[-1]) for _, test in context.test_stores(stage).values()]


def _vote_tokens(context: Context, stage: Stage) -> list[int]:
    """Tokens that the labeller of a hard stage votes on (`decide_round`): both languages, and what judges them."""
    data, target = context.data, context.config.target(stage.target)
    found = [int(data.source_train.offsets[-1])]
    if context.config.has_dev:
        found.append(int(data.source_dev.offsets[-1]))
    found.append(_pool_tokens(context, stage))
    if target.test is not None:
        found.append(int(data.scored(target.test, target.language).offsets[-1]))
    return found


def _pool_tokens(context: Context, stage: Stage) -> int:
    """Tokens of the unlabelled examples that a target's self-training draws; of the mean length, whichever it draws."""
    config = context.config
    pool = context.data.target_pool(config.target(stage.target))
    drawn = min(len(pool), config.selftrain.cap or len(pool))
    return round(float(pool.lengths.mean()) * drawn)
