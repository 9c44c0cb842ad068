"""Means and deviations over seeds, and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


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


def numbers(values: Iterable[Any] | None) -> list[float]:
    """A JSON list as floats; null becomes NaN, which no picture draws."""
    return [float(v) if isinstance(v, int | float) else math.nan for v in values or ()]


def mean(values: Iterable[Any]) -> float:
    """The mean of the finite numbers among `values`, NaN if there are none."""
    kept = [v for v in numbers(values) if math.isfinite(v)]
    return statistics.fmean(kept) if kept else math.nan


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
