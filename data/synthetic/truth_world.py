"""The truth world: a laboratory in which everything that a run cannot know is known (docs/truth-world.md).

A source language with labels, real or made by the demo's grammar, and target languages that are made of it by a seeded
bijection of words. The labels of the unlabelled target text and the errors planted in the source labels are written
beside the text, in files that no recipe names: only the report reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ... import ConfigError, DataError
from ..batches.seeding import derive_seed
from ..readers.example import OUTSIDE, Example
from .demo_names import Draws
from .truth_config import TruthKnobs
from .truth_language import FakeLanguage, inversions
from .truth_text import (
    Item,
    Pool,
    Wrong,
    entity_types,
    file_pools,
    grammar_pools,
    plant_noise,
    shares_of,
    shifted,
)
from .world_folder import RECORD, conll_of, create_world, lines_of, read_world

VERSION = 1
"""Rises with every change to the text that a configuration gives."""
_WHAT = "truth world"
_HIDDEN = "hidden"


@dataclass(frozen=True)
class TruthFiles:
    """Where a truth world lies. Mappings are by language.

    Attributes:
        hidden: target language -> the sentences of `unlabelled` with their gold labels, line by line the same words.
        unknown: target language -> sentences of `hidden`, counted from 0, whose labels nobody knows.
        noise: the errors planted in the labels of `train`.
        measured: what the knobs came to in the text that was made (docs/truth-world.md).
    """

    folder: Path
    train: Path
    unlabelled: dict[str, Path]
    general: dict[str, Path]
    control: dict[str, Path]
    test: dict[str, Path]
    hidden: dict[str, Path]
    unknown: dict[str, tuple[int, ...]]
    noise: tuple[Wrong, ...]
    measured: dict[str, Any]


def make_truth_world(
    knobs: TruthKnobs,
    folder: Path,
    *,
    task: str = "ner",
    source: str = "en",
    targets: Sequence[str] = ("fake",),
    text: Sequence[Example] | None = None,
    general: Sequence[Example] | None = None,
    content: str = "",
) -> TruthFiles:
    """The world of some knobs, written into `folder` unless it lies there already.

    Args:
        task: "ner" or "classification".
        source: name of the source language.
        targets: names of the fake languages; each has its own bijection and its own sentences.
        text: labelled source sentences; the demo's English grammar when absent.
        general: text of another domain, labels ignored.
        content: hash of the files that `text` and `general` come from.

    Raises:
        ConfigError: the knobs contradict each other, or the text does not suffice for them.
        DataError: the folder holds something else: other files, another configuration, or files that were changed.
        StorageError: writing failed.
    """
    if faults := knobs.faults():
        raise ConfigError("truth world: " + "; ".join(faults))
    made_of = {f.name: getattr(knobs, f.name) for f in fields(TruthKnobs)} | {
        "text": None,
        "general": None,
        "content": content,
    }
    config = made_of | {"task": task, "source": source, "targets": list(targets)}
    folder = Path(folder)
    if not (folder / RECORD).exists():
        pools = grammar_pools(knobs.seed, task) if text is None else file_pools(knobs.seed, text, general)
        contents, record = _Maker(knobs, task, source, *pools).make(targets)
        head = {"version": VERSION, "config": config}
        create_world(folder, contents, head | record, _WHAT)
    return open_truth_world(folder, config)


class _Maker:
    """Draws the sentences of a world, all different and none the translation of another."""

    def __init__(self, knobs: TruthKnobs, task: str, source: str, text: Pool, general: Pool) -> None:
        self.knobs, self.task, self.source, self.text, self.general = knobs, task, source, text, general
        self.ending = "conll" if task == "ner" else "tsv"
        self.files: dict[str, str] = {}
        self.placeholder = ""

    def make(self, targets: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
        """The files by name, and what the record says besides the configuration."""
        knobs = self.knobs
        task = self.text.take(knobs.unlabelled_sentences)
        test = self.text.take(knobs.test_sentences)
        clean = task[: knobs.train_sentences]
        train, wrong = plant_noise(clean, knobs.label_noise, knobs.seed)
        self._general(self.source, self._take_general())
        self.files[f"task.{self.source}.unlabelled.txt"] = lines_of(
            item.words for item in task[knobs.train_sentences :]
        )
        self.files[f"task.{self.source}.train.{self.ending}"] = self._labelled(train)
        self.files[f"task.{self.source}.test.{self.ending}"] = self._labelled(test)
        shares = shares_of(clean)
        self.placeholder = min(shares)
        drawn = {target: self._draw(shifted(shares, knobs.label_shift)) for target in targets}
        everything = [task, test, *(part for parts in drawn.values() for part in parts.values())]
        _check_labels(train, everything)
        words = [word for part in everything for item in part for word in item.words]
        unknown: dict[str, list[int]] = {}
        measured: dict[str, Any] = {"label_noise": len(wrong) / len(clean)}
        for target in targets:
            language = self._language(target, words)
            unknown[target] = self._target(target, language, drawn[target])
            measured[target] = _measured(language, clean, drawn[target])
        return self.files, {"noise": [asdict(w) for w in wrong], "unknown": unknown, "measured": measured}

    def _draw(self, shares: Mapping[str, float]) -> dict[str, list[Item]]:
        """A target's sentences, in the words of the source."""
        knobs, asked = self.knobs, None
        if knobs.label_shift > 0:
            asked = shares
        foreign = round(knobs.domain_shift * knobs.unlabelled_sentences)
        parts = {
            "task": self.text.take(knobs.unlabelled_sentences - foreign, asked),
            "foreign": self.general.take(foreign),
            "test": self.text.take(knobs.test_sentences, asked),
        }
        return parts | self._take_general()

    def _take_general(self) -> dict[str, list[Item]]:
        knobs = self.knobs
        return {
            "general": self.general.take(knobs.general_sentences),
            "control": self.general.take(knobs.control_sentences),
        }

    def _language(self, target: str, words: Iterable[str]) -> FakeLanguage:
        knobs = self.knobs
        return FakeLanguage(
            words,
            seed=derive_seed(knobs.seed, "truth world", "language", target),
            anchors=knobs.anchors,
            letter_overlap=knobs.letter_overlap,
            affixes=knobs.affixes,
            word_order=knobs.word_order,
        )

    def _target(self, target: str, language: FakeLanguage, drawn: Mapping[str, list[Item]]) -> list[int]:
        """Writes a target's files; returns the unlabelled sentences whose labels nobody knows."""
        draws = Draws(derive_seed(self.knobs.seed, "truth world", "endings", target))
        said = {name: [_said(language, item, draws) for item in items] for name, items in drawn.items()}
        both = said["task"] + said["foreign"]
        mixed = sorted(range(len(both)), key=lambda i: derive_seed(self.knobs.seed, "truth world", "mix", target, i))
        pool = [both[i] for i in mixed]
        self._general(target, said)
        self.files[f"task.{target}.unlabelled.txt"] = lines_of(item.words for item in pool)
        self.files[f"{_HIDDEN}.{target}.{self.ending}"] = self._labelled(pool)
        self.files[f"task.{target}.test.{self.ending}"] = self._labelled(said["test"])
        types = sorted({w for part in drawn.values() for item in part for w in item.words})
        self.files[f"lexicon.{target}.tsv"] = "".join(f"{w}\t{language.word(w)}\n" for w in types)
        return [n for n, item in enumerate(pool) if item.labels is None]

    def _general(self, language: str, said: Mapping[str, list[Item]]) -> None:
        for name in ("general", "control"):
            self.files[f"{name}.{language}.txt"] = lines_of(item.words for item in said[name])

    def _labelled(self, items: Sequence[Item]) -> str:
        if self.task == "ner":
            return conll_of((item.words, _tags(item)) for item in items)
        return "text\tlabel\n" + "".join(f"{item.text}\t{item.labels or self.placeholder}\n" for item in items)


