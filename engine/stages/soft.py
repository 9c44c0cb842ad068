"""The soft stage of self-training: a fresh student on the restored base learns the teacher's probabilities."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from ...data import ItemView, Part, TaskBatches, TokenStore
from ...kernels import votes
from ...model import TaskModel
from ...tasks import per_word
from ..evaluation.inference import predict_items
from ..plan import Stage
from ..pseudolabels.diagnostics import single_voter, slow_learning_rate
from ..recipe.config import RunConfig
from ..training.objectives import soft_labels
from .against_teacher import SAMPLE, against_teacher
from .context import Context
from .decision_files import SOFT_LABELS
from .kind import VOTERS, StageKind, StageRun, Training, register_kind
from .models import new_task_model, warn_of_unseen
from .pool import POOL, correction, load_pool, pool_store, pool_tokens, target_examples


class Soft(StageKind):
    """Eq. 1 of arXiv 2310.04726: the distance to the teacher's probabilities on the unlabelled target text."""

    name = "soft"
    tables = (*VOTERS, *POOL, "inference_tokens", "selftrain.soft")
    chosen_by = ("selftrain",)

    def also(self, config: RunConfig, stage: Stage) -> list[str]:
        return ["selftrain.abandoned"] if stage.round > 1 else []

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return {"source": context.data.source_train, "target": pool_store(context, stage)}

    def build(self, run: StageRun) -> Training:
        context, stage = run.context, run.stage
        model = fresh_student(context, stage)
        text, labels = _labelled_text(run, load_pool(context, stage).target)
        batches = run.task_batches([text])
        rate = stage.training.head_lr or stage.training.lr
        context.warn(single_voter(context.config.selftrain.voters), slow_learning_rate(rate, len(batches)))
        count = len(text.examples)
        notes: dict[str, Any] = {"examples": count, "voters": model.head.num_voters}
        if (several := len(teachers(stage))) > 1:
            notes["teachers"] = several
        return Training(
            model,
            batches,
            soft_labels,
            notes,
            lambda trace: f"{count} examples with soft labels",
            lambda trace: against_teacher(run, model, text.view, text.examples, labels.argmax(axis=-1)),
        )

    def batches(self, run: StageRun) -> TaskBatches:
        store, examples = target_examples(run.context, run.stage)
        return run.task_batches([Part(ItemView(store), examples)])

    def at_most(self, context: Context, stage: Stage) -> bool:
        return stage.round > 1 and context.config.selftrain.abandoned == "drop"

    def reads(self, context: Context, stage: Stage) -> list[int]:
        labelled = [pool_tokens(context, stage)] * len(teachers(stage))
        return [*labelled, pool_tokens(context, stage, SAMPLE)]


def fresh_student(context: Context, stage: Stage) -> TaskModel:
    """The restored encoder with fresh voters."""
    return new_task_model(context, stage, "voters", "start" if "start" in stage.inputs else "base")


def _labelled_text(run: StageRun, chosen: np.ndarray) -> tuple[Part, np.ndarray]:
    """The chosen examples of the target's text, and the teacher's soft labels of its items, float32 [items, C]."""
    context, stage = run.context, run.stage
    store = pool_store(context, stage)
    view = ItemView(store, context.config.selftrain.soft.positions if per_word(store.task) else "first")
    warn_of_unseen(context, store, "target", str(stage.pair))
    if (decided := run.decided(SOFT_LABELS)) is None:
        context.progress.note(f"{stage.id}: the teacher labels {len(chosen)} target examples")
        said, labels = len(context.warnings), teach(context, stage, view, chosen)
        correct = correction(context, view.store)
        data = save({"targets": labels if correct is None else correct(labels)})
        decided = run.keep(SOFT_LABELS, {"teachers": [stage.inputs[role] for role in teachers(stage)]}, data, said)
    labels = load_file(decided[1])["targets"]
    return Part(view, chosen[np.diff(view.offsets)[chosen] > 0], soft_targets=labels), labels


def teachers(stage: Stage) -> list[str]:
    """The roles of a soft stage's teachers, in the order of their seeds."""
    seeds = stage.options.get("teacher_seeds", [stage.seed])
    return ["teacher" if seed == stage.seed else f"teacher-{seed}" for seed in seeds]


def teach(context: Context, stage: Stage, view: ItemView, pool: np.ndarray) -> np.ndarray:
    """The mean of all teachers' probabilities, float32 [items, C]; each teacher is loaded, asked, and dropped.

    Args:
        view: the items of `pool_store`.
        pool: the examples to label.
    """
    roles = teachers(stage)
    models = (context.load_task_model(stage, role) for role in roles)
    said = (
        predict_items(model, view, lambda logits: votes(logits).mean_probability, pool, **context.passes).numpy()
        for model in models
    )
    mean: np.ndarray = reduce(np.add, said) / np.float32(len(roles))
    return mean


register_kind(Soft())
