"""A target score from probabilities alone: transport (COT), calibrated on the source, with an interval.

COT (Lu et al. 2023, arXiv 2302.05018, 2305.15640): the target's probabilities must be brought to the label shares of
the source, and what that costs is error. Scores and confidences are shares (0-1). `K` items, `C` classes. What it was
fitted to and how it did (docs/trust.md) a test computes again from `benchmarks/results/trust.json`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNSEEN_SHIFT = 0.48
"""How much more a model loses than the transport tells, relative to what it tells."""
FLOOR = 0.2
"""Half the width of an interval is `WIDTH * (FLOOR + loss)`. Set, not fitted."""
WIDTH = 0.43
"""The conformal quantile at `LEVEL` of the errors over `FLOOR + loss`, each data set judged by what the others gave."""
DATA_SETS = 7
LEVEL = DATA_SETS / (DATA_SETS + 1)
"""Share of intervals that is to hold the truth: the highest that conformal prediction gives from so few data sets."""
WIDEST = 0.4
"""An interval that is wider from end to end, as it is shown, is no estimate."""
SMOOTHING = (0.3, 0.1, 0.03, 0.01)
"""Entropic smoothing of the transport, from coarse to fine; costs lie in [0, 1]."""
ITERATIONS, TOLERANCE = 150, 1e-4


def label_coupling(probability: ArrayLike, prior: ArrayLike) -> NDArray[np.float64]:
    """The cheapest way to give each item `[K]` labels so that all labels together have the shares `prior` `[C]`.

    Giving item k the label c costs `1 - probability[k, c]`, half the L1 distance to that label's corner. Solved with
    entropic smoothing that is lowered step by step; items and labels are few enough for whole matrices.

    Returns:
        `[K, C]`, rows sum to 1: the share of each label in each item.
    """
    cost = 1 - np.asarray(probability, dtype=np.float64)
    shares = np.maximum(np.asarray(prior, dtype=np.float64), 1e-9)
    shares = shares / shares.sum()
    price = np.zeros(shares.size)
    rows = np.full(cost.shape, 1.0 / shares.size)
    for smoothing in SMOOTHING:
        for _ in range(ITERATIONS):
            rows = (price - cost) / smoothing
            rows = np.exp(rows - rows.max(axis=1, keepdims=True))
            rows /= rows.sum(axis=1, keepdims=True)
            reached = rows.mean(axis=0)
            if np.abs(reached - shares).sum() < TOLERANCE:
                break
            price += smoothing * np.log(shares / np.maximum(reached, 1e-12))
    return rows


def transport_accuracy(probability: ArrayLike, prior: ArrayLike) -> float:
    """COT: one minus the cost of the cheapest labels with the shares `prior`."""
    return _share((label_coupling(probability, prior) * np.asarray(probability)).sum(axis=1).mean())


def transport_f1(probability: ArrayLike, prior: ArrayLike, outside: int) -> float:
    """The same coupling read as F1 over the words of entities: agreement of predicted and coupled labels but `O`.

    Ours, not the papers': accuracy over words says little where most are `O`. Twice the mass on which prediction and
    coupling agree, over the mass that either gives to entities.
    """
    predicted, coupled = np.asarray(probability, dtype=np.float64), label_coupling(probability, prior)
    entity = np.arange(predicted.shape[1]) != outside
    both = (predicted * coupled)[:, entity].sum()
    total = predicted[:, entity].sum() + coupled[:, entity].sum()
    return _share(2 * both / total) if total else 0.0


class Transport(NamedTuple):
    """A model's true score on the source, and its transport scores on source and target.

    Both transport scores (`transport_accuracy` or `transport_f1`) are with the label shares of the source.
    """

    score: float
    source: float
    target: float

    @property
    def scaled(self) -> float:
        """The target's transport score, scaled as the source's must be to give the true score there."""
        return _share(self.target * self.score / max(self.source, 1e-9))


@dataclass(frozen=True)
class Estimate:
    """A score without labels, in [0, 1], with the interval that is to hold the truth in `LEVEL` of the cases."""

    value: float
    low: float
    high: float

    @property
    def narrow(self) -> bool:
        """Whether the interval, cut at 0 and 1, says enough to be shown."""
        return self.high - self.low <= WIDEST


def calibrated_estimate(
    model: Transport, teacher: Transport | None = None, *, shift: float = UNSEEN_SHIFT, width: float = WIDTH
) -> Estimate:
    """The estimate that runs report.

    The loss from source to target is stretched by `shift`, because models err more under a shift than their
    confidences show. The interval is `width` times `interval_scale` either way.

    Args:
        teacher: of a self-trained model: the first teacher of its lineage.
    """
    value = _share(model.scaled - shift * max(0.0, model.score - model.scaled))
    half = width * interval_scale(model, teacher)
    return Estimate(value, _share(value - half), _share(value + half))


def interval_scale(model: Transport, teacher: Transport | None = None) -> float:
    """What the width of an interval is a multiple of: the floor and the predicted loss from source to target.

    A student forgets the source, so that its own source score makes the loss look small. With a teacher the loss is the
    largest of the student's own, of what lies between the teacher's source score and the student's target score, and of
    the teacher's: half the width, before it is cut at 0 and 1, is never below the teacher's.
    """
    losses = [model.score - model.scaled]
    if teacher is not None:
        losses += [teacher.score - model.scaled, teacher.score - teacher.scaled]
    return FLOOR + max(0.0, *losses)


def _share(value: float) -> float:
    return min(1.0, max(0.0, float(value))) if math.isfinite(value) else 0.0


@dataclass(frozen=True)
class Held:
    """How intervals did on data sets that they were not fitted on.

    Attributes:
        data_sets: with cases of this kind.
        cases: (data set, target language, stage); `shown` of them had an interval narrow enough, and `held` of these
            had the truth in it.
        error: mean absolute error of the shown estimates, in points; 0 where none is shown.
    """

    data_sets: int
    cases: int
    shown: int
    held: int
    error: float


RECORD = {
    ("accuracy", False): Held(data_sets=2, cases=23, shown=10, held=9, error=3.8),
    ("accuracy", True): Held(data_sets=2, cases=16, shown=4, held=4, error=5.1),
    ("entity_f1", False): Held(data_sets=5, cases=28, shown=22, held=22, error=4.1),
    ("entity_f1", True): Held(data_sets=3, cases=16, shown=8, held=8, error=8.0),
}
"""By metric ("accuracy", "entity_f1") and whether the model is self-trained."""


def track_record(metric: str, self_trained: bool) -> str:
    """A sentence on how intervals did for models of a kind, on data sets that they were not fitted on."""
    found, kind = RECORD[metric, self_trained], "self-trained" if self_trained else "not self-trained"
    return (
        f"{kind} models of {found.data_sets} data sets that it was not fitted on: {found.held} of {found.shown} "
        f"intervals held the truth, mean error {found.error:.1f} points; no estimate for "
        f"{found.cases - found.shown} more"
    )