def _check_labels(train: Sequence[Item], everything: Sequence[Sequence[Item]]) -> None:
    known = {name for item in train for name in _names(item)}
    unseen = sorted({name for part in everything for item in part for name in _names(item)} - known - {""})
    if unseen:
        raise ConfigError(
            f"truth world: no training sentence has {', '.join(unseen)}; ask for more train_sentences, or drop these "
            "labels from the text"
        )


def _said(language: FakeLanguage, item: Item, draws: Draws) -> Item:
    if isinstance(item.labels, tuple):
        words, tags = language.sentence(item.words, item.labels, draws)
        return Item(words, tags)
    return Item(language.sentence(item.words, None, draws)[0], item.labels)


def _measured(language: FakeLanguage, clean: Sequence[Item], drawn: Mapping[str, Sequence[Item]]) -> dict[str, float]:
    """What the knobs came to, counted in the target's own text (fractions; words without a letter left out)."""
    items = [item for name in ("task", "foreign", "test", "general", "control") for item in drawn[name]]
    tokens = [w for item in items for w in item.words if any(map(str.isalpha, w))]
    types = {w.lower() for w in tokens}
    tags = [item.labels if isinstance(item.labels, tuple) else None for item in items]
    orders = [inversions(language.order(item.words, t)) for item, t in zip(items, tags, strict=True)]
    foreign = len(drawn["foreign"])
    return {
        "anchor_types": _mean(language.word(w) == w for w in sorted(types)),
        "anchor_tokens": _mean(language.word(w) == w for w in tokens),
        "ending_types": _mean(language.takes_ending(w) for w in sorted(types)),
        "ending_tokens": _mean(map(language.takes_ending, tokens)),
        "inversions": _mean(orders),
        "prior_distance": _distance(clean, drawn["task"]),
        "domain_shift": foreign / (foreign + len(drawn["task"])),
    }


