"""What a truth world's hidden labels say about the decisions of a run: pure functions of arrays (docs/truth-world.md).

Shares are dicts with `right`, `of` and `value` (None where `of` is 0), intervals are 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pseudolabels.thresholds import count_above

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Json = dict[str, Any]

DRAWS = 1000
_Z = 1.959963984540054


@dataclass(frozen=True)
class RoundItems:
    """The target items that one round decided on and whose gold label is known, all `[K]`.

    Attributes:
        item: position on the store's item axis.
        example: the sentence or text of each.
        teacher, teacher_confidence: the class that the round's teacher gave, and its probability; None where the
            teacher's labels were not kept.
        label, agree, confidence: the voters' class, whether they agree, and the lowest of their confidences.
        kept: accepted by the filter.
    """

    item: Ints
    example: Ints
    gold: Ints
    teacher: Ints | None
    teacher_confidence: NDArray[np.float64] | None
    label: Ints
    agree: Bools
    confidence: NDArray[np.float32]
    kept: Bools


def share(right: int, of: int) -> Json:
    """A fraction with what it is made of."""
    return {"right": int(right), "of": int(of), "value": right / of if of else None}


def wilson(right: int, of: int) -> list[float] | None:
    """The score interval of a share (Wilson 1927)."""
    if not of:
        return None
    p, z2 = right / of, _Z * _Z
    middle, half = p + z2 / (2 * of), _Z * math.sqrt(p * (1 - p) / of + z2 / (4 * of * of))
    return [max(0.0, (middle - half) / (1 + z2 / of)), min(1.0, (middle + half) / (1 + z2 / of))]


def at_least(hits: int, marked: int, drawn: int, total: int) -> float:
    """Chance that `drawn` of `total`, drawn blindly, hold `hits` or more of the `marked` ones (hypergeometric)."""
    ways = sum(math.comb(marked, k) * math.comb(total - marked, drawn - k) for k in range(hits, min(marked, drawn) + 1))
    return ways / math.comb(total, drawn)


def label_quality(items: RoundItems, outside: int | None, seed: int) -> Json:
    """How right the labels of teacher and student are, and those that were accepted.

    Args:
        outside: the class `O` of a tagging task; labels of other classes are then counted apart, under `entity`.
    """
    quality = _quality(items, np.ones_like(items.kept), np.ones_like(items.kept), seed)
    if outside is not None:
        mine = items.label != outside
        theirs = mine if items.teacher is None else items.teacher != outside
        quality["entity"] = _quality(items, mine, theirs, seed)
    return quality


def _quality(items: RoundItems, mine: Bools, theirs: Bools, seed: int) -> Json:
    """Precision of the student's labels among `mine` and of the teacher's among `theirs`."""
    right, kept = items.label == items.gold, items.kept & mine
    quality: Json = {
        "student": share(int((right & mine).sum()), int(mine.sum())),
        "accepted": share(int((right & kept).sum()), int(kept.sum())),
        "teacher": None,
        "teacher_most_confident": None,
        "gain": None,
        "gain_same_count": None,
    }
    if items.teacher is None or items.teacher_confidence is None:
        return quality
    correct = items.teacher == items.gold
    # As many of the teacher's labels as were accepted: being choosy alone raises precision.
    order = np.flatnonzero(theirs)[np.argsort(-items.teacher_confidence[theirs], kind="stable")]
    top = np.zeros_like(theirs)
    top[order[: int(kept.sum())]] = True
    return quality | {
        "teacher": share(int((correct & theirs).sum()), int(theirs.sum())),
        "teacher_most_confident": share(int((correct & top).sum()), int(top.sum())),
        "gain": difference(items.example, (right, kept), (correct, theirs), seed),
        "gain_same_count": difference(items.example, (right, kept), (correct, top), seed),
    }


def difference(example: Ints, one: tuple[Bools, Bools], other: tuple[Bools, Bools], seed: int) -> Json | None:
    """Precision of the first (right, chosen) minus that of the second, with a bootstrap over sentences."""
    columns = (one[0] & one[1], one[1], other[0] & other[1], other[1])
    number = np.unique(example, return_inverse=True)[1]
    table = np.stack([np.bincount(number, c.astype(np.float64)) for c in columns], axis=1)
    if not (table[:, 1].sum() and table[:, 3].sum()):
        return None
    rng = np.random.default_rng(seed)
    size = len(table)
    sums = rng.multinomial(size, np.full(size, 1 / size), size=DRAWS) @ table
    sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
    low, high = np.quantile(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], [0.025, 0.975])
    total = table.sum(axis=0)
    return {"value": float(total[0] / total[1] - total[2] / total[3]), "interval": [float(low), float(high)]}


def noise_filter(noisy: Bools, in_play: Bools, removed: Bools, seed: int) -> Json:
    """What removal of source examples has to do with the errors that were planted in their labels, all `[N]`."""
    wrong, gone = noisy & in_play, removed & in_play
    hits, total, marked, drawn = (int(x.sum()) for x in (wrong & gone, in_play, wrong, gone))
    base, clean = (marked / total if total else 0.0), total - marked
    precision, dropped = share(hits, drawn), share(drawn - hits, clean)
    lift = precision["value"] / base if drawn and base else None
    return {
        "in_play": total,
        "noisy": marked,
        "removed": drawn,
        "precision": precision | {"interval": wilson(hits, drawn)},
        "recall": share(hits, marked) | {"interval": wilson(hits, marked)},
        "clean_dropped": dropped | {"interval": wilson(drawn - hits, clean)},
        "base_rate": base,
        "lift": lift,
        "lift_interval": _lift_interval(wrong[in_play], gone[in_play], seed) if lift is not None else None,
        "p_value": at_least(hits, marked, drawn, total) if total else None,
    }


def _lift_interval(wrong: Bools, gone: Bools, seed: int) -> list[float]:
    """Percentiles of the lift over draws of examples; the four kinds of examples are drawn as a multinomial."""
    cells = np.array([(wrong & gone).sum(), (wrong & ~gone).sum(), (~wrong & gone).sum(), (~wrong & ~gone).sum()])
    size = int(cells.sum())
    both, kept, clean, _ = np.random.default_rng(seed).multinomial(size, cells / size, size=DRAWS).T
    usable = (both + clean > 0) & (both + kept > 0)
    lifts = (both / np.maximum(1, both + clean)) / (np.maximum(1, both + kept) / size)
    low, high = np.quantile(lifts[usable], [0.025, 0.975])
    return [float(low), float(high)]


def repeated_errors(before: RoundItems, after: RoundItems) -> Json:
    """Of the wrong labels accepted in one round, the share that the next one accepts again."""
    wrong = before.kept & (before.label != before.gold)
    again = dict(zip(after.item[after.kept].tolist(), after.label[after.kept].tolist(), strict=True))
    pairs = zip(before.item[wrong].tolist(), before.label[wrong].tolist(), strict=True)
    return share(sum(again.get(i) == label for i, label in pairs), int(wrong.sum()))


def alpha_regret(
    items: RoundItems,
    alpha: float,
    thresholds: Sequence[float],
    source_accuracy: Sequence[float | None],
    outside: int | None,
) -> Json:
    """How much worse alpha is than the best threshold of the grid, by the hidden labels.

    The measure is F1 of the accepted labels: the harmonic mean of their precision and of the share of the items that
    get a right label; under `entity` (tagging) labels and items `O` are left out.

    Args:
        source_accuracy: the source's accuracy curve over the thresholds, None where undefined.
    """
    grid, every = np.asarray(thresholds, dtype=np.float64), np.ones_like(items.kept)
    usable = items.agree & np.isfinite(items.confidence)
    regret = _regret(items, usable, every, len(items.gold), alpha, grid)
    kept = count_above(items.confidence[usable], grid)
    right = count_above(items.confidence[usable & (items.label == items.gold)], grid)
    pairs = zip(source_accuracy, kept.tolist(), right.tolist(), strict=True)
    distances = [abs(a - r / k) for a, k, r in pairs if a is not None and k]
    regret["curve_distance"] = sum(distances) / len(distances) if distances else None
    if outside is not None:
        entity = items.label != outside
        regret["entity"] = _regret(items, usable, entity, int((items.gold != outside).sum()), alpha, grid)
    return regret


def _regret(
    items: RoundItems, usable: Bools, chosen: Bools, total: int, alpha: float, grid: NDArray[np.float64]
) -> Json:
    def f1(limits: NDArray[np.float64]) -> NDArray[np.float64]:
        taken = usable & chosen
        kept = count_above(items.confidence[taken], limits)
        right = count_above(items.confidence[taken & (items.label == items.gold)], limits)
        return 2.0 * right / np.maximum(1, kept + total)

    scores, at_alpha = f1(grid), float(f1(np.array([alpha]))[0])
    best = int(np.argmax(scores))
    return {
        "f1": at_alpha,
        "oracle": float(grid[best]),
        "oracle_f1": float(scores[best]),
        "regret": max(0.0, float(scores[best]) - at_alpha),
        "oracle_at_edge": best in (0, len(grid) - 1),
    }
