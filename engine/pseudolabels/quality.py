"""How good a decision's pseudo-labels are: acceptance per class, reasons, calibration (for reports)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...data import OUTSIDE
from ...data.store.store import IGNORE
from ..evaluation.metrics import as_array
from .filters import Bools, Decision, Ints, Votes
from .thresholds import count_above

if TYPE_CHECKING:
    import torch

BINS = 10
"""Equal parts of [0, 1] in which confidence is compared with accuracy."""


@dataclass(frozen=True)
class Acceptance:
    """Counts of a group of items; precision is None without gold labels or without accepted items (shares 0-1)."""

    predicted: int
    accepted: int
    coverage: float
    correct: int | None
    precision: float | None
    gold: int | None


@dataclass(frozen=True)
class PseudoLabelQuality:
    """What a decision accepted, and how good it is where gold labels are known.

    Attributes:
        overall, entity, outside: acceptance of all items, of those predicted as entities and of those predicted `O`;
            the last two are None for tasks without `O`.
        reasons: items per reason.
        per_class: acceptance by predicted class.
        by_threshold: thresholds, and per class how many items each would keep, and how many of them rightly.
    """

    overall: Acceptance
    entity: Acceptance | None
    outside: Acceptance | None
    reasons: dict[str, int]
    per_class: dict[str, Acceptance]
    by_threshold: dict[str, Any]


def pseudo_label_quality(
    votes: Votes,
    decision: Decision,
    labels: Sequence[str],
    *,
    gold: ArrayLike | torch.Tensor | None = None,
    thresholds: ArrayLike,
) -> PseudoLabelQuality:
    """Summary of a decision for the report.

    Args:
        labels: names of the `C` classes.
        gold: true label per item `[K]`, for measuring only; -100 where unknown.
        thresholds: thresholds to tabulate per class.
    """
    keep, label = decision.keep, decision.label
    truth = None if gold is None else as_array(gold)
    confidence, agree = as_array(votes.min_confidence), as_array(votes.agree).astype(bool)

    def acceptance(classes: Sequence[int]) -> Acceptance:
        return _acceptance(keep, label, truth, classes)

    outside = [i for i, name in enumerate(labels) if name == OUTSIDE]
    entity = [i for i, name in enumerate(labels) if name != OUTSIDE]
    return PseudoLabelQuality(
        overall=acceptance(range(len(labels))),
        entity=acceptance(entity) if outside else None,
        outside=acceptance(outside) if outside else None,
        reasons=decision.reasons(),
        per_class={name: acceptance([index]) for index, name in enumerate(labels)},
        by_threshold=_by_threshold(confidence, agree, label, truth, labels, thresholds),
    )


def _acceptance(keep: Bools, label: Ints, truth: NDArray[Any] | None, classes: Sequence[int]) -> Acceptance:
    inside = np.isin(label, classes)
    taken = inside & keep
    predicted, accepted = int(inside.sum()), int(taken.sum())
    coverage = accepted / predicted if predicted else 0.0
    if truth is None:
        return Acceptance(predicted, accepted, coverage, None, None, None)
    known = taken & (truth != IGNORE)
    correct, judged = int((known & (label == truth)).sum()), int(known.sum())
    gold = int(np.isin(truth, classes).sum())
    return Acceptance(predicted, accepted, coverage, correct, correct / judged if judged else None, gold)


def calibration_bins(confidence: NDArray[Any], right: Bools) -> list[dict[str, float | int]]:
    """Mean confidence, accuracy and count of each part of [0, 1], `low < p <= high`, that is not empty."""
    known = np.isfinite(confidence)
    values = confidence[known].astype(np.float64)
    place = np.clip(np.digitize(values, np.linspace(0.0, 1.0, BINS + 1), right=True) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums, hits = np.bincount(place, values, BINS), np.bincount(place, right[known], BINS)
    return [
        {"confidence": float(sums[i] / count[i]), "accuracy": float(hits[i] / count[i]), "count": int(count[i])}
        for i in np.flatnonzero(count)
    ]


def _by_threshold(
    confidence: NDArray[Any],
    agree: Bools,
    label: Ints,
    truth: NDArray[Any] | None,
    labels: Sequence[str],
    thresholds: ArrayLike,
) -> dict[str, Any]:
    grid = np.asarray(thresholds, dtype=np.float64)
    usable = agree & np.isfinite(confidence)

    def counts(items: Bools) -> dict[str, list[int]]:
        return {name: count_above(confidence[items & (label == i)], grid).tolist() for i, name in enumerate(labels)}

    return {
        "thresholds": grid.tolist(),
        "kept": counts(usable),
        "correct": None if truth is None else counts(usable & (label == truth)),
    }
