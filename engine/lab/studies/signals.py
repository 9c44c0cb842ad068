"""What a stage's model says about two texts, in the few numbers that estimates are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....data import OUTSIDE, TokenStore, derive_seed
from ...evaluation.metrics import EntityCounter
from ...pseudolabels.filters import span_of_item
from ...stages.round_decision import Voted
from .estimators import (
    Transport,
    agreement,
    average_confidence,
    confidence_shift,
    difference_of_confidences,
    source_curve,
    thresholded_confidence,
    transport_accuracy,
    transport_f1,
)

WORDS = 6000
"""Words at most that the transport of a tagger is solved for."""


@dataclass(frozen=True)
class Signals:
    """Shares (0-1); confidences are of texts, or of predicted entities (the least sure word of each).

    Attributes:
        source_score: accuracy or entity F1 on the held-out source.
        source_transport, target_transport: `transport_accuracy` or `transport_f1`, with the source's label shares.
        methods: the other estimators, for comparison; None where there is nothing to go by.
        shift: distance of the confidences of source and target.
        voters_agree: share of the target items on which all voters agree.
        items: target texts, or predicted entities, in the sample.
    """

    source_score: float
    source_transport: float
    target_transport: float
    methods: dict[str, float | None]
    shift: float | None
    voters_agree: float
    items: int

    @property
    def transport(self) -> Transport:
        """What the estimate is made from."""
        return self.source_score, self.source_transport, self.target_transport


def sample_examples(store: TokenStore, most: int, role: str) -> NDArray[np.int64]:
    """At most `most` examples of a store, in order; the same for every stage."""
    generator = np.random.default_rng(derive_seed(0, "trust", role))
    return np.sort(generator.permutation(len(store))[:most])


def measure_signals(source: Voted, target: Voted, labels: tuple[str, ...]) -> Signals:
    """The signals of one model; no gold of the target is looked at.

    Args:
        source, target: the votes on samples of the two texts.
        labels: names of the classes.
    """
    tagging = source.store.task == "ner"
    right = _probability(source).argmax(axis=-1) == source.gold
    known = source.gold >= 0
    prior = np.bincount(source.gold[known], minlength=len(labels)) / max(1, int(known.sum()))
    score = _entity_f1(source, labels) if tagging else float(right[known].mean())
    confidences = [_entity_confidence(v, labels) if tagging else _probability(v).max(axis=-1) for v in (source, target)]
    if tagging:
        outside = labels.index(OUTSIDE)
        transports = [transport_f1(_some(_probability(v)), prior, outside) for v in (source, target)]
    else:
        transports = [transport_accuracy(_probability(v), prior) for v in (source, target)]
    there = min(c.size for c in confidences) > 0
    methods: dict[str, float | None] = {"source": score, "transport": transports[1]}
    methods |= {
        "difference": difference_of_confidences(score, *confidences) if there else None,
        "thresholded": thresholded_confidence(score, *confidences) if there else None,
        "confidence": average_confidence(confidences[1]) if there else None,
        "curve": None if tagging else source_curve(confidences[0], right, confidences[1]),
    }
    shift = confidence_shift(*confidences) if there else None
    agree = float(target.votes.agree.float().mean()) if len(target.items) else math.nan
    return Signals(score, transports[0], transports[1], methods, shift, agree, confidences[1].size)


def seeds_agree(first: Voted, second: Voted) -> float:
    """The share of items to which two models give the same class; both have voted on the same sample."""
    return agreement(_probability(first).argmax(axis=-1), _probability(second).argmax(axis=-1))


def _probability(voted: Voted) -> NDArray[np.float32]:
    values: NDArray[np.float32] = voted.votes.mean_probability.numpy()
    return values


def _some(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    generator = np.random.default_rng(derive_seed(0, "trust", "words"))
    return probability[generator.permutation(len(probability))[:WORDS]]


def _entity_f1(voted: Voted, labels: tuple[str, ...]) -> float:
    """Entity F1 over the words that the model sees."""
    counter = EntityCounter()
    predicted = _probability(voted).argmax(axis=-1)
    ends = np.flatnonzero(np.diff(voted.example)) + 1
    for gold, guess in zip(np.split(voted.gold, ends), np.split(predicted, ends), strict=True):
        counter.update([labels[max(0, g)] for g in gold.tolist()], [labels[g] for g in guess.tolist()])
    return counter.result().f1 / 100


def _entity_confidence(voted: Voted, labels: tuple[str, ...]) -> NDArray[np.float64]:
    """Of each predicted entity the confidence in its least sure word."""
    probability = _probability(voted)
    span = span_of_item(probability.argmax(axis=-1).astype(np.int64), voted.example, labels)
    lowest = np.ones(int(span.max(initial=-1)) + 1)
    np.minimum.at(lowest, span[span >= 0], probability.max(axis=-1)[span >= 0].astype(np.float64))
    return lowest
