"""Which pseudo-labels and which source examples a hard stage sees, and how good these are (arXiv 2310.04726, Eq. 4).

A target item is kept when all voters predict the same class and every confidence is strictly greater than alpha. A
source example is dropped for good when the soft student contradicts its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import ConfigError
from ...data import OUTSIDE
from ...data.store.store import IGNORE
from ..evaluation.metrics import as_array, mark_entities, split_tag
from ..storage.run_warning import RunWarning
from .thresholds import count_above, one_of

if TYPE_CHECKING:
    import torch


Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Array: TypeAlias = "NDArray[Any] | torch.Tensor"

BINS = 10
"""Equal parts of [0, 1] in which confidence is compared with accuracy."""
UNITS = ("item", "entity", "sentence")
SOURCE_RULES = ("correct", "correct+alpha", "none")


class Votes(Protocol):
    """The part of `kernels.Votes` that decisions read, for `K` items and `C` classes."""

    @property
    def label(self) -> Array: ...
    @property
    def agree(self) -> Array: ...
    @property
    def min_confidence(self) -> Array: ...
    @property
    def mean_probability(self) -> Array: ...


class Reason(IntEnum):
    """Why an item or an example was kept or dropped: 1 to 4 in the target, 6 to 8 in the source."""

    KEPT = 0
    DISAGREE = 1
    LOW_CONFIDENCE = 2
    SPAN_INCOMPLETE = 3
    SENTENCE_INCOMPLETE = 4
    NOT_A_NUMBER = 5
    CONTRADICTED = 6
    REMOVED_BEFORE = 7
    KEPT_FOR_CLASS = 8


REASONS = {
    Reason.DISAGREE: "voters-disagree",
    Reason.LOW_CONFIDENCE: "below-threshold",
    Reason.SPAN_INCOMPLETE: "entity-incomplete",
    Reason.SENTENCE_INCOMPLETE: "sentence-incomplete",
    Reason.NOT_A_NUMBER: "not-a-number",
}
"""Why an item of the target was not accepted, as records and tables say it."""


@dataclass(frozen=True)
class Decision:
    """Per target item `[K]`: keep it, its label, its weight in the loss (1 or 0) and a `Reason`.

    Dropped items have a label too, for the record; `targets` is what the loss reads.
    """

    keep: Bools
    label: Ints
    weight: NDArray[np.float32]
    reason: NDArray[np.int8]

    @property
    def targets(self) -> Ints:
        """Labels `[K]` with -100 for dropped items."""
        return np.where(self.keep, self.label, IGNORE)

    def reasons(self) -> dict[str, int]:
        """Number of items per reason that occurs, by its lower-case name."""
        return reason_counts(self.reason)


def decide(
    votes: Votes,
    alpha: float | None,
    *,
    unit: str = "item",
    sentence_of_item: ArrayLike | torch.Tensor | None = None,
    labels: Sequence[str] | None = None,
) -> Decision:
    """Accept or drop each pseudo-label.

    Args:
        votes: result of `kernels.votes` for the target items.
        alpha: confidences must be strictly greater; 0 still filters by agreement, None keeps everything.
        unit: what passes or fails as one: `item` (also called `token`), `entity` (a predicted span; items tagged `O`
            stand alone) or `sentence`. A single failing item drops its whole unit.
        sentence_of_item: sentence number per item `[K]`, items in text order; for `entity` and `sentence`.
        labels: names of the `C` classes, tags such as `B-PER`; for `entity`.

    Raises:
        ConfigError: unknown unit, or an argument that the unit needs is missing.
    """
    unit = "item" if unit == "token" else one_of(unit, UNITS, "unit of acceptance")
    agree, confidence = as_array(votes.agree).astype(bool), as_array(votes.min_confidence)
    finite = np.isfinite(confidence) & np.isfinite(as_array(votes.mean_probability)).all(axis=-1)
    label = as_array(votes.label).astype(np.int64)

    reason = np.zeros(label.shape, np.int8)
    if alpha is not None:
        reason[~_above(confidence, alpha)] = Reason.LOW_CONFIDENCE
        reason[~agree] = Reason.DISAGREE
    reason[~finite] = Reason.NOT_A_NUMBER

    if unit != "item" and alpha is not None:
        if sentence_of_item is None:
            raise ConfigError(f"unit {unit!r} needs sentence_of_item")
        sentences = as_array(sentence_of_item)
        if unit == "sentence":
            groups, why = np.unique(sentences, return_inverse=True)[1], Reason.SENTENCE_INCOMPLETE
        elif labels is None:
            raise ConfigError("unit 'entity' needs the names of the labels")
        else:
            groups, why = span_of_item(label, sentences, labels), Reason.SPAN_INCOMPLETE
        reason[(reason == Reason.KEPT) & _any_in_group(reason != Reason.KEPT, groups)] = why
    keep = reason == Reason.KEPT
    return Decision(keep, label, keep.astype(np.float32), reason)


def span_of_item(label: Ints, sentence_of_item: NDArray[Any], labels: Sequence[str]) -> Ints:
    """Number of the entity that each item `[K]` lies in, -1 outside, by the rules of `metrics.spans`."""
    parts = [split_tag(name) for name in labels]
    kinds = sorted({kind for _, kind in parts})
    begins = np.array([prefix == "B" for prefix, _ in parts])[label]
    kind = np.array([kinds.index(kind) if prefix != OUTSIDE else -1 for prefix, kind in parts])[label]
    continues = np.zeros(label.shape, bool)
    continues[1:] = ~begins[1:] & (kind[1:] == kind[:-1]) & (sentence_of_item[1:] == sentence_of_item[:-1])
    inside = kind >= 0
    return np.where(inside, np.cumsum(inside & ~continues) - 1, -1).astype(np.int64)


@dataclass(frozen=True)
class SourceDecision:
    """Which source examples stay; `keep` never holds more than before the round.

    Attributes:
        keep: per example [N], still kept.
        reason: per example [N], a `Reason`.
        guarded: examples that only the guard keeps, by the entity type or class that would be lost without them; an
            example with two such types counts for both.
        warnings: one for each of these.
    """

    keep: Bools
    reason: NDArray[np.int8]
    guarded: dict[str, int]
    warnings: tuple[RunWarning, ...]


def source_consistency(
    votes: Votes,
    gold: ArrayLike | torch.Tensor,
    *,
    kept: ArrayLike | torch.Tensor,
    example_of_item: ArrayLike | torch.Tensor | None = None,
    rule: str = "correct",
    alpha: float | None = None,
    labels: Sequence[str] | None = None,
    guard: int = 8,
) -> SourceDecision:
    """Drop, for good, the source examples that the soft student contradicts.

    An example is a sentence in tagging and a sample in classification; one wrong item drops the whole example. Wrong
    means that the class of highest mean probability differs from gold; items with gold -100 are not judged.

    Args:
        votes: result of `kernels.votes` for the source items.
        gold: label per item `[K]`.
        kept: examples `[N]` that are still in; the result is a subset.
        example_of_item: example number per item `[K]`, below `N`; `0..K-1` when absent.
        rule: `correct`, `correct+alpha` (every item must pass `alpha` by the rule of `decide`, too) or `none`.
        labels: names of the classes; with tags, an entity type (`B-` and `I-`) is one class for the guard.
        guard: where a class would lose its last example, so many of its examples stay, the ones whose gold labels
            have the highest mean probability, with the warning `source-class-emptied`.

    Raises:
        ConfigError: unknown rule, or `correct+alpha` without alpha.
    """
    before, gold_label = as_array(kept).astype(bool), as_array(gold).astype(np.int64)
    reason = np.where(before, Reason.KEPT, Reason.REMOVED_BEFORE).astype(np.int8)
    if one_of(rule, SOURCE_RULES, "source filter") == "none":
        return SourceDecision(before.copy(), reason, {}, ())
    example = np.arange(gold_label.size) if example_of_item is None else as_array(example_of_item)
    judged = gold_label != IGNORE
    probability = as_array(votes.mean_probability)[judged]
    gold_label, example = gold_label[judged], example[judged]

    def mark(items: Bools, why: Reason) -> None:
        hit = example[items]
        reason[hit[before[hit]]] = why

    if rule == "correct+alpha":
        if alpha is None:
            raise ConfigError("the source filter 'correct+alpha' needs alpha")
        sure = as_array(votes.agree).astype(bool) & _above(as_array(votes.min_confidence), alpha)
        mark(~sure[judged], Reason.LOW_CONFIDENCE)
    mark(probability.argmax(axis=-1) != gold_label, Reason.CONTRADICTED)
    mark(~np.isfinite(probability).all(axis=-1), Reason.NOT_A_NUMBER)

    gold_probability = np.nan_to_num(probability[np.arange(gold_label.size), gold_label].astype(np.float64))
    warnings = _guard_classes(reason, gold_label, example, gold_probability, labels, guard)
    guarded = {str(w.values["label"]): int(w.values["kept"]) for w in warnings}
    return SourceDecision(_kept(reason), reason, guarded, warnings)


def _guard_classes(
    reason: NDArray[np.int8],
    gold: Ints,
    example: NDArray[Any],
    gold_probability: NDArray[np.float64],
    labels: Sequence[str] | None,
    guard: int,
) -> tuple[RunWarning, ...]:
    """Put back, in `reason`, the most confident examples of each class that would be lost; one warning per class."""
    size = np.maximum(1, np.bincount(example, minlength=reason.size))
    confidence = np.bincount(example, gold_probability, minlength=reason.size) / size
    in_play = reason != Reason.REMOVED_BEFORE
    warnings = []
    for name, members in _guard_groups(gold, labels):
        having = np.unique(example[np.isin(gold, members)])
        having = having[in_play[having]]
        if not having.size or _kept(reason[having]).any():
            continue
        best = having[np.argsort(-confidence[having], kind="stable")][: max(1, guard)]
        reason[best] = Reason.KEPT_FOR_CLASS
        warnings.append(
            RunWarning(
                "source-class-emptied",
                f"the soft student contradicts every source example with {name!r}; the {best.size} most confident of "
                f"{having.size} stay for good: check these labels, and whether the student learnt the class at all",
                {"label": name, "examples": having.size, "kept": best.size},
            )
        )
    return tuple(warnings)


def _guard_groups(gold: Ints, labels: Sequence[str] | None) -> list[tuple[str, list[int]]]:
    """Name and label numbers of each class that shall not be lost: an entity type, a class, and last the tag `O`.

    Sentences that stay for a type nearly always have words outside of it, so `O` needs its own only after these.
    """
    names = [str(label) for label in range(gold.max(initial=-1) + 1)] if labels is None else list(labels)
    if names[:1] == [OUTSIDE] and mark_entities(names):
        names = [split_tag(name)[1] or OUTSIDE for name in names]
    groups: dict[str, list[int]] = {}
    for label in np.unique(gold).tolist():
        groups.setdefault(names[label], []).append(label)
    return sorted(groups.items(), key=lambda group: group[0] == OUTSIDE)


def _above(confidence: NDArray[Any], alpha: float) -> Bools:
    # In the precision of the confidences, as the kernels compare: 0.6 in float32 is not above 0.6.
    above: Bools = confidence > confidence.dtype.type(alpha)
    return above


def _any_in_group(flag: Bools, groups: Ints) -> Bools:
    """Per item, whether any item of its group is flagged; group -1 holds single items."""
    inside = groups >= 0
    hit = np.bincount(groups[inside & flag], minlength=int(groups.max(initial=-1)) + 1) > 0
    result = flag.copy()
    result[inside] = hit[groups[inside]]
    return result


def _kept(reason: NDArray[np.int8]) -> Bools:
    return np.isin(reason, (Reason.KEPT, Reason.KEPT_FOR_CLASS))


def reason_counts(reason: NDArray[np.int8]) -> dict[str, int]:
    """Items per `Reason` that occurs, by its lower-case name."""
    values, counts = np.unique(reason, return_counts=True)
    return {Reason(value).name.lower(): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}


def class_counts(decision: Decision, labels: Sequence[str], gold: Ints | None = None) -> dict[str, dict[str, int]]:
    """By class: the `items` that are predicted so and how many of them are `accepted`.

    Args:
        labels: names of the `C` classes.
        gold: true label per item `[K]`, -100 where unknown. With it also how many of the accepted are `correct`, and
            the items of the class, `gold`.
    """
    label, keep = decision.label, decision.keep
    parts = {"items": label, "accepted": label[keep]}
    if gold is not None:
        parts |= {"correct": label[keep & (label == gold)], "gold": gold[gold != IGNORE]}
    counts = {name: np.bincount(part, minlength=len(labels)).tolist() for name, part in parts.items()}
    return {label: {name: each[i] for name, each in counts.items()} for i, label in enumerate(labels)}


def counts_by_threshold(
    votes: Votes, labels: Sequence[str], thresholds: ArrayLike, gold: Ints | None = None
) -> dict[str, Any]:
    """`thresholds`, and by predicted class how many items each would keep: `kept`, and those of them `correct`."""
    grid, label = np.asarray(thresholds, dtype=np.float64), as_array(votes.label)
    confidence = as_array(votes.min_confidence)
    usable = as_array(votes.agree).astype(bool) & np.isfinite(confidence)

    def counts(items: Bools) -> dict[str, list[int]]:
        return {name: count_above(confidence[items & (label == i)], grid).tolist() for i, name in enumerate(labels)}

    return {
        "thresholds": grid.tolist(),
        "kept": counts(usable),
        "correct": None if gold is None else counts(usable & (label == gold)),
    }


def calibration_bins(confidence: NDArray[Any], right: Bools) -> list[dict[str, float | int]]:
    """Mean confidence, accuracy and count of each part of [0, 1], `low < p <= high`, that is not empty."""
    known = np.isfinite(confidence)
    values = confidence[known].astype(np.float64)
    place = np.clip(np.digitize(values, np.linspace(0.0, 1.0, BINS + 1), right=True) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums, hits = np.bincount(place, values, BINS), np.bincount(place, right[known], BINS)
    return [
        {"confidence": float(sums[i] / count[i]), "accuracy": float(hits[i] / count[i]), "count": int(count[i])}
        for i in np.flatnonzero(count)
    ]
