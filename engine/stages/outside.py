"""Outside labels: what another model said of target texts, in the lines that `predict --json` writes.

In soft stages it is one teacher more, for the words and texts that it labelled; in hard stages one voter more, whose
label has to agree and whose confidence, where it gave one, has to pass alpha. Nothing of it touches the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ... import DataError
from ...data import OUTSIDE, Example, ReaderOptions, file_hash
from ...data.readers.jsonl import JsonReader
from ...data.readers.plain import word_pattern
from ...kernels import Votes
from ...tasks import per_word
from ...untrusted import listed, quoted
from ..evaluation.inference import Scored, scored_as
from ..plan import Stage, digest
from ..reading.read_file import first_of_each, read_file
from ..recipe.config import ReaderConfig, RunConfig, TargetConfig, reader_of
from ..summary.summary import FROM_OUTSIDE
from .context import Context

_Key = tuple[str, ...]
_SUMS_TO = 0.02
"""How far probabilities may be from a sum of 1, having been rounded."""


@dataclass(frozen=True)
class _Said:
    """Of one text: per item the class (-1: none), its probability (nan: not given), and all probabilities if given."""

    classes: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class OutsideLabels:
    """What was said of the items of a store.

    Attributes:
        classes: int64 [K], -1 where nothing was said.
        confidence: float32 [K], of that class; nan where none was given.
        probabilities: float32 [K, C]; of a class alone 1 for it, of a class with a confidence the rest in equal parts.
    """

    classes: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """bool [K]."""
        return self.classes >= 0


def read_outside(config: RunConfig, target: TargetConfig, labels: Sequence[str]) -> dict[_Key, _Said]:
    """The labels of a target's `pseudo_labels`, by text.

    Raises:
        DataError: all faults of the file by line: unknown labels, numbers that are no probabilities, other lengths.
    """
    path = target.pseudo_labels
    assert path is not None
    reader = reader_of(config, path, target.language, unlabelled=True)
    file = JsonReader(path, ReaderOptions(encoding=reader.encoding))
    problems = file.problems
    said: dict[_Key, _Said] = {}
    places: dict[_Key, int] = {}
    for number, row in file.objects():
        if row is None:
            continue
        key = _key_of(row, reader.settings, config.task)
        if key is None:
            what = "no words and no text" if per_word(config.task) else "no text"
            problems.add(f"{path}:{number}", what, "give what predict --json writes")
            continue
        try:
            one = _said(row, reader.settings, config.task, len(key), labels)
        except ValueError as error:
            problems.add(f"{path}:{number}", str(error), f"the labels are {listed(labels)}; null says nothing")
            continue
        if key in said and not np.array_equal(said[key].classes, one.classes):
            problems.add(
                f"{path}:{number}", f"the text of line {places[key]} has other labels here", "keep one of them"
            )
        said[key], places[key] = one, number
    problems.raise_if_any()
    return said


def _key_of(row: Mapping[str, Any], names: ReaderConfig, task: str) -> _Key | None:
    text, words = _field(row, names.text, "text"), _field(row, names.words, "words")
    if not per_word(task):
        pair = _field(row, names.pair or "pair", "pair")
        return (text + (f"\0{pair}" if isinstance(pair, str) else ""),) if isinstance(text, str) else None
    if words is None and isinstance(text, str):
        words = word_pattern(names.split).findall(text)
    return tuple(words) if isinstance(words, list) and words and all(isinstance(w, str) for w in words) else None


def _key_of_example(example: Example) -> _Key:
    if example.words is not None:
        return example.words
    return (str(example.text) + (f"\0{example.pair}" if example.pair is not None else ""),)


def _field(row: Mapping[str, Any], name: str, usual: str) -> Any:
    return row.get(name, row.get(usual))


def _said(row: Mapping[str, Any], names: ReaderConfig, task: str, items: int, labels: Sequence[str]) -> _Said:
    """Raises ValueError where a line does not say one label, or none, of each item."""
    role, name = ("tags", names.tags) if per_word(task) else ("label", names.label)
    given = row.get("predicted", _field(row, name, role))
    values = [_listed(given, task), _listed(row.get("confidence"), task), _listed(row.get("probabilities"), task)]
    if any(value and len(value) != items for value in values) or not values[0]:
        raise ValueError(f"not one of {name!r}, confidence and probabilities for each of {items} {role}")
    numbers = {None: -1, "_": -1} | {label: i for i, label in enumerate(labels)}
    if unknown := sorted({str(x) for x in values[0] if isinstance(x, list | dict) or x not in numbers}):
        raise ValueError(f"unknown label {listed(unknown, quoted)}")
    classes = np.array([numbers[x] for x in values[0]], dtype=np.int64)
    if not all(isinstance(x, int | float | None) for x in values[1]):
        raise ValueError("a confidence is not a number")
    confidence = np.array([np.nan if x is None else x for x in values[1] or [None] * items], dtype=np.float32)
    if np.any((confidence < 0) | (confidence > 1)):
        raise ValueError("a confidence is not between 0 and 1")
    if not values[2]:
        return _Said(classes, confidence)
    if not all(isinstance(one, dict) and all(isinstance(x, int | float) for x in one.values()) for one in values[2]):
        raise ValueError("probabilities are not an object of a number for each label")
    probabilities = np.array([[one.get(label, 0.0) for label in labels] for one in values[2]], dtype=np.float32)
    if np.any(probabilities < 0) or np.any(abs(probabilities.sum(axis=1) - 1) > _SUMS_TO):
        raise ValueError("the probabilities of the labels do not add up to 1")
    return _Said(classes, confidence, probabilities / probabilities.sum(axis=1, keepdims=True))


def _listed(value: Any, task: str) -> list[Any]:
    """A value for each word; of a text the one value."""
    if value is None:
        return []
    return list(value) if per_word(task) and isinstance(value, list) else [value]


def outside_labels(context: Context, stage: Stage) -> OutsideLabels | None:
    """The labels of a target's unlabelled text, on the items of its pool; None where it has no `pseudo_labels`.

    Raises:
        DataError: as `read_outside`, or they are of none of these texts.
    """
    target = _target(context, stage)
    if target is None or target.pseudo_labels is None:
        return None
    path = target.pseudo_labels
    if path not in context.opened:
        said = read_outside(context.config, target, context.data.labels)
        examples = list(context.data.sentences(target.unlabelled, target.language))
        examples = [examples[i] for i in first_of_each(examples)]
        refuse_strangers(path, said, examples)
        store = context.data.target_pool(target)
        context.opened[path] = _on_items(said, examples, store.item_offsets, store.item_words, context.data.labels)
    found: OutsideLabels = context.opened[path]
    return found


def _target(context: Context, stage: Stage) -> TargetConfig | None:
    """The one target of a stage; a recipe whose students learn several has no `pseudo_labels`."""
    return context.config.target(stage.targets[0]) if len(stage.targets) == 1 else None


def refuse_strangers(path: Any, said: Mapping[_Key, _Said], examples: Iterable[Example]) -> None:
    """Raises DataError where labels are of none of some texts."""
    if not any(_key_of_example(example) in said for example in examples):
        shown = " ".join(next(iter(said), ("",)))
        raise DataError(
            f"{path}:1: none of its {len(said):,} texts, such as {quoted(shown[:60])}, is unlabelled text of the "
            "target; label that text, its words as they are cut there"
        )


def _on_items(
    said: Mapping[_Key, _Said], examples: Sequence[Example], offsets: Any, words: Any, labels: Sequence[str]
) -> OutsideLabels:
    items, count = int(offsets[-1]), len(labels)
    classes, confidence = np.full(items, -1, dtype=np.int64), np.full(items, np.nan, dtype=np.float32)
    probabilities = np.zeros((items, count), dtype=np.float32)
    for i, example in enumerate(examples):
        if (one := said.get(_key_of_example(example))) is None:
            continue
        here, seen = slice(int(offsets[i]), int(offsets[i + 1])), np.asarray(words[offsets[i] : offsets[i + 1]])
        classes[here], confidence[here] = one.classes[seen], one.confidence[seen]
        probabilities[here] = np.nan if one.probabilities is None else one.probabilities[seen]
    guessed = np.isnan(probabilities[:, 0]) & (classes >= 0)
    sure = np.where(np.isnan(confidence), 1, confidence)[guessed]
    probabilities[guessed] = ((1 - sure) / max(1, count - 1))[:, None]
    probabilities[guessed, classes[guessed]] = sure
    return OutsideLabels(classes, confidence, np.nan_to_num(probabilities))


def outside_digests(context: Context, stage: Stage) -> dict[str, str]:
    """By role, what a stage of self-training takes from outside; empty where there is nothing."""
    target = _target(context, stage)
    if target is None or target.pseudo_labels is None:
        return {}
    reader = reader_of(context.config, target.pseudo_labels, target.language, unlabelled=True)
    parts = [file_hash(target.pseudo_labels), str(reader.settings)]
    return {"teacher.outside": digest({"outside": parts})}


def outside_notes(context: Context, stage: Stage) -> dict[str, Any]:
    """What `stage.json` says of outside labels: the mark, and how many of the items have one."""
    labels = outside_labels(context, stage)
    if labels is None:
        return {}
    return {"uses_outside_labels": True, "outside_items": int(labels.known.sum())}


def with_outside(votes: Votes, items: np.ndarray, labels: OutsideLabels | None) -> Votes:
    """The votes on some items of the pool with one voter more, on those that it knows; it changes no label."""
    if labels is None:
        return votes
    known, classes = labels.known[items], labels.classes[items]
    sure = np.where(known, np.nan_to_num(labels.confidence[items], nan=1.0), 1.0).astype(np.float32)
    agrees = torch.from_numpy(~known | (classes == votes.label.numpy()))
    lowest = torch.minimum(votes.min_confidence, torch.from_numpy(sure))
    return votes._replace(agree=votes.agree & agrees, min_confidence=lowest)


def agreement(votes: Votes, items: np.ndarray, labels: OutsideLabels | None, names: Sequence[str]) -> dict[str, Any]:
    """For `decision.json`: how far voters agree among themselves, and with outside labels; empty without these."""
    if labels is None:
        return {}
    known, theirs = labels.known[items], labels.classes[items]
    ours = votes.label.numpy()
    same = (ours == theirs)[known]
    outside = names.index(OUTSIDE) if OUTSIDE in names else -1
    named = known & ((ours != outside) | (theirs != outside))
    in_entities = (ours == theirs)[named]
    return {
        "voter_agreement": float(votes.agree.float().mean()),
        "outside": {
            "items": int(known.sum()),
            "agreement": float(same.mean()) if len(same) else None,
            "agreement_named": float(in_entities.mean()) if len(in_entities) else None,
        },
    }


def outside_scores(context: Context, stage: Stage) -> tuple[str, Scored, int] | None:
    """The labels' own scores, under the language that rows have, and of how many texts; from a first round's stage.

    None where they are not there for every test text.
    """
    if stage.round != 1 or stage.kind != "soft":
        return None
    config, target = context.config, _target(context, stage)
    if target is None or target.pseudo_labels is None or target.test is None:
        return None
    said = read_outside(config, target, context.data.labels)
    examples = read_file(config, target.test, language=target.language)
    if not all(_key_of_example(e) in said and (said[_key_of_example(e)].classes >= 0).all() for e in examples):
        return None
    store, labels = context.data.scored(target.test, target.language), context.data.labels
    items = _on_items(said, examples, store.item_offsets, store.item_words, labels)
    return f"{target.language}{FROM_OUTSIDE}", scored_as(labels, store, items.classes), len(store)
