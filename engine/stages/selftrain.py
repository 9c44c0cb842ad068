"""Self-training (arXiv 2310.04726 section 3.2): what the soft stage and the hard stage train."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch import Tensor

from ...data import ItemView, Part, TaskBatches
from ...kernels import votes
from ...model import TaskModel
from ..methods.joint import fit_jointly
from ..plan import Stage
from ..pseudolabels.diagnostics import one_teacher, single_voter, slow_learning_rate
from ..storage.decision_files import DecisionFiles
from ..storage.files import atomic_write_bytes, atomic_write_text
from ..training.objectives import SoftLabels, cross_entropy
from ..training.weight_hashes import tensors_hash
from .common import Outcome, new_task_model, stage_seed, warn_of_unseen
from .context import Context, freeze
from .round_decision import RoundDecision, decide_round, load_pool
from .soft_labels import MISSING, damaged, packed_soft_labels, read_soft_labels, soft_label_problem
from .teachers import Side, count_teachers, own_teachers, teach, teachers_name, text_of_side

SOFT_LABELS, DECISION, CURVE = "soft_labels.safetensors", "decision.safetensors", "curve.csv"
FILES = DecisionFiles("decision.json", DECISION)
SOFT_LABELS_OF: dict[Side, str] = {"target": SOFT_LABELS, "source": "soft_labels.source.safetensors"}


def run_soft(context: Context, stage: Stage, fingerprint: Mapping[str, Any], folder: Path) -> Outcome:
    """A fresh student on the restored base learns the teacher's probabilities (Eq. 1)."""
    table = context.config.selftrain
    model = _fresh_student(context, stage)
    freeze(model.encoder, table.soft)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    pool = load_pool(context, stage)
    parts = [_soft_part(context, stage, model, "target", pool.target, folder)]
    if table.soft.sides == "both":
        parts.append(_soft_part(context, stage, model, "source", pool.source, folder))
    batches = TaskBatches(
        parts,
        batch_size=table.soft.batch_size,
        epochs=table.soft.epochs,
        seed=stage_seed(stage, "batches"),
        sort=table.soft.order == "sorted",
        micro_batch=context.processes.micro_batch(table.soft.fixed_micro_batch, table.soft.batch_size),
    )
    context.warn(single_voter(table.voters), slow_learning_rate(table.soft.head_lr or table.soft.lr, len(batches)))
    context.warn(one_teacher(table.soft.teachers, len(own_teachers(stage))))
    objective = SoftLabels(table.soft.loss, table.soft.temperature, table.soft.combine)
    seed = stage_seed(stage, "fit")
    trace, spent, kept = fit_jointly(context, stage, fingerprint, model, batches, objective, seed=seed)
    examples = len(parts[0].examples)
    notes = {"examples": examples, "voters": model.head.num_voters} | kept
    if len(parts) > 1:
        notes["source_examples"] = len(parts[1].examples)
    if (teachers := count_teachers(context, stage)) > 1:
        notes["teachers"] = teachers
    return Outcome(model, trace, spent, start, notes, f"{examples} examples with soft labels")


def _soft_part(context: Context, stage: Stage, model: TaskModel, side: Side, chosen: np.ndarray, folder: Path) -> Part:
    """The chosen examples of the target's or the source's text, with what the teacher says of them."""
    store = text_of_side(context.data, stage, side)
    view = ItemView(store, context.config.selftrain.soft.positions if store.task == "ner" else "first")
    warn_of_unseen(context, store, side, str(stage.target) if side == "target" else context.config.source.language)
    targets = _soft_targets(context, stage, view, side, chosen, folder / SOFT_LABELS_OF[side])
    examples = chosen[np.diff(view.offsets)[chosen] > 0]
    return Part(view, examples, soft_targets=targets)


