"""What a student says of unlabelled target text beside what it was taught: how a collapse is seen without labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...data import OUTSIDE, ItemView
from ...kernels import votes
from ...model import TaskModel
from ..evaluation.inference import predict_items
from .context import Context

SAMPLE = 400
"""Examples that are looked at, evenly spread."""


def against_teacher(
    context: Context, model: TaskModel, view: ItemView, examples: np.ndarray, taught: np.ndarray
) -> dict[str, Any]:
    """`against_teacher` for `stage.json` (docs/summary-schema.md), from one pass over a sample.

    Args:
        examples: int64 [n], the unlabelled examples that the stage drew.
        taught: int64 [items of the view], the class that the teacher names; negative where it names none.
    """
    sample = examples[np.unique(np.linspace(0, len(examples) - 1, min(SAMPLE, len(examples))).astype(np.int64))]
    predicted = predict_items(
        model,
        view,
        lambda logits: votes(logits).mean_probability.argmax(dim=-1, keepdim=True),
        sample,
        width=1,
        **context.passes,
    )[:, 0].long()
    of_sample = np.repeat(np.isin(np.arange(len(view.offsets) - 1), sample), np.diff(view.offsets)) & (taught >= 0)
    labels = context.data.labels
    outside = labels.index(OUTSIDE) if OUTSIDE in labels else -1
    record = compare(predicted.numpy()[of_sample], taught[of_sample], outside)
    return {"against_teacher": {"examples": len(sample), **record}}


def compare(student: np.ndarray, teacher: np.ndarray, outside: int) -> dict[str, Any]:
    """Two models' classes of the same items, int64 [K]: how many each names, how one-sided it is, how far they agree.

    Args:
        outside: the class that names nothing (`O` in tagging), -1 where every class does.
    """
    named, by_teacher = student != outside, teacher != outside
    return {
        "items": len(student),
        "rate": _share(named),
        "teacher_rate": _share(by_teacher),
        "largest": _largest(student[named]),
        "teacher_largest": _largest(teacher[by_teacher]),
        "agreement": _share(student[by_teacher] == teacher[by_teacher]),
    }


def _share(mask: np.ndarray) -> float | None:
    return float(mask.mean()) if len(mask) else None


def _largest(classes: np.ndarray) -> float | None:
    """The share of the class that is named most."""
    return float(np.bincount(classes).max() / len(classes)) if len(classes) else None