def _distance(one: Sequence[Item], other: Sequence[Item]) -> float:
    """Total variation of two distributions of classes or entity types."""
    first, second = (shares_of(Item((), name) for item in part for name in _names(item)) for part in (one, other))
    return sum(abs(first.get(n, 0.0) - second.get(n, 0.0)) for n in sorted(first.keys() | second.keys())) / 2


def _tags(item: Item) -> Sequence[str]:
    return item.labels if isinstance(item.labels, tuple) else (OUTSIDE,) * len(item.words)


def _names(item: Item) -> list[str]:
    return entity_types(item.labels) if isinstance(item.labels, tuple) else [item.kind]


def _mean(values: Iterable[float]) -> float:
    listed = [float(v) for v in values]
    return sum(listed) / len(listed) if listed else 0.0


def open_truth_world(folder: Path, config: Mapping[str, Any] | None = None) -> TruthFiles:
    """The world that lies in a folder.

    Raises:
        DataError: there is none, it has another configuration than `config`, or a file was changed.
    """
    record = read_world(folder, VERSION, config, _WHAT)
    config = record["config"]
    source, targets = config["source"], config["targets"]
    ending = "conll" if config["task"] == "ner" else "tsv"
    languages = [source, *targets]
    try:
        noise = tuple(Wrong(**entry) for entry in record["noise"])
        unknown = {target: tuple(record["unknown"][target]) for target in targets}
        measured = dict(record["measured"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / RECORD}:1: lacks what was planted ({error}); delete {folder}") from error
    return TruthFiles(
        folder=folder,
        train=folder / f"task.{source}.train.{ending}",
        unlabelled={x: folder / f"task.{x}.unlabelled.txt" for x in languages},
        general={x: folder / f"general.{x}.txt" for x in languages},
        control={x: folder / f"control.{x}.txt" for x in languages},
        test={x: folder / f"task.{x}.test.{ending}" for x in languages},
        hidden={x: folder / f"{_HIDDEN}.{x}.{ending}" for x in targets},
        unknown=unknown,
        noise=noise,
        measured=measured,
    )
