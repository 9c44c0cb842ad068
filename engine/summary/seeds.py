"""Means and deviations over seeds, paired differences, and the paired bootstrap over test items.

Of the bootstrap: all models are scored on the same draws of items. For two arms with the same seeds, the difference on
a draw is the mean over seeds of the two arms' difference on that draw. Items are what is drawn; seeds are fixed. So an
interval says how far the difference hangs on which sentences were in the test set, not how far it hangs on the seeds:
that is the standard deviation's task.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...data import derive_seed
from ..evaluation.per_example import points

_CHUNK, _LEVEL = 64, 0.95
Name = TypeVar("Name")


def one_decimal(value: float, sign: str = "-") -> str:
    """A score or a difference in points; what rounds to zero has no minus. `sign` "+" shows a plus, too."""
    return f"{round(value, 1) + 0.0:{sign}.1f}"


@dataclass(frozen=True)
class Stat:
    """A mean over `n` values and their sample standard deviation (None for one value)."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return one_decimal(self.mean) + ("" if self.std is None else f" ± {self.std:.1f}")


@dataclass(frozen=True)
class Step:
    """Paired differences to an earlier stage, over the (target, seed) pairs that have both."""

    stat: Stat
    up: int
    versus: str

    def __str__(self) -> str:
        mean = one_decimal(self.stat.mean, sign="+")
        return mean + ("" if self.stat.std is None else f" ± {self.stat.std:.1f}")


@dataclass(frozen=True)
class Bootstrap:
    """Difference of two arms on the same items, its percentile interval and a two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def stat(values: Iterable[float]) -> Stat | None:
    """Mean and sample standard deviation; None for no values."""
    kept = list(values)
    if not kept:
        return None
    return Stat(statistics.fmean(kept), statistics.stdev(kept) if len(kept) > 1 else None, len(kept))


def paired_step(differences: Sequence[float], versus: str) -> Step | None:
    """What paired differences to `versus` amount to; None for none."""
    mean = stat(differences)
    return Step(mean, sum(d > 0 for d in differences), versus) if mean else None


def bootstrap_of(difference: float, draws: NDArray[Any]) -> Bootstrap:
    """The interval of `_LEVEL` and the two-sided p-value of a difference, from its value on every draw of items."""
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    # One is added to both sides so that a finite number of draws never claims a probability of zero.
    tail = (1 + min((draws <= 0).sum(), (draws >= 0).sum())) / (len(draws) + 1)
    return Bootstrap(difference, float(low), float(high), min(1.0, 2 * float(tail)))


def scores_on_draws(items: Mapping[Name, NDArray[Any]], *, samples: int, seed: int) -> dict[Name, NDArray[Any]]:
    """The score in points of every model on the same draws with replacement.

    Args:
        items: model -> its items, `[n, 3]` or `[n]` (`items.Items`), the same n and order of items for all.
        samples: number of draws.
        seed: of the draws.

    Returns:
        Model -> float64 `[samples]`.
    """
    stacked = [rows.reshape(len(rows), -1).astype(np.float64) for rows in items.values()]
    count = len(stacked[0])
    generator = np.random.default_rng(seed)
    sums = np.empty((samples, sum(rows.shape[1] for rows in stacked)))
    every = np.hstack(stacked)
    for start in range(0, samples, _CHUNK):
        size = min(_CHUNK, samples - start)
        times = np.stack([np.bincount(generator.integers(count, size=count), minlength=count) for _ in range(size)])
        sums[start : start + size] = times @ every
    ends = np.cumsum([rows.shape[1] for rows in stacked])
    return {name: _points(part, count) for name, part in zip(items, np.split(sums, ends[:-1], axis=1), strict=True)}


def _points(sums: NDArray[Any], count: int) -> NDArray[Any]:
    """Points of summed items: F1 of entity counts (gold, predicted, correct), or accuracy."""
    if sums.shape[1] == 1:
        return np.asarray(100.0 * sums[:, 0] / count)
    whole = sums[:, 0] + sums[:, 1]
    found: NDArray[Any] = np.divide(200.0 * sums[:, 2], whole, out=np.zeros_like(whole), where=whole > 0)
    return found


def compare(
    row: Sequence[NDArray[Any]],
    reference: Sequence[NDArray[Any]],
    row_draws: Sequence[NDArray[Any]],
    reference_draws: Sequence[NDArray[Any]],
) -> tuple[float, NDArray[Any]]:
    """The difference of two rows on one test set, and on every draw of it; each sequence has one entry per seed."""
    observed = float(np.mean([points(a) - points(b) for a, b in zip(row, reference, strict=True)]))
    return observed, np.mean([a - b for a, b in zip(row_draws, reference_draws, strict=True)], axis=0)


def over_targets(parts: Sequence[tuple[float, NDArray[Any]]]) -> Bootstrap:
    """The interval of the mean difference over targets, whose test sets are drawn independently of each other."""
    return bootstrap_of(float(np.mean([part[0] for part in parts])), np.mean([part[1] for part in parts], axis=0))


def draw_seed(target: str) -> int:
    """Seed of the draws of a target's test set."""
    return derive_seed(0, "bootstrap", target)
