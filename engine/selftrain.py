"""Self-training (arXiv 2310.04726 section 3.2): the soft stage, the decision, the hard stage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import Tensor

from .. import ModelError
from ..data import ItemView, Part, TaskBatches, TokenStore
from ..kernels import Votes, votes
from ..model import TaskModel
from .context import Context, freeze, tensors_hash
from .datasets import capped
from .decisions import Decision, SourceDecision, decide, source_consistency
from .decision_record import decision_record
from .diagnostics import (
    alpha_at_edge,
    class_collapse,
    class_shift,
    falling_acceptance,
    few_accepted_entities,
    heavy_source_drop,
    low_agreement,
    require_accepted,
    single_voter,
    slow_learning_rate,
)
from .files import atomic_write_bytes, atomic_write_json
from .inference import predict_logits
from .objectives import SoftLabels, cross_entropy
from .plan import Stage
from .stages import Outcome, new_task_model, stage_seed, target_of
from .thresholds import ThresholdChoice, choose_threshold

SOFT_LABELS, DECISION = "soft_labels.safetensors", "decision.safetensors"


@dataclass(frozen=True)
class Pool:
    """The target examples that are still in, and the source examples that are."""

    target: np.ndarray
    source: np.ndarray


def load_pool(context: Context, stage: Stage) -> Pool:
    """What the last hard stage left: source examples leave for good, target ones only where the recipe says so."""
    data, config = context.data, context.config
    target = target_of(config, stage)
    if "previous" in stage.inputs:
        saved = load_file(context.folder(stage.inputs["previous"]) / DECISION)
        return Pool(np.flatnonzero(saved["target.pool"]), np.flatnonzero(saved["source.keep"]))
    store = data.target_pool(target)
    chosen = capped(len(store), config.selftrain.cap, stage.seed, target.language)
    return Pool(chosen, np.arange(len(data.source_train)))


def run_soft(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """A fresh student on the restored base learns the teacher's probabilities (Eq. 1)."""
    table = context.config.selftrain
    view = ItemView(context.data.target_pool(target_of(context.config, stage)), table.soft.positions)
    pool = load_pool(context, stage).target
    targets = _soft_targets(context, stage, view, pool, folder)
    model = new_task_model(context, stage, "voters", "start" if "start" in stage.inputs else "base")
    freeze(model.encoder, table.soft)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    part = Part(view, _with_items(view, pool), soft_targets=targets)
    batches = TaskBatches(
        [part],
        batch_size=table.soft.batch_size,
        epochs=table.soft.epochs,
        seed=stage_seed(stage, "batches"),
        micro_batch=table.soft.micro_batch,
    )
    context.warn(single_voter(table.voters), slow_learning_rate(table.soft.head_lr or table.soft.lr, len(batches)))
    objective = SoftLabels(table.soft.loss, table.soft.temperature, table.soft.combine)
    trace, seconds = context.fit(stage, fingerprint, model, batches, objective, seed=stage_seed(stage, "fit"))
    notes = {"examples": len(part.examples), "voters": model.head.num_voters}
    return Outcome(model, trace, seconds, start, notes, f"{len(part.examples)} examples with soft labels")


def _soft_targets(context: Context, stage: Stage, view: ItemView, pool: np.ndarray, folder: Path) -> np.ndarray:
    """Teacher outputs for every item, computed once per round in evaluation mode, and stored."""
    path = folder / SOFT_LABELS
    if path.exists():
        return load_file(path)["targets"]
    context.progress.note(f"{stage.id}: the teacher labels {len(pool)} examples")
    teacher = context.load_task_model(stage, "teacher")
    targets = teacher_targets(predict_logits(teacher, view, pool, poll=context.poll), context.config.selftrain.soft.loss,
                              context.config.selftrain.soft.target)
    atomic_write_bytes(path, save({"targets": targets}, {"teacher": stage.inputs["teacher"]}))
    return targets


def teacher_targets(logits: Tensor, loss: str, target: str) -> np.ndarray:
    """What the student shall match, float32 [K, C], from the teacher's logits [M, K, C].

    The mean probability of the teacher's voters; the share of voters per class with target "vote-share"; mean
    logits where the loss compares logits.
    """
    if loss == "logits":
        result = logits.mean(dim=0)
    elif target == "vote-share":
        result = torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float().mean(dim=0)
    else:
        result = votes(logits).mean_probability
    return result.numpy().astype(np.float32)


