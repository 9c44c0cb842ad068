"""How right a model is on text without labels: estimators as pure functions.

All start from what the model says about labelled source text that it has not trained on, and about unlabelled target
text. None can be right for every shift: Garg et al. prove that without an assumption about it nothing can be known.

    average confidence       Hendrycks and Gimpel 2017 (arXiv 1610.02136)
    difference of confidence Guillory et al. 2021 (arXiv 2107.03315)
    thresholded confidence   ATC: Garg et al. 2022 (arXiv 2201.04234)
    source curve             accuracy by confidence, learnt on the source, read off at the target's confidences
    confidence transport     COT: Lu et al. 2023 (arXiv 2302.05018, 2305.15640): the target's probabilities must be
                             brought to the label shares of the source, and what that costs is error
    agreement                two models trained apart disagree as often as each errs (Jiang et al. 2022, arXiv
                             2106.13799), if they are calibrated as an ensemble

Scores and confidences are shares (0-1). `K` items, `C` classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .trust_record import FLOOR, UNSEEN_SHIFT, WIDEST, WIDTH

Floats = NDArray[np.float64]

SMOOTHING = (0.3, 0.1, 0.03, 0.01)
"""Entropic smoothing of the transport, from coarse to fine; costs lie in [0, 1]."""
ITERATIONS, TOLERANCE = 150, 1e-4


def average_confidence(target: ArrayLike) -> float:
    """The mean confidence on the target `[K]`: the accuracy of a calibrated model."""
    return float(np.asarray(target, dtype=np.float64).mean())


def difference_of_confidences(source_score: float, source: ArrayLike, target: ArrayLike) -> float:
    """The source's score, lowered by what the mean confidence falls from source to target; in [0, 1]."""
    return _unit(source_score - (average_confidence(source) - average_confidence(target)))


def thresholded_confidence(source_score: float, source: ArrayLike, target: ArrayLike) -> float:
    """ATC: the share of the target above the confidence that a share of `source_score` of the source exceeds."""
    values = np.asarray(source, dtype=np.float64)
    if source_score >= 1:
        return 1.0
    limit = np.quantile(values, 1 - source_score)
    return float((np.asarray(target, dtype=np.float64) > limit).mean())


def source_curve(source: ArrayLike, correct: ArrayLike, target: ArrayLike, *, bins: int = 10) -> float:
    """Mean over the target of the source's accuracy at the same confidence.

    Bins hold equally many source items; each accuracy is drawn to the mean by two items, so that no bin is empty.
    """
    values, right = np.asarray(source, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.digitize(values, edges)
    hits = np.bincount(place, right, edges.size + 1) + 2 * right.mean()
    accuracy = hits / (np.bincount(place, minlength=edges.size + 1) + 2)
    return float(accuracy[np.digitize(np.asarray(target, dtype=np.float64), edges)].mean())


def agreement(first: ArrayLike, second: ArrayLike) -> float:
    """The share of items that two models label alike."""
    return float((np.asarray(first) == np.asarray(second)).mean())


def confidence_shift(source: ArrayLike, target: ArrayLike) -> float:
    """Distance of two samples of confidences: the area between their distribution functions (Wasserstein-1)."""
    a, b = (np.sort(np.asarray(x, dtype=np.float64)) for x in (source, target))
    points = np.concatenate([a, b])
    points.sort()
    shares = [np.searchsorted(x, points[:-1], side="right") / x.size for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]) @ np.diff(points))


def label_coupling(probability: ArrayLike, prior: ArrayLike) -> Floats:
    """The cheapest way to give each item `[K]` labels so that all labels together have the shares `prior` `[C]`.

    Giving item k the label c costs `1 - probability[k, c]`, half the L1 distance to that label's corner. Solved with
    entropic smoothing that is lowered step by step; items and labels are few enough for whole matrices.

    Returns:
        `[K, C]`, rows sum to 1: the share of each label in each item.
    """
    cost = 1 - np.asarray(probability, dtype=np.float64)
    wanted = np.maximum(np.asarray(prior, dtype=np.float64), 1e-9)
    wanted = wanted / wanted.sum()
    price = np.zeros(wanted.size)
    rows = np.full(cost.shape, 1.0 / wanted.size)
    for smoothing in SMOOTHING:
        for _ in range(ITERATIONS):
            rows = (price - cost) / smoothing
            rows = np.exp(rows - rows.max(axis=1, keepdims=True))
            rows /= rows.sum(axis=1, keepdims=True)
            share = rows.mean(axis=0)
            if np.abs(share - wanted).sum() < TOLERANCE:
                break
            price += smoothing * np.log(wanted / np.maximum(share, 1e-12))
    return rows


