"""Scores in points (0-100): accuracy, macro F1, conlleval-equal entity F1, and what transfer adds to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import DataError
from ...data import OUTSIDE

if TYPE_CHECKING:
    import torch


Span = tuple[str, int, int]
Tags = Sequence[str]
Labels: TypeAlias = "Sequence[Hashable] | NDArray[Any] | torch.Tensor"


def as_array(values: ArrayLike | torch.Tensor) -> NDArray[Any]:
    """Numpy view or copy of an array or of a tensor on any device; 16-bit floats become float32."""
    detach = getattr(values, "detach", None)  # a tensor has it; torch is not loaded to ask
    if detach is None:
        return np.asarray(values)
    tensor: torch.Tensor = detach().cpu()
    return tensor.float().numpy() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor.numpy()


def mark_entities(labels: Iterable[str]) -> bool:
    """Whether all labels are `O`, `B-` or `I-` of a type."""
    return all(label == OUTSIDE or label.startswith(("B-", "I-")) for label in labels)


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix (`B`, `I` or `O`) and entity type (empty for `O`) of a tag.

    Raises:
        DataError: the tag is none of `O`, `B-<type>`, `I-<type>`.
    """
    prefix, _, kind = tag.partition("-")
    if tag == OUTSIDE or (prefix in ("B", "I") and kind):
        return prefix, kind
    raise DataError(f"unknown tag {tag!r}: tags are O, B-<type> or I-<type>; convert the file to BIO first")


def spans(tags: Tags, *, strict: bool = False) -> list[Span]:
    """Entities of one sentence as `(type, first word, last word + 1)`, in order.

    By default the rules of conlleval, which read IOB1 and IOB2 alike: an entity starts at every `B-`, and at an `I-`
    that follows `O` or another type. Strict IOB2: an entity starts at `B-` only, and a stray `I-` belongs to none.

    Raises:
        DataError: a tag is not `O`, `B-<type>` or `I-<type>`.
    """
    found: list[Span] = []
    start, current = 0, ""
    for position, (prefix, kind) in enumerate([*map(split_tag, tags), (OUTSIDE, "")]):
        if prefix == "I" and kind == current:
            continue
        if current:
            found.append((current, start, position))
        opens = prefix == "B" or (prefix == "I" and not strict)
        start, current = position, kind if opens else ""
    return found


@dataclass(frozen=True)
class EntityScores:
    """Precision, recall and F1 in points, with their counts; 0 where a ratio has no denominator, as conlleval."""

    precision: float
    recall: float
    f1: float
    num_gold: int
    num_predicted: int
    num_correct: int
    per_type: dict[str, EntityScores] = field(default_factory=dict)


ClassTable = dict[str, dict[str, float]]
"""Entity type or class -> `precision`, `recall`, `f1` in points, and `support`, its number in the gold labels."""


def class_table(scores: Mapping[str, EntityScores]) -> ClassTable:
    """The scores of each entity type, or class, as JSON values."""
    return {
        name: {"precision": s.precision, "recall": s.recall, "f1": s.f1, "support": s.num_gold}
        for name, s in scores.items()
    }


class EntityCounter:
    """Entity counts over sentences, fed one sentence at a time."""

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self._counts = tuple(Counter[str]() for _ in range(3))  # gold, predicted, correct

    def update(self, gold: Tags, predicted: Tags) -> tuple[int, ...]:
        """Add one sentence; its own `(gold, predicted, correct)` counts.

        Raises:
            DataError: the two differ in length, or hold an unknown tag.
        """
        if len(gold) != len(predicted):
            raise DataError(f"{len(gold)} gold tags but {len(predicted)} predicted tags in one sentence")
        groups = [spans(tags, strict=self.strict) for tags in (gold, predicted)]
        groups.append(list(set(groups[0]) & set(groups[1])))
        for counter, group in zip(self._counts, groups, strict=True):
            counter.update(kind for kind, _, _ in group)
        return tuple(map(len, groups))

    def result(self) -> EntityScores:
        """Scores of everything added so far: micro average, and one entry per type that occurs."""
        kinds = sorted(self._counts[0] | self._counts[1])
        per_type = {kind: _entity_scores(count[kind] for count in self._counts) for kind in kinds}
        return _entity_scores((count.total() for count in self._counts), per_type)


