"""The confidence threshold alpha, chosen on labelled source data (arXiv 2310.04726, section 3.2).

Eq. 3 gives the accuracy of the predictions that meet a threshold t: `Acc(t) = correct(t) / kept(t)`, where an item is
kept when its voters agree and every confidence is strictly greater than t (Eq. 4). The paper then takes "the point of
the largest rate of accuracy changes", "or we can say [...] the greatest curvature", and prints `max(d2 Acc / dt2)`.
The three are not the same point, so that each has a rule of its own:

    second-difference   argmax of the signed second divided difference: the printed formula, and the default
    slope               argmax of the first divided difference: "largest rate of accuracy changes"
    abs2                argmax of the absolute second divided difference
    kappa               argmax of the curvature |y''| / (1 + y'^2)^1.5, both axes scaled to [0, 1]
    kneedle             the point farthest from the chord between the ends, both axes scaled to [0, 1] (Satopaa et al.
                        2011, without smoothing)
    precision:<p>       the lowest threshold whose accuracy is at least p, a share between 0 and 1
    fixed:<t>           t itself (Table 8; the -AT ablation)

What the paper calls recall is the coverage `kept / all`; `recall` here is `correct / all`. On a steep curve the grid
decides as much as the data does: look at `at_edge` and at the curve before trusting alpha.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import ConfigError
from ..evaluation.metrics import as_array
from ..storage.files import plain

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RULES = ("second-difference", "slope", "abs2", "kappa", "kneedle", "precision:<p>", "fixed:<t>")
"""The rules of this module; `register_rule` makes more of them known."""
MIN_KEPT = 20
"""Thresholds that keep fewer items are not considered: their accuracy is mostly noise."""
_FLAT = 1e-9  # below it, a difference of accuracies is rounding


@dataclass(frozen=True)
class Rule:
    """A parsed rule; `value` belongs to `precision` and `fixed` only."""

    name: str
    value: float | None = None

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}:{self.value:g}"


def parse_rule(text: str) -> Rule:
    """The rule that a recipe names, such as `second-difference` or `fixed:0.9`.

    Raises:
        ConfigError: unknown name (the nearest one is suggested), missing, superfluous or impossible value.
    """
    name, colon, number = text.strip().partition(":")
    takes_value = {rule.partition(":")[0]: ":" in rule for rule in (*RULES, *_REGISTERED)}
    if not takes_value[one_of(name, tuple(takes_value), "threshold rule")]:
        if colon:
            raise ConfigError(f"threshold rule {text!r}: {name!r} takes no value")
        return Rule(name)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not (0 < value <= 1 if name == "precision" else 0 <= value < 1):
        limits = "above 0 and at most 1" if name == "precision" else "at least 0 and below 1"
        raise ConfigError(f"threshold rule {text!r}: write {name}:<number>, a number {limits}")
    return Rule(name, value)


def register_rule(name: str, criterion: Criterion) -> None:
    """Makes a rule for alpha known: the threshold with the largest criterion, the lowest among equals.

    Args:
        name: as a recipe writes it in `selftrain.alpha.rule`.
        criterion: of a curve and of the thresholds that keep enough items, bool [A]: float64 [A], NaN where undefined.

    Raises:
        ConfigError: this module has a rule of that name.
    """
    if name in (rule.partition(":")[0] for rule in RULES) or ":" in name:
        raise ConfigError(f"threshold rule {name!r}: the name is taken, or has a colon; choose another")
    _REGISTERED[name] = criterion


def one_of(text: str, known: Sequence[str], what: str) -> str:
    """`text` if it is known; ConfigError with the nearest name otherwise."""
    if text in known:
        return text
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "use one of " + ", ".join(known)
    raise ConfigError(f"unknown {what} {text!r}: {hint}")


def uniform_grid(num_classes: int | None = None, *, step: float = 0.01, upper: float = 0.99) -> Floats:
    """Thresholds `[A]` from one step above `max(1 / num_classes, 0.5)` to `upper`, both included.

    No confidence of an argmax lies below 1 / C, and a grid that crosses this point picks its kink.
    """
    lower = max(1 / num_classes, 0.5) if num_classes else 0.5
    num = math.floor((upper - lower) / step + 1e-9) if step > 0 else 0
    if num < 1 or upper >= 1:
        raise ConfigError(f"no threshold between {lower:g} and {upper:g} (below 1) in steps of {step:g}")
    return np.round(lower + step * np.arange(1, num + 1), 12)


@dataclass(frozen=True)
class ThresholdCurve:
    """What each threshold keeps; all arrays are `[A]`, NaN where a value is not defined.

    `slope` and `second_difference` are defined at inner thresholds that, with both neighbours, keep enough items.
    """

    thresholds: Floats
    kept: Ints
    correct: Ints
    total: int
    total_correct: int | None
    accuracy: Floats
    coverage: Floats
    recall: Floats
    slope: Floats
    second_difference: Floats


Criterion = Callable[[ThresholdCurve, NDArray[np.bool_]], Floats]
_REGISTERED: dict[str, Criterion] = {}


@dataclass(frozen=True)
class ThresholdChoice:
    """The chosen threshold and how it came about.

    Attributes:
        alpha: keep an item when its confidence is strictly greater.
        rule: the rule as text.
        at_edge: alpha is the first (but for `precision`) or last threshold that the rule could have chosen: the grid
            decided, not the data.
        fallback: the rule had nothing to go by, and alpha is the lowest threshold.
        index: position of alpha in the grid; None where it is no grid point.
        reason: one sentence for reports.
        curve: what each threshold keeps.
        score: the rule's criterion `[A]`, NaN where it is not defined.
    """

    alpha: float
    rule: str
    at_edge: bool
    fallback: bool
    index: int | None
    reason: str
    curve: ThresholdCurve
    score: Floats

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values: arrays as lists, NaN as None."""
        return cast(dict[str, Any], plain(self))