def _soft_targets(
    context: Context, stage: Stage, view: ItemView, side: Side, chosen: np.ndarray, path: Path
) -> np.ndarray:
    """Teacher outputs for every item of the chosen examples, computed once per round in evaluation mode, and stored."""
    name, items = teachers_name(context, stage), int(view.offsets[-1])
    problem = context.processes.rank_zero_only(lambda: soft_label_problem(path, items, name))
    if problem is not None:
        if problem != MISSING:
            context.warn(damaged(path, problem))
        context.progress.note(f"{stage.id}: the teacher labels {len(chosen)} {side} examples")
        table = context.config.selftrain.soft
        ask = partial(teacher_targets, loss=table.loss, target=table.target)
        data = packed_soft_labels(teach(context, stage, view, side, chosen, ask), table.stored, name)
        context.processes.rank_zero_only(lambda: atomic_write_bytes(path, data))
    return read_soft_labels(context.processes.visible(path))


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
    table = context.config.selftrain.hard
    labeller = context.load_task_model(stage, "student" if "student" in stage.inputs else "teacher")
    decided = FILES.exist(context, folder)
    if not decided:
        decision = decide_round(context, stage, labeller)
        context.processes.rank_zero_only(lambda: _write_decision(context, folder, decision))
    record = FILES.read(context, folder)
    if decided:
        context.restore_warnings(record["warnings"])
    saved = load_file(folder / DECISION)
    model = labeller if "student" in stage.inputs and table.start == "student" else _fresh_student(context, stage)
    freeze(model.encoder, table)
    start = tensors_hash(dict(model.encoder.named_parameters()))
    parts = _hard_parts(context, stage, saved)
    batches = TaskBatches(
        parts,
        batch_size=table.batch_size,
        epochs=table.epochs,
        seed=stage_seed(stage, "batches"),
        balance="up" if table.mix == "balanced" else "none",
        sort=table.order == "sorted",
        micro_batch=context.processes.micro_batch(table.fixed_micro_batch, table.batch_size),
    )
    seed = stage_seed(stage, "fit")
    trace, spent, best = fit_jointly(context, stage, fingerprint, model, batches, cross_entropy, seed=seed)
    kept, used = (len(part.examples) for part in parts)
    removed = len(context.data.source_train) - kept
    notes = {"accepted": record["accepted"], "removed": removed, "source_examples": kept, "target_examples": used}
    alpha = "no filter" if record["alpha"] is None else f"alpha {record['alpha']:.3f}"
    line = f"{alpha}, {record['accepted']} of {record['items']} items accepted, {removed} source examples removed"
    return Outcome(model, trace, spent, start, notes | {"alpha": record["alpha"]} | best, line)


def _write_decision(context: Context, folder: Path, decision: RoundDecision) -> None:
    atomic_write_text(folder / CURVE, curve_csv(decision.record))
    FILES.write(folder, decision.record, save(decision.arrays), warnings=context.warnings_as_json())


def curve_csv(record: Mapping[str, Any]) -> str:
    """The threshold curve of a `decision.json` as CSV, a line per threshold, as Figure 2 of the paper draws it.

    Numbers have all their digits; a cell is empty where a value is not defined. Where the target has a labelled test
    file, its values at the same thresholds follow in columns named `target_...`.
    """
    source, target = record["curve"], record["target_curve"]
    columns = {"threshold" if name == "thresholds" else name: values for name, values in source.items()}
    if target is not None:
        columns |= {f"target_{name}": values for name, values in target.items() if name != "thresholds"}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _hard_parts(context: Context, stage: Stage, saved: Mapping[str, np.ndarray]) -> list[Part]:
    """Kept source with its labels, and target examples that have at least one accepted label."""
    source, target = context.data.source_train, context.data.target_pool(context.config.target(stage.target))
    view, targets = ItemView(target), saved["target.targets"]
    accepted = np.diff(np.concatenate([[0], np.cumsum(targets >= 0)])[view.offsets]) > 0
    labels, table = np.asarray(source.item_labels), context.config.selftrain.hard
    by_source = by_target = None
    if (table.source_weight, table.target_weight) != (1.0, 1.0):
        by_source = np.full(len(labels), table.source_weight, np.float32)
        by_target = np.full(len(targets), table.target_weight, np.float32)
    return [
        Part(ItemView(source), np.flatnonzero(saved["source.keep"]), labels=labels, weights=by_source),
        Part(view, np.flatnonzero(accepted), labels=targets, weights=by_target),
    ]


def _fresh_student(context: Context, stage: Stage) -> TaskModel:
    """The restored encoder with fresh voters."""
    return new_task_model(context, stage, "voters", "start" if "start" in stage.inputs else "base")
