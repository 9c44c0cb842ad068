"""What hidden labels say about the decisions of a run, by scipy's statistics: pure functions of arrays.

A share is a dict with `right`, `of` and `value` (None where `of` is 0). Intervals are 95 %: Wilson's for shares, else
percentiles of a bootstrap over sentences.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap, hypergeom

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Json = dict[str, Any]

DRAWS = 1000


@dataclass(frozen=True)
class RoundItems:
    """The words of the target that one round decided on, all `[K]`.

    Attributes:
        item: position on the store's item axis.
        example: the sentence of each.
        teacher, teacher_confidence: the class that the round's teacher gave, and its probability.
        label, agree, confidence: the voters' class, whether they agree, and the lowest of their confidences.
        kept: accepted by the filter.
        outside: the class `O`. Most words have it, and easily: what is counted are labels of other classes.
    """

    item: Ints
    example: Ints
    gold: Ints
    teacher: Ints
    teacher_confidence: Floats
    label: Ints
    agree: Bools
    confidence: Floats
    kept: Bools
    outside: int


def share(right: int, of: int) -> Json:
    """A fraction with what it is made of."""
    return {"right": int(right), "of": int(of), "value": right / of if of else None}


def with_interval(right: int, of: int) -> Json:
    """A share with its interval."""
    if not of:
        return share(right, of) | {"interval": None}
    found = binomtest(int(right), int(of)).proportion_ci(0.95, method="wilson")
    return share(right, of) | {"interval": [float(found.low), float(found.high)]}


def resampled(statistic: Callable[..., Any], columns: Sequence[NDArray[Any]], seed: int) -> list[float] | None:
    """Interval of a statistic of columns whose rows are drawn together; None where no draw gives it."""
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        # A draw without any removed sentence has no lift: such draws are left out.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            [column.astype(np.float64) for column in columns],
            statistic,
            n_resamples=DRAWS,
            batch=50,
            paired=True,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    drawn = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
    return [float(limit) for limit in np.quantile(drawn, [0.025, 0.975])] if len(drawn) else None


def label_quality(items: RoundItems, seed: int) -> Json:
    """How right the labels of teacher and student are, and those that were accepted."""
    mine, theirs = items.label != items.outside, items.teacher != items.outside
    right, correct, kept = items.label == items.gold, items.teacher == items.gold, items.kept & mine
    # As many of the teacher's labels as were accepted: being choosy alone raises precision.
    order = np.flatnonzero(theirs)[np.argsort(-items.teacher_confidence[theirs], kind="stable")]
    top = np.zeros_like(theirs)
    top[order[: int(kept.sum())]] = True
    parts = {
        "student": (right, mine),
        "accepted": (right, kept),
        "teacher": (correct, theirs),
        "teacher_most_confident": (correct, top),
    }
    return {name: share(int((good & chosen).sum()), int(chosen.sum())) for name, (good, chosen) in parts.items()} | {
        "gain": difference(items.example, (right, kept), (correct, theirs), seed),
        "gain_same_count": difference(items.example, (right, kept), (correct, top), seed),
    }


def difference(example: Ints, one: tuple[Bools, Bools], other: tuple[Bools, Bools], seed: int) -> Json | None:
    """Precision of the first (right, chosen) minus that of the second."""
    if not (one[1].any() and other[1].any()):
        return None
    number = np.unique(example, return_inverse=True)[1]
    flags = (one[0] & one[1], one[1], other[0] & other[1], other[1])
    columns = [np.bincount(number, flag.astype(np.float64)) for flag in flags]

    def minus(a: Floats, b: Floats, c: Floats, d: Floats, axis: int = -1) -> Any:
        return a.sum(axis) / b.sum(axis) - c.sum(axis) / d.sum(axis)

    return {"value": float(minus(*columns)), "interval": resampled(minus, columns, seed)}


def noise_filter(noisy: Bools, in_play: Bools, removed: Bools, seed: int) -> Json:
    """What removal of source sentences has to do with the errors that were planted in their labels, all `[N]`.

    `p_value` is the chance to remove so many wrong sentences blindly; `lift` is precision over the share of wrong ones.
    """
    wrong, gone = noisy[in_play], removed[in_play]
    hits, total, marked, drawn = (int(x.sum()) for x in (wrong & gone, in_play, wrong, gone))

    def lift(both: Floats, gone: Floats, wrong: Floats, axis: int = -1) -> Any:
        return both.sum(axis) / gone.sum(axis) / wrong.mean(axis)

    columns = [wrong & gone, gone, wrong]
    defined = bool(drawn and marked)
    return {
        "in_play": total,
        "noisy": marked,
        "removed": drawn,
        "precision": with_interval(hits, drawn),
        "recall": with_interval(hits, marked),
        "clean_dropped": with_interval(drawn - hits, total - marked),
        "lift": float(lift(*columns)) if defined else None,
        "lift_interval": resampled(lift, columns, seed) if defined else None,
        "p_value": float(hypergeom.sf(hits - 1, total, marked, drawn)),
    }


def repeated_errors(before: RoundItems, after: RoundItems) -> Json:
    """Of the wrong labels accepted in one round, the share that the next one accepts again."""
    wrong = before.kept & (before.label != before.gold)
    again = dict(zip(after.item[after.kept].tolist(), after.label[after.kept].tolist(), strict=True))
    pairs = zip(before.item[wrong].tolist(), before.label[wrong].tolist(), strict=True)
    return share(sum(again.get(i) == label for i, label in pairs), int(wrong.sum()))


def alpha_regret(items: RoundItems, alpha: float, thresholds: Sequence[float]) -> Json:
    """How much worse alpha is than the best threshold of the grid, by the hidden labels.

    The measure is F1 of the accepted labels: the harmonic mean of their precision and of the share of the entities'
    words that get a right label.
    """
    usable = items.agree & (items.label != items.outside)
    confidence, right = items.confidence[usable], (items.label == items.gold)[usable]
    total = int((items.gold != items.outside).sum())

    def f1(threshold: float) -> float:
        kept = confidence > np.asarray(threshold, dtype=confidence.dtype)
        return float(2 * (kept & right).sum() / max(1, kept.sum() + total))

    scores, at_alpha = [f1(threshold) for threshold in thresholds], f1(alpha)
    best = int(np.argmax(scores))
    regret = max(0.0, scores[best] - at_alpha)
    return {"f1": at_alpha, "oracle": float(thresholds[best]), "oracle_f1": scores[best], "regret": regret}