def choose_threshold(
    confidence: ArrayLike | torch.Tensor,
    correct: ArrayLike | torch.Tensor,
    *,
    rule: str = "second-difference",
    grid: ArrayLike | None = None,
    num_classes: int | None = None,
    step: float = 0.01,
    upper: float = 0.99,
    min_kept: int = MIN_KEPT,
    min_share: float = 0.0,
    agree: ArrayLike | torch.Tensor | None = None,
) -> ThresholdChoice:
    """Alpha from the predictions on labelled items.

    Args:
        confidence: per item `[n]`, the lowest confidence among the voters. NaN is never kept.
        correct: per item `[n]`, whether the prediction is right.
        rule: see the module's head.
        grid: rising thresholds `[A]`; `uniform_grid(num_classes, step, upper)` when absent.
        min_kept: thresholds that keep fewer items, or a smaller share than `min_share` (0-1), are not considered.
        agree: per item `[n]`, whether the voters agree; the others are never kept, and count in the coverage.

    Raises:
        ConfigError: unknown rule, or a grid that is empty, not rising or outside [0, 1).
    """
    values, right = as_array(confidence), as_array(correct).astype(bool)
    usable = np.isfinite(values) if agree is None else np.isfinite(values) & as_array(agree).astype(bool)
    if values.shape != right.shape or usable.shape != right.shape or right.ndim != 1:
        raise ConfigError(f"confidence {values.shape}, correct {right.shape}: expected one value per item in each")
    thresholds = _checked_grid(uniform_grid(num_classes, step=step, upper=upper) if grid is None else grid)
    choice = choose_threshold_from_sweep(
        thresholds,
        count_above(values[usable], thresholds),
        count_above(values[usable & right], thresholds),
        total=right.size,
        total_correct=int(right.sum()),
        rule=rule,
        min_kept=min_kept,
        min_share=min_share,
    )
    median = float(np.median(values[usable])) if usable.any() else math.inf
    if not choice.fallback or choice.curve.kept[0] or not (values[usable] > median).any():
        return choice
    # A model of many classes may be right and never sure; the grid, which begins at one half, then has no threshold.
    reason = f"no confidence is above {thresholds[0]:g}, where the grid begins; the median of all keeps about half"
    return replace(choice, alpha=median, index=None, reason=reason)


def choose_threshold_from_sweep(
    thresholds: ArrayLike | torch.Tensor,
    kept: ArrayLike | torch.Tensor,
    correct: ArrayLike | torch.Tensor,
    *,
    total: int,
    total_correct: int | None = None,
    rule: str = "second-difference",
    min_kept: int = MIN_KEPT,
    min_share: float = 0.0,
) -> ThresholdChoice:
    """Alpha from counts per threshold `[A]`, which may be sums over batches.

    Args:
        kept: items whose voters agree with every confidence greater than the threshold.
        correct: those of them that are right.
        total: all items, the denominator of coverage and recall.
        total_correct: right items without any filter, for the record.

    Raises:
        ConfigError: as `choose_threshold`.
    """
    parsed = parse_rule(rule)
    grid, min_kept = _checked_grid(thresholds), max(1, min_kept, math.ceil(min_share * total))
    curve = _curve(grid, as_array(kept), as_array(correct), total, total_correct, min_kept)
    usable = curve.kept >= min_kept
    score = _criterion(parsed.name, curve, usable)
    if parsed.name == "fixed" and parsed.value is not None:
        at = np.flatnonzero(np.isclose(grid, parsed.value, rtol=0, atol=1e-12))
        index = int(at[0]) if at.size else None
        return ThresholdChoice(parsed.value, str(parsed), False, False, index, "fixed by the recipe", curve, score)
    best, reason = _pick(parsed, score, usable, total, min_kept)
    candidates = np.flatnonzero(np.isfinite(score))
    first = int(parsed.value is None)  # `precision` asks for the lowest threshold that will do
    at_edge = best is None or best in (*candidates[:first], candidates[-1])
    index = best or 0
    return ThresholdChoice(float(grid[index]), str(parsed), bool(at_edge), best is None, index, reason, curve, score)


