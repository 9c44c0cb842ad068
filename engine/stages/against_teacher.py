"""What a student says of unlabelled target text beside what it was taught: how a collapse is seen without labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...data import OUTSIDE, ItemView
from ...kernels import votes
from ...model import TaskModel, load_task_model
from ..evaluation.collapse import collapses
from ..evaluation.inference import predict_items
from ..storage.files import read_json
from ..storage.names import FINISHED
from .kind import StageRun
from .pool import by_target

SAMPLE = 400
"""Examples of a target that are looked at, evenly spread."""


def against_teacher(
    run: StageRun, model: TaskModel, view: ItemView, examples: np.ndarray, taught: np.ndarray
) -> dict[str, Any]:
    """`against_teacher` for `stage.json` (docs/summary-schema.md), from one pass over a sample of each target.

    Args:
        examples: int64 [n], the unlabelled examples that the stage drew.
        taught: int64 [items of the view], the class that the teacher names; negative where it names none.
    """
    context, texts = run.context, by_target(view.store, examples)
    samples = [t[np.unique(np.linspace(0, len(t) - 1, min(SAMPLE, len(t))).astype(np.int64))] for t in texts]
    sample = np.concatenate(samples)
    predicted = _classes(run, model, view, sample)
    fallen, sound = _last_sound(run)
    beside = _classes(run, load_task_model(context.folder(sound)).to(context.device), view, sample) if fallen else None
    labels = context.data.labels
    outside = labels.index(OUTSIDE) if OUTSIDE in labels else -1

    def figures(part: np.ndarray) -> dict[str, Any]:
        of_part = np.repeat(np.isin(np.arange(len(view.offsets) - 1), part), np.diff(view.offsets)) & (taught >= 0)
        found = {"examples": len(part), **compare(predicted[of_part], taught[of_part], outside)}
        if beside is not None:
            agreement = compare(predicted[of_part], beside[of_part], outside)["agreement"]
            found["last_sound"] = {"stage": sound, "agreement": agreement}
        return found

    record = figures(sample)
    if len(samples) > 1:
        record["targets"] = {t: figures(part) for t, part in zip(run.stage.targets, samples, strict=True)}
    return {"against_teacher": record}


def _classes(run: StageRun, model: TaskModel, view: ItemView, sample: np.ndarray) -> np.ndarray:
    """int64 [items of the view], the class that a model gives each item of the sample."""
    found = predict_items(
        model,
        view,
        lambda logits: votes(logits).mean_probability.argmax(dim=-1, keepdim=True),
        sample,
        width=1,
        **run.context.passes,
    )
    return found[:, 0].long().numpy()


def _last_sound(run: StageRun) -> tuple[bool, str]:
    """Whether the stage's teacher has collapsed, and the id of the last sound model before it, or of the first."""
    chain, students, teacher = list[str](), list[dict[str, Any]](), run.stage.inputs["teacher"]
    while teacher:
        record = read_json(run.context.folder(teacher) / FINISHED)
        chain.insert(0, teacher)
        students.insert(0, record.get("against_teacher") or {})
        teacher = (record.get("inputs") or {}).get("teacher", "")
    found = collapses(chain[0], students[1:])
    return bool(found[-1]), chain[max((i for i, why in enumerate(found) if not why), default=0)]


def compare(student: np.ndarray, teacher: np.ndarray, outside: int) -> dict[str, Any]:
    """Two models' classes of the same items, int64 [K]: how many each names, how one-sided it is, how far they agree.

    Args:
        outside: the class that names nothing (`O` in tagging), -1 where every class does.
    """
    named, by_teacher = student != outside, teacher != outside
    return {
        "items": len(student),
        "rate": _rate(named),
        "teacher_rate": _rate(by_teacher),
        "largest": _largest(student[named]),
        "teacher_largest": _largest(teacher[by_teacher]),
        "agreement": _rate(student[by_teacher] == teacher[by_teacher]),
    }


def _rate(mask: np.ndarray) -> float | None:
    return float(mask.mean()) if len(mask) else None


def _largest(classes: np.ndarray) -> float | None:
    """The share of the class that is named most."""
    return float(np.bincount(classes).max() / len(classes)) if len(classes) else None
