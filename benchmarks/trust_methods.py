"""Estimators of a target score that were published, beside the one that `xlt-engine trust` reports.

    average confidence       Hendrycks and Gimpel 2017 (arXiv 1610.02136)
    difference of confidence Guillory et al. 2021 (arXiv 2107.03315)
    thresholded confidence   ATC: Garg et al. 2022 (arXiv 2201.04234)
    source curve             accuracy by confidence, learnt on the source, read off at the target's confidences
    agreement of seeds       two models trained apart disagree as often as each errs (Jiang et al. 2022, arXiv
                             2106.13799), if they are calibrated as an ensemble

Scores and confidences are shares (0-1); confidences are of texts, or of predicted entities (the least sure word).
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xlt_engine import DataError
from xlt_engine.engine import Progress
from xlt_engine.engine.evaluation.voted import Voted
from xlt_engine.engine.lab.studies.finished_run import FinishedRun
from xlt_engine.engine.lab.studies.trust import Judged, judge_samples, measure_transport
from xlt_engine.engine.pseudolabels.filters import span_of_item

METHODS = ("source", "confidence", "curve", "difference", "thresholded", "seeds", "transport")
Estimates = dict[str, float | None]


def published_estimates(folder: Path, sample: int) -> dict[tuple[str, str], Estimates]:
    """What each of `METHODS` says of each target and stage of a run, means over seeds; None where it has no say."""
    run = FinishedRun.open(folder)
    held_out = run.source_held_out()
    if held_out is None:
        raise DataError(f"{folder}: no labelled source text that no stage trains on")
    of_seeds: dict[tuple[str, str], list[Estimates]] = {}
    classes: dict[tuple[str, str], list[NDArray[np.int64]]] = {}
    for judged in judge_samples(run, held_out[0], sample, Progress()):
        key = judged.target, judged.stage.stage
        of_seeds.setdefault(key, []).append(estimates_of(judged, run.model(judged.stage).labels))
        classes.setdefault(key, []).append(_probability(judged.target_votes).argmax(axis=-1))
    found = {}
    for key, each in of_seeds.items():
        known = {name: [v for one in each if (v := one[name]) is not None] for name in each[0]}
        agreeing = [float((a == b).mean()) for a, b in combinations(classes[key], 2)]
        found[key] = {name: float(np.mean(v)) if v else None for name, v in (known | {"seeds": agreeing}).items()}
    return found


def estimates_of(judged: Judged, labels: tuple[str, ...]) -> Estimates:
    """The estimates of one model; no gold of the target is looked at."""
    source, target = judged.source_votes, judged.target_votes
    score, _, transport = measure_transport(source, target, labels)
    tagging = source.store.task == "ner"
    confidences = [_entity_confidence(v, labels) if tagging else _probability(v).max(axis=-1) for v in (source, target)]
    estimates: Estimates = {"source": score, "transport": transport} | dict.fromkeys(
        ("difference", "thresholded", "confidence", "curve")
    )
    if min(c.size for c in confidences):
        estimates["difference"] = difference_of_confidences(score, *confidences)
        estimates["thresholded"] = thresholded_confidence(score, *confidences)
        estimates["confidence"] = average_confidence(confidences[1])
    if not tagging:
        right = _probability(source).argmax(axis=-1) == source.gold
        estimates["curve"] = source_curve(confidences[0], right, confidences[1])
    return estimates


def average_confidence(target: ArrayLike) -> float:
    """The mean confidence on the target `[K]`: the accuracy of a calibrated model."""
    return float(np.asarray(target, dtype=np.float64).mean())


def difference_of_confidences(source_score: float, source: ArrayLike, target: ArrayLike) -> float:
    """The source's score, lowered by what the mean confidence falls from source to target; in [0, 1]."""
    fall = average_confidence(source) - average_confidence(target)
    return min(1.0, max(0.0, source_score - fall))


def thresholded_confidence(source_score: float, source: ArrayLike, target: ArrayLike) -> float:
    """ATC: the share of the target above the confidence that a share of `source_score` of the source exceeds."""
    if source_score >= 1:
        return 1.0
    limit = np.quantile(np.asarray(source, dtype=np.float64), 1 - source_score)
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


def _probability(voted: Voted) -> NDArray[np.float32]:
    return voted.votes.mean_probability.numpy()


def _entity_confidence(voted: Voted, labels: tuple[str, ...]) -> NDArray[np.float64]:
    """Of each predicted entity the confidence in its least sure word."""
    probability = _probability(voted)
    span = span_of_item(probability.argmax(axis=-1).astype(np.int64), voted.example, labels)
    lowest = np.ones(int(span.max(initial=-1)) + 1)
    np.minimum.at(lowest, span[span >= 0], probability.max(axis=-1)[span >= 0].astype(np.float64))
    return lowest
