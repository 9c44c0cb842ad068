"""How good a decision's pseudo-labels are: acceptance per class, calibration (for reports)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...data.store.store import IGNORE
from ..evaluation.metrics import as_array
from .filters import Bools, Decision, Ints, Votes
from .thresholds import count_above

BINS = 10
"""Equal parts of [0, 1] in which confidence is compared with accuracy."""


def class_counts(decision: Decision, labels: Sequence[str], gold: Ints | None = None) -> dict[str, dict[str, int]]:
    """By class: the `items` that are predicted so and how many of them are `accepted`.

    Args:
        labels: names of the `C` classes.
        gold: true label per item `[K]`, -100 where unknown. With it also how many of the accepted are `correct`, and
            the items of the class, `gold`.
    """
    label, keep = decision.label, decision.keep
    parts = {"items": label, "accepted": label[keep]}
    if gold is not None:
        parts |= {"correct": label[keep & (label == gold)], "gold": gold[gold != IGNORE]}
    counts = {name: np.bincount(part, minlength=len(labels)).tolist() for name, part in parts.items()}
    return {label: {name: each[i] for name, each in counts.items()} for i, label in enumerate(labels)}


def counts_by_threshold(
    votes: Votes, labels: Sequence[str], thresholds: ArrayLike, gold: Ints | None = None
) -> dict[str, Any]:
    """`thresholds`, and by predicted class how many items each would keep: `kept`, and those of them `correct`."""
    grid, label = np.asarray(thresholds, dtype=np.float64), as_array(votes.label)
    confidence = as_array(votes.min_confidence)
    usable = as_array(votes.agree).astype(bool) & np.isfinite(confidence)

    def counts(items: Bools) -> dict[str, list[int]]:
        return {name: count_above(confidence[items & (label == i)], grid).tolist() for i, name in enumerate(labels)}

    return {
        "thresholds": grid.tolist(),
        "kept": counts(usable),
        "correct": None if gold is None else counts(usable & (label == gold)),
    }


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