def transport_accuracy(probability: ArrayLike, prior: ArrayLike) -> float:
    """COT: one minus the cost of the cheapest labels with the shares `prior`."""
    return _unit(float((label_coupling(probability, prior) * np.asarray(probability)).sum(axis=1).mean()))


def transport_f1(probability: ArrayLike, prior: ArrayLike, outside: int) -> float:
    """The same coupling read as F1 over the words of entities: agreement of predicted and coupled labels but `O`.

    Ours, not the papers': accuracy over words says little where most are `O`. Twice the mass on which prediction and
    coupling agree, over the mass that either gives to entities.
    """
    predicted, coupled = np.asarray(probability, dtype=np.float64), label_coupling(probability, prior)
    entity = np.arange(predicted.shape[1]) != outside
    both = (predicted * coupled)[:, entity].sum()
    total = predicted[:, entity].sum() + coupled[:, entity].sum()
    return _unit(float(2 * both / total)) if total else 0.0


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


Transport = tuple[float, float, float]
"""A model's source score, and its transport scores (`transport_accuracy` or `transport_f1`) on source and target."""


def calibrated_estimate(
    model: Transport,
    teacher: Transport | None = None,
    *,
    shift: float = UNSEEN_SHIFT,
    width: float = WIDTH,
    floor: float = FLOOR,
) -> Estimate:
    """The estimate that runs report, from transport scores.

    The target's transport score is scaled as the source's must be to give the source's true score; the loss from source
    to target is then stretched by `shift`, because models err more under a shift than their confidences show.
    The interval is `width` times `interval_scale` either way.

    Args:
        model: both transport scores with the label shares of the source.
        teacher: of a self-trained model: the first teacher of its lineage.
    """
    score, scaled = model[0], _scaled(model)
    value = _unit(scaled - shift * max(0.0, score - scaled))
    half = width * interval_scale(model, teacher, floor=floor)
    return Estimate(value, _unit(value - half), _unit(value + half))


def interval_scale(model: Transport, teacher: Transport | None = None, *, floor: float = FLOOR) -> float:
    """What the width of an interval is a multiple of: the floor and the predicted loss from source to target.

    A student forgets the source, so that its own source score makes the loss look small. With a teacher the loss is the
    largest of the student's own, of what lies between the teacher's source score and the student's target score, and of
    the teacher's: half the width, before it is cut at 0 and 1, is never below the teacher's.
    """
    losses = [model[0] - _scaled(model)]
    if teacher is not None:
        losses += [teacher[0] - _scaled(model), teacher[0] - _scaled(teacher)]
    return floor + max(0.0, *losses)


def _scaled(model: Transport) -> float:
    score, source, target = model
    return _unit(target * score / max(source, 1e-9))


def conformal_quantile(scores: ArrayLike, groups: Sequence[str], level: float) -> float:
    """The bound that a case of a new group stays below with probability `level`, groups being exchangeable.

    Lee, Barber and Willett 2023 (arXiv 2306.06342): each of K groups has the weight 1 / (K + 1) in equal shares for its
    cases, and the rest, which is the new group's, lies at infinity. So K groups give no level above K / (K + 1).

    Args:
        scores: float [n], what is to be bounded.
        groups: name of each one's group.

    Returns:
        One of the scores; infinity where the level cannot be had.
    """
    values = np.asarray(scores, dtype=np.float64)
    count = Counter(groups)
    share = np.array([1 / (count[g] * (len(count) + 1)) for g in groups])
    order = np.argsort(values, kind="stable")
    reached = np.flatnonzero(np.cumsum(share[order]) >= level - 1e-9)
    return float(values[order][reached[0]]) if reached.size else math.inf


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


def expected_label_f1(
    label: ArrayLike,
    accepted: ArrayLike,
    coupling: ArrayLike,
    *,
    outside: int | None = None,
) -> float:
    """F1 of accepted labels that the coupling expects: right labels against accepted ones and those to be found.

    Args:
        label: predicted class `[K]`.
        accepted: bool `[K]`.
        coupling: `label_coupling` of the items, `[K, C]`.
        outside: a class that does not count (`O`).
    """
    classes, labels = np.asarray(label), np.asarray(coupling, dtype=np.float64)
    counts = np.asarray(accepted, dtype=bool) & (classes != (-1 if outside is None else outside))
    right = labels[np.arange(classes.size), classes][counts].sum()
    sought = labels.sum() - (0.0 if outside is None else labels[:, outside].sum())
    return float(2 * right / max(1.0, counts.sum() + sought))
