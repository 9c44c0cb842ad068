"""How good a decision's pseudo-labels are: acceptance per class, reasons, calibration (for reports)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...data import OUTSIDE
from ...data.store.format import IGNORE
from ..evaluation.metrics import as_array
from .filters import Bools, Decision, Ints, Votes, reason_counts
from .thresholds import count_above

if TYPE_CHECKING:
    import torch


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
    """What a decision accepted, and how good it is where gold labels are known; `as_dict` gives JSON values.

    Attributes:
        overall, entity, outside: acceptance of all items, of those predicted as entities and of those predicted `O`;
            the last two are None for tasks without `O`.
        reasons: items per reason.
        per_class: acceptance by predicted class.
        dropped: per class, the items per reason other than `kept`.
        calibration: per bin of the highest mean probability, `low < p <= high`: count, mean confidence, accuracy.
        expected_calibration_error: mean distance of confidence and accuracy over the bins, weighted by count.
        by_threshold: thresholds, and per class how many items each would keep, and how many of them rightly.
    """

    overall: Acceptance
    entity: Acceptance | None
    outside: Acceptance | None
    reasons: dict[str, int]
    per_class: dict[str, Acceptance]
    dropped: dict[str, dict[str, int]]
    calibration: list[dict[str, float | int | None]]
    expected_calibration_error: float | None
    by_threshold: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return asdict(self)


def pseudo_label_quality(
    votes: Votes,
    decision: Decision,
    labels: Sequence[str],
    *,
    gold: ArrayLike | torch.Tensor | None = None,
    bins: int = 10,
    thresholds: ArrayLike | None = None,
) -> PseudoLabelQuality:
    """Summary of a decision for the report.

    Args:
        labels: names of the `C` classes.
        gold: true label per item `[K]`, for measuring only; -100 where unknown.
        bins: number of equal bins of [0, 1] for the calibration.
        thresholds: thresholds to tabulate per class.
    """
    keep, label = decision.keep, decision.label
    truth = None if gold is None else as_array(gold)
    confidence, agree = as_array(votes.min_confidence), as_array(votes.agree).astype(bool)

    def acceptance(classes: Sequence[int]) -> Acceptance:
        return _acceptance(keep, label, truth, classes)

    outside = [i for i, name in enumerate(labels) if name == OUTSIDE]
    entity = [i for i, name in enumerate(labels) if name != OUTSIDE]
    table, error = _calibration(as_array(votes.mean_probability).max(axis=-1), label, truth, bins)
    return PseudoLabelQuality(
        overall=acceptance(range(len(labels))),
        entity=acceptance(entity) if outside else None,
        outside=acceptance(outside) if outside else None,
        reasons=decision.reasons(),
        per_class={name: acceptance([index]) for index, name in enumerate(labels)},
        dropped={name: reason_counts(decision.reason[(label == i) & ~keep]) for i, name in enumerate(labels)},
        calibration=table,
        expected_calibration_error=error,
        by_threshold=None if thresholds is None else _by_threshold(confidence, agree, label, truth, labels, thresholds),
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


def calibration_bins(confidence: ArrayLike, right: ArrayLike, *, bins: int = 10) -> list[dict[str, float | int]]:
    """Mean confidence, accuracy and count of each equal bin of [0, 1] that is not empty."""
    values, hits = as_array(confidence), as_array(right).astype(np.int64)
    table, _ = _calibration(values, hits, np.ones_like(hits), bins)
    return [
        {"confidence": row["mean_confidence"], "accuracy": row["accuracy"], "count": int(row["count"] or 0)}
        for row in table
        if row["mean_confidence"] is not None and row["accuracy"] is not None
    ]


def _calibration(
    confidence: NDArray[Any], label: Ints, truth: NDArray[Any] | None, bins: int
) -> tuple[list[dict[str, float | int | None]], float | None]:
    known = np.isfinite(confidence) & (True if truth is None else truth != IGNORE)
    values = confidence[known].astype(np.float64)
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.digitize(values, edges, right=True) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    mean = np.bincount(place, values, bins) / np.maximum(1, count)
    right = None if truth is None else np.bincount(place, (label == truth)[known], bins) / np.maximum(1, count)
    table: list[dict[str, float | int | None]] = [
        {
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "count": int(count[i]),
            "mean_confidence": float(mean[i]) if count[i] else None,
            "accuracy": None if right is None or not count[i] else float(right[i]),
        }
        for i in range(bins)
    ]
    return table, None if right is None or not values.size else float(count @ np.abs(mean - right) / values.size)


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