def count_above(values: ArrayLike | torch.Tensor, thresholds: ArrayLike) -> Ints:
    """How many values are strictly greater than each threshold `[A]`, compared in the values' own precision."""
    ordered = np.sort(as_array(values))
    limits = np.asarray(thresholds).astype(ordered.dtype) if ordered.dtype.kind == "f" else np.asarray(thresholds)
    return (ordered.size - np.searchsorted(ordered, limits, side="right")).astype(np.int64)


def _checked_grid(thresholds: ArrayLike | torch.Tensor) -> Floats:
    grid = as_array(thresholds).astype(np.float64)
    if grid.ndim != 1 or not grid.size or not np.all(np.diff(grid) > 0) or not (grid[0] >= 0 and grid[-1] < 1):
        raise ConfigError("the thresholds must be one rising row of numbers, from 0 to below 1")
    return grid


def _curve(
    grid: Floats, kept: NDArray[Any], correct: NDArray[Any], total: int, total_correct: int | None, min_kept: int
) -> ThresholdCurve:
    if kept.shape != grid.shape or correct.shape != grid.shape:
        raise ConfigError(f"{grid.size} thresholds, but counts of shape {kept.shape} and {correct.shape}")
    accuracy = _divide(correct, kept)
    slope, second = divided_differences(grid, np.where(kept >= min_kept, accuracy, np.nan))
    return ThresholdCurve(
        thresholds=grid,
        kept=kept.astype(np.int64),
        correct=correct.astype(np.int64),
        total=total,
        total_correct=total_correct,
        accuracy=accuracy,
        coverage=_divide(kept, np.full_like(kept, total)),
        recall=_divide(correct, np.full_like(kept, total)),
        slope=slope,
        second_difference=second,
    )


def divided_differences(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """First and second derivative `[A]` of the parabola through each point and its neighbours; NaN at both ends.

    Exact for parabolas on any grid, evenly spaced or not.
    """
    slope, second = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    if x.size > 2:
        step = np.diff(x)
        left, right = step[:-1], step[1:]
        rise = np.diff(y) / step
        slope[1:-1] = (right * rise[:-1] + left * rise[1:]) / (left + right)
        second[1:-1] = 2 * (rise[1:] - rise[:-1]) / (left + right)
    return slope, second


def _criterion(name: str, curve: ThresholdCurve, usable: NDArray[np.bool_]) -> Floats:
    accuracy = np.where(usable, curve.accuracy, np.nan)
    if name in _REGISTERED:
        return _REGISTERED[name](curve, usable)
    second = curve.second_difference
    of_curve = {"second-difference": second, "slope": curve.slope, "abs2": np.abs(second)}
    if name in of_curve:
        return of_curve[name]
    if name not in ("kappa", "kneedle"):
        return accuracy
    score = np.full(accuracy.shape, np.nan)
    if usable.sum() < 3 or np.ptp(accuracy[usable]) == 0:
        return score
    x, y = _unit(curve.thresholds[usable]), _unit(accuracy[usable])
    if name == "kappa":
        slope, second = divided_differences(x, y)
        score[usable] = np.abs(second) / (1 + slope**2) ** 1.5
    else:
        score[usable] = np.abs(y - (y[0] + (y[-1] - y[0]) * x))
        score[np.flatnonzero(usable)[[0, -1]]] = np.nan
    return score


def _pick(rule: Rule, score: Floats, usable: NDArray[np.bool_], total: int, min_kept: int) -> tuple[int | None, str]:
    """Position of the chosen threshold, None where the rule has nothing to go by, and the reason."""
    if not usable.any():
        what = f"no threshold keeps {min_kept} items" if total else "there are no items"
        return None, f"{what}; the lowest threshold is used"
    defined = score[np.isfinite(score)]
    if rule.value is not None:
        reached = np.flatnonzero(score >= rule.value)
        if reached.size:
            return int(reached[0]), f"lowest threshold with an accuracy of at least {rule.value:g}"
        return int(np.nanargmax(score)), f"no threshold reaches an accuracy of {rule.value:g}; the most accurate one"
    # Ties go to the lowest threshold, which keeps most; differences that rounding can make count as ties.
    largest = float(np.abs(defined).max(initial=0.0))
    if largest <= _FLAT:
        what = "fewer than three thresholds keep enough items" if usable.sum() < 3 else "the accuracy curve is flat"
        return None, f"{what}; the lowest threshold is used"
    best = np.flatnonzero(score >= defined.max() - _FLAT * largest)
    return int(best[0]), f"largest {rule.name} of the accuracy curve"


def _unit(values: Floats) -> Floats:
    scaled: Floats = (values - values.min()) / np.ptp(values)
    return scaled


def _divide(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    ratio: Floats = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=np.asarray(whole) > 0)
    return ratio