def entity_f1(gold: Iterable[Tags], predicted: Iterable[Tags], *, strict: bool = False) -> EntityScores:
    """Entity scores of a document (sentences of tags): an entity is correct when type, start and end all agree.

    Args:
        strict: strict IOB2 (`seqeval` with `mode="strict", scheme=IOB2`) instead of the rules of conlleval.

    Raises:
        DataError: numbers of sentences or of tags differ, or a tag is unknown.
    """
    counter = EntityCounter(strict=strict)
    for gold_tags, predicted_tags in zip_longest(gold, predicted):
        if gold_tags is None or predicted_tags is None:
            raise DataError("gold and predicted tags differ in their number of sentences")
        counter.update(gold_tags, predicted_tags)
    return counter.result()


@dataclass(frozen=True)
class LabelScores:
    """Accuracy and macro F1 in points, NaN when there are no items; and each class by itself, its items counted."""

    accuracy: float
    macro_f1: float
    per_class: dict[Any, EntityScores]


def label_scores(gold: Labels, predicted: Labels, labels: Iterable[Hashable] | None = None) -> LabelScores:
    """Scores of labels, names or ids, alike on both sides.

    Args:
        labels: the classes that macro F1 averages over; all that occur when absent. A class without gold and without
            predicted items has no F1 and is left out of the average.

    Raises:
        DataError: the two differ in length.
    """
    golds, guesses = (x.tolist() if hasattr(x, "tolist") else list(x) for x in (gold, predicted))
    if len(golds) != len(guesses):
        raise DataError(f"{len(golds)} gold labels but {len(guesses)} predicted labels")
    counts = [Counter(golds), Counter(guesses), Counter(g for g, p in zip(golds, guesses, strict=True) if g == p)]
    occurring = counts[0] | counts[1]
    shown = sorted(occurring, key=str) if labels is None else [x for x in labels if x in occurring]
    per_class = {x: _entity_scores(count[x] for count in counts) for x in shown}
    return LabelScores(
        accuracy=100.0 * counts[2].total() / len(golds) if golds else float("nan"),
        macro_f1=sum(s.f1 for s in per_class.values()) / len(per_class) if per_class else float("nan"),
        per_class=per_class,
    )


def accuracy(gold: Labels, predicted: Labels) -> float:
    """Share of equal labels, in points; NaN when there are none."""
    return label_scores(gold, predicted).accuracy


def macro_f1(gold: Labels, predicted: Labels, *, labels: Iterable[Hashable] | None = None) -> float:
    """Unweighted mean of the classes' F1, in points; see `label_scores` for classes that do not occur."""
    return label_scores(gold, predicted, labels).macro_f1


@dataclass(frozen=True)
class TransferSummary:
    """How well one model carries over, in points.

    `std_targets` and `std_all` are population standard deviations over languages, since these are all there are.
    """

    gap: dict[str, float]
    mean_gap: float
    average_targets: float
    average_all: float
    std_targets: float
    std_all: float


def transfer_gap(source: float, targets: Mapping[str, float]) -> TransferSummary:
    """Gap (source minus target: 0 is perfect, negative means the target scores higher), averages and deviations.

    Args:
        source: score of the source language.
        targets: score per target language; at least one.
    """
    if not targets:
        raise DataError("no target language to compare with the source language")
    scores = np.array(list(targets.values()), dtype=np.float64)
    everything = np.append(scores, source)
    return TransferSummary(
        gap={language: source - score for language, score in targets.items()},
        mean_gap=float(source - scores.mean()),
        average_targets=float(scores.mean()),
        average_all=float(everything.mean()),
        std_targets=float(scores.std()),
        std_all=float(everything.std()),
    )


def _ratio(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0


def _entity_scores(counts: Iterable[int], per_type: dict[str, EntityScores] | None = None) -> EntityScores:
    """The scores of numbers of gold, predicted and correct entities, or items of a class."""
    gold, predicted, correct = counts
    shares = _ratio(correct, predicted), _ratio(correct, gold), _ratio(2 * correct, gold + predicted)
    return EntityScores(*shares, gold, predicted, correct, per_type or {})
