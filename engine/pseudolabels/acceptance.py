"""Which of the labels that passed the threshold are taken, so that classes are balanced; not in arXiv 2310.04726.

A threshold accepts what is easy: the classes that the student knows, which a hard stage then teaches. Two rules take
fewer of them, each a subset of what `decide` keeps:

    class-balanced        of each predicted class at most the same share, the most confident first. The share is that of
                          all classes together; after the class-balanced self-training of Zou et al. 2018 (arXiv
                          1810.07911), which sets it from outside
    source-distribution   as many of each class as the source's labels have, in proportion; the class that is scarcest
                          by this measure decides how many, and the most confident of the others stay

In tagging both judge entity types and leave `O` alone; a unit is a word, or a predicted entity where the target filter
accepts entities as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import OUTSIDE
from ..evaluation.metrics import mark_entities, split_tag
from .filters import Bools, Decision, Ints, Reason, span_of_item
from .thresholds import one_of

ACCEPTANCE = ("threshold", "class-balanced", "source-distribution")


@dataclass(frozen=True)
class Units:
    """What is counted: `of_item` `[K]` is the number of each item's unit, `kind` `[U]` of what class each is.

    `kind` is an index into `names`, -1 for `O`.
    """

    of_item: Ints
    kind: Ints
    names: tuple[str, ...]

    def counts(self, chosen: Bools | None = None) -> Ints:
        """Chosen units `[U]` per class, or all; `O` is left out."""
        kinds = self.kind[self.kind >= 0] if chosen is None else self.kind[chosen & (self.kind >= 0)]
        return np.bincount(kinds, minlength=len(self.names)).astype(np.int64)


def count_units(
    label: Ints, labels: Sequence[str], *, unit: str = "token", sentence_of_item: NDArray[Any] | None = None
) -> Units:
    """The units of labelled items: entity types where labels are `O`, `B-` and `I-` of a type; classes elsewhere.

    Args:
        label: per item `[K]`.
        labels: names of the classes.
        unit: `token`, or `entity`, which needs `sentence_of_item` `[K]`.
    """
    if OUTSIDE in labels and mark_entities(labels):
        types = [split_tag(name)[1] for name in labels]
        names = tuple(sorted({kind for kind in types if kind}))
        kind = np.array([names.index(t) if t else -1 for t in types], dtype=np.int64)[label]
    else:
        names, kind = tuple(labels), label.astype(np.int64)
    if unit != "entity" or sentence_of_item is None:
        return Units(np.arange(label.size), kind, names)
    span = span_of_item(label, sentence_of_item, labels)
    starts = np.concatenate([[True], (span[1:] != span[:-1]) | (span[1:] < 0)])[: label.size]
    return Units(np.cumsum(starts) - 1, kind[starts], names)


def balanced_classes(units: Units, confidence: NDArray[Any], kept: Bools) -> Bools:
    """Of each class at most the share of its predicted units that is kept of all classes together.

    Args:
        confidence: per unit `[U]`.
        kept: units `[U]` that passed the threshold.

    Returns:
        Which of `kept` stay; a quota is rounded up, and equal confidences stay in order. `O` is not touched.
    """
    predicted, passed = units.counts(), units.counts(kept)
    quota = -(-int(passed.sum()) * predicted // max(1, int(predicted.sum())))
    return most_confident(units, confidence, kept, quota)


def source_distribution(units: Units, confidence: NDArray[Any], kept: Bools, source: NDArray[Any]) -> Bools:
    """As many of each class as is in proportion to its units in the source.

    With `n` kept and `g` source units of a class, the class with the smallest `n / g` keeps all, and every other one
    `g` times that, rounded down, but no less than one. Classes of which none is kept do not decide; classes that the
    source lacks lose all.

    Args:
        confidence, kept: as for `balanced_classes`.
        source: labelled source units per class, in the order of `units.names`.
    """
    passed, prior = units.counts(kept), np.asarray(source, dtype=np.int64)
    present = np.flatnonzero((passed > 0) & (prior > 0))
    if not present.size:
        return most_confident(units, confidence, kept, np.zeros_like(passed))
    scarcest = present[np.argmin(passed[present] / prior[present])]
    quota = np.where(prior > 0, np.maximum(1, passed[scarcest] * prior // prior[scarcest]), 0)
    return most_confident(units, confidence, kept, quota)


def most_confident(units: Units, confidence: NDArray[Any], kept: Bools, quota: NDArray[Any]) -> Bools:
    """The `quota` `[classes]` most confident kept units of each class, and every kept `O`."""
    stays = kept & (units.kind < 0)
    for kind, most in enumerate(quota.tolist()):
        members = np.flatnonzero(kept & (units.kind == kind))
        stays[members[np.argsort(-confidence[members].astype(np.float64), kind="stable")][:most]] = True
    return stays


def choose_accepted(
    rule: str, decision: Decision, confidence: NDArray[Any], units: Units, source: NDArray[Any]
) -> Decision:
    """A decision with fewer labels, by a rule of `ACCEPTANCE`.

    Args:
        confidence: per item `[K]`, the lowest among the voters; an entity has that of its least sure word.
        units: those of the decision's labels.
        source: labelled source units per class, for `source-distribution`.

    Raises:
        ConfigError: unknown rule.
    """
    if one_of(rule, ACCEPTANCE, "acceptance") == "threshold":
        return decision
    sure = np.full(units.kind.shape, np.inf)
    np.minimum.at(sure, units.of_item, confidence.astype(np.float64))
    kept = np.ones(units.kind.shape, bool)
    np.logical_and.at(kept, units.of_item, decision.keep)
    if rule == "class-balanced":
        stays = balanced_classes(units, sure, kept)
    else:
        stays = source_distribution(units, sure, kept, source)
    keep = decision.keep & stays[units.of_item]
    reason = np.where(decision.keep & ~keep, np.int8(Reason.OVER_QUOTA), decision.reason)
    return replace(decision, keep=keep, weight=keep.astype(np.float32), reason=reason)


def count_dropped(decision: Decision, labels: Sequence[str]) -> dict[str, int]:
    """Items that a rule dropped, by their label; without the labels of which it dropped none."""
    counts = np.bincount(decision.label[decision.reason == Reason.OVER_QUOTA], minlength=len(labels)).tolist()
    return {name: count for name, count in zip(labels, counts, strict=True) if count}