def run_hard(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """Alpha, the decision on source and target, then cross entropy on what was kept (Eq. 2 to 4)."""
    config, table = context.config, context.config.selftrain
    labeller = context.load_task_model(stage, "student" if "student" in stage.inputs else "teacher")
    if (folder / DECISION).exists() and (folder / "decision.json").exists():
        saved = load_file(folder / DECISION)
    else:
        saved = _decide(context, stage, labeller, folder)
    source, target = context.data.source_train, context.data.target_pool(target_of(config, stage))
    model = _hard_start(context, stage, labeller)
    freeze(model.encoder, table.hard)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    target_view = ItemView(target)
    accepted = _examples_with(saved["target.targets"] >= 0, target_view)
    parts = [
        Part(ItemView(source), np.flatnonzero(saved["source.keep"]), labels=np.asarray(source.item_labels)),
        Part(target_view, accepted, labels=saved["target.targets"]),
    ]
    batches = TaskBatches(
        parts,
        batch_size=table.hard.batch_size,
        epochs=table.hard.epochs,
        seed=stage_seed(stage, "batches"),
        balance="up" if table.hard.mix == "balanced" else "none",
        micro_batch=table.hard.micro_batch,
    )
    trace, seconds = context.fit(stage, fingerprint, model, batches, cross_entropy, seed=stage_seed(stage, "fit"))
    record = json.loads((folder / "decision.json").read_bytes())
    kept, removed = len(parts[0].examples), record["source"]["removed"]
    notes = {
        "alpha": record["alpha"],
        "accepted": record["accepted"],
        "removed": len(source) - kept,
        "source_examples": kept,
        "target_examples": len(accepted),
    }
    alpha = "none" if record["alpha"] is None else f"{record['alpha']:.3f}"
    line = f"alpha {alpha}, {record['accepted']} of {record['items']} items accepted, {removed} source examples removed"
    return Outcome(model, trace, seconds, start, notes, line)


def _hard_start(context: Context, stage: Stage, labeller: TaskModel) -> TaskModel:
    """The soft-trained student itself; a fresh head on the base where the recipe says so, or without a soft stage."""
    if context.config.selftrain.hard.start == "base" or "student" not in stage.inputs:
        return new_task_model(context, stage, "voters", "start" if "start" in stage.inputs else "base")
    return labeller


def _decide(context: Context, stage: Stage, labeller: TaskModel, folder: Path) -> dict[str, np.ndarray]:
    """Chooses alpha, filters both languages, and stores the decision with its reasons."""
    data, table = context.data, context.config.selftrain
    pool = load_pool(context, stage)
    source, target = data.source_train, data.target_pool(target_of(context.config, stage))
    context.progress.note(f"{stage.id}: the student votes on {len(pool.source)} source and {len(pool.target)} target examples")
    source_items = _item_mask(source, pool.source)
    gold = np.where(source_items, np.asarray(source.item_labels), -100)
    source_votes = votes(predict_logits(labeller, ItemView(source), pool.source, poll=context.poll))
    if table.alpha.data == "dev":
        choice = _alpha_from_dev(context, labeller)
    else:
        choice = _alpha(context, source_votes, gold, gold >= 0)
    target_votes = votes(predict_logits(labeller, ItemView(target), pool.target, poll=context.poll))
    target_items = _item_mask(target, pool.target)
    decision = decide(
        target_votes,
        None if table.target_filter == "none" else choice.alpha,
        unit="item" if table.target_filter == "none" else table.target_filter,
        sentence_of_item=_example_of_item(target),
        labels=data.labels,
    )
    in_play = np.zeros(len(source), dtype=bool)
    in_play[pool.source] = True
    kept = source_consistency(
        source_votes,
        gold,
        kept=in_play,
        example_of_item=_example_of_item(source),
        rule=table.source_filter,
        alpha=choice.alpha,
        labels=data.labels,
    )
    used = decision.keep & target_items
    where = f"{stage.id}"
    inside = torch.from_numpy(target_items)
    require_accepted(
        int(used.sum()),
        target_votes.min_confidence[inside],
        target_votes.agree[inside],
        alpha=None if table.target_filter == "none" else choice.alpha,
        where=where,
    )
    record = decision_record(
        stage, table, choice, data.labels, source_votes, gold, kept, in_play, target_votes, decision, target_items
    )
    saved = _arrays(target, pool, table.abandoned, target_votes, decision, used, kept)
    _warn(context, stage, choice, record, kept, in_play, target_votes, target_items, gold)
    atomic_write_bytes(folder / DECISION, save(saved))
    atomic_write_json(folder / "decision.json", record)
    return saved


def _alpha(context: Context, source_votes: Votes, gold: np.ndarray, judged: np.ndarray) -> ThresholdChoice:
    table, keep = context.config.selftrain.alpha, torch.from_numpy(judged)
    label = source_votes.label[keep]
    return choose_threshold(
        source_votes.min_confidence[keep],
        label == torch.from_numpy(gold[judged].astype(np.int64)),
        rule=table.rule,
        num_classes=len(context.data.labels),
        step=table.step,
        upper=table.upper,
        min_kept=table.min_kept,
        agree=source_votes.agree[keep],
    )


def _alpha_from_dev(context: Context, labeller: TaskModel) -> ThresholdChoice:
    source = context.config.source
    assert source.dev is not None
    dev = context.data.labelled(source.dev, source.language)
    gold = np.asarray(dev.item_labels)
    return _alpha(context, votes(predict_logits(labeller, ItemView(dev), poll=context.poll)), gold, gold >= 0)


def _arrays(
    target: TokenStore,
    pool: Pool,
    abandoned: str,
    target_votes: Votes,
    decision: Decision,
    used: np.ndarray,
    kept: SourceDecision,
) -> dict[str, np.ndarray]:
    """The decision as arrays: one entry per target item, target example and source example."""
    stays = np.zeros(len(target), dtype=bool)
    stays[pool.target] = True
    if abandoned == "drop":
        stays &= np.isin(np.arange(len(target)), _examples_with(used, ItemView(target)))
    return {
        "target.targets": np.where(used, decision.label, -100).astype(np.int64),
        "target.label": decision.label.astype(np.int64),
        "target.reason": decision.reason.astype(np.int8),
        "target.agree": target_votes.agree.numpy().astype(np.uint8),
        "target.confidence": target_votes.min_confidence.numpy().astype(np.float32),
        "target.pool": stays.astype(np.uint8),
        "source.keep": kept.keep.astype(np.uint8),
        "source.reason": kept.reason.astype(np.int8),
    }


def _warn(
    context: Context,
    stage: Stage,
    choice: ThresholdChoice,
    record: dict[str, Any],
    kept: SourceDecision,
    in_play: np.ndarray,
    target_votes: Votes,
    target_items: np.ndarray,
    gold: np.ndarray,
) -> None:
    labels = context.data.labels
    accepted = {name: entry["accepted"] for name, entry in record["classes"].items()}
    counts = np.bincount(gold[gold >= 0], minlength=len(labels))
    prior = {name: int(count) for name, count in zip(labels, counts, strict=True)}
    context.warn(
        *kept.warnings,
        alpha_at_edge(choice),
        low_agreement(target_votes.agree[torch.from_numpy(target_items)]),
        class_collapse(accepted, prior),
        class_shift(accepted, prior),
        heavy_source_drop(int(in_play.sum()), int(kept.keep.sum())),
        falling_acceptance([*_earlier_coverages(context, stage), record["accepted"] / max(1, record["items"])]),
    )
    if labels[0] == "O":
        entity = [n for n in labels if n != "O"]
        context.warn(
            few_accepted_entities(sum(accepted[n] for n in entity), sum(record["classes"][n]["items"] for n in entity))
        )


def _earlier_coverages(context: Context, stage: Stage) -> list[float]:
    if "previous" not in stage.inputs:
        return []
    path = context.folder(stage.inputs["previous"]) / "decision.json"
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); delete the folder {path.parent} and run again") from error
    return [record["accepted"] / max(1, record["items"])]


def _example_of_item(store: TokenStore) -> np.ndarray:
    return np.repeat(np.arange(len(store)), np.diff(np.asarray(store.item_offsets)))


def _item_mask(store: TokenStore, examples: np.ndarray) -> np.ndarray:
    chosen = np.zeros(len(store), dtype=bool)
    chosen[examples] = True
    return chosen[_example_of_item(store)]


def _with_items(view: ItemView, examples: np.ndarray) -> np.ndarray:
    return examples[np.diff(view.offsets)[examples] > 0]


def _examples_with(flag: np.ndarray, view: ItemView) -> np.ndarray:
    """Examples with at least one flagged item."""
    return np.flatnonzero(np.diff(np.concatenate([[0], np.cumsum(flag)])[view.offsets]) > 0)
