"""Summaries over seeds and paired comparisons of two arms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import ConfigError


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation (n - 1) over `num` seeds; the latter is None for a single seed."""

    mean: float
    std: float | None
    num: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass(frozen=True)
class PairedDifference:
    """Mean and sample standard deviation of `after - before` over paired seeds; `num_up` of `num` rose."""

    mean: float
    std: float | None
    num_up: int
    num: int


@dataclass(frozen=True)
class Bootstrap:
    """Difference of two arms on the same items, its percentile interval and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def mean_std(values: Sequence[float]) -> MeanStd:
    """Mean and sample standard deviation of one score over seeds."""
    if not len(values):
        raise ConfigError("no values to summarise: a mean needs at least one seed")
    array = np.asarray(values, dtype=np.float64)
    return MeanStd(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else None, array.size)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """`after - before`, seed by seed: the spread between seeds cancels where both arms share it."""
    if len(before) != len(after):
        raise ConfigError(f"{len(before)} and {len(after)} values: a paired difference needs the same seeds in both")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    summary = mean_std(differences)
    return PairedDifference(summary.mean, summary.std, sum(d > 0 for d in differences), summary.num)


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    *,
    statistic: Callable[[NDArray[Any]], float] | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Paired bootstrap over items: both arms are scored on the same draws of items with replacement.

    Args:
        before: one row per item, for example 0/1 correctness `[n]` or entity counts `[n, 3]`.
        after: the other arm's rows, in the same order of items.
        statistic: score of a set of rows; the mean when absent, `metrics.f1_of_counts` for entity counts.
        level: mass of the interval.
    """
    a, b = np.asarray(before), np.asarray(after)
    if a.shape != b.shape or not len(a):
        raise ConfigError(f"shapes {a.shape} and {b.shape}: a paired bootstrap needs the same items in both, and some")
    score = statistic or (lambda rows: float(rows.mean()))
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(a), size=len(a)) for _ in range(samples))
    differences = np.array([score(b[rows]) - score(a[rows]) for rows in draws])
    return bootstrap_of(score(b) - score(a), differences, level=level)


def bootstrap_of(difference: float, draws: NDArray[Any], *, level: float = 0.95) -> Bootstrap:
    """The percentile interval and the two-sided p-value of a difference, from its value on every draw of items."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    # One is added to both sides so that a finite number of draws never claims a probability of zero.
    tail = (1 + min((draws <= 0).sum(), (draws >= 0).sum())) / (len(draws) + 1)
    return Bootstrap(difference, float(low), float(high), min(1.0, 2 * float(tail)))
