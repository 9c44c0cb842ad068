"""The demo's small made world: text and gold labels in English, German and Spanish, written as plain files.

docs/demo.md says what this world is and what it cannot show.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ... import ConfigError, DataError, StorageError
from ..batches.sampling import derive_seed
from ..store.store import content_hash
from .demo_events import Everyday, News
from .demo_grammar import grammar
from .demo_names import LANGUAGES, Draws, Names, lexicon

SOURCE = LANGUAGES[0]
TYPES = ("PER", "LOC", "ORG", "MISC")
VERSION = 2
"""Rises with every change to the sentences that a configuration gives."""
RECORD = "world.json"
_WHAT = "demo world"


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """The knobs of the world. Counts are sentences, per language where there are several; shares lie in [0, 1]."""

    seed: int = 0
    shared_name_share: float = 0.35
    """How often a name comes from the pool that all languages share, and not from the language's own."""
    composed_org_share: float = 0.45
    """How often an organisation is named after a place ("University of Leeds", "Eintracht Kassel")."""
    person_share: float = 0.30
    """General text: how often a person who acts is a given name."""
    place_share: float = 0.25
    """General text: how often a sentence names a city or country."""
    general_sentences: int = 3000
    """Per language, to pre-train on."""
    control_sentences: int = 4000
    """More general text per language, for the control arm: what task text gives is compared with as much of this."""
    train_sentences: int = 2000
    """Labelled, in the source language."""
    unlabelled_sentences: int = 4000
    """Task text per language; in the source language the labelled sentences are part of the count."""
    test_sentences: int = 1000
    label_noise: float = 0.0
    """Share of the source's training sentences with an entity in which one entity gets a wrong type."""

    def __post_init__(self) -> None:
        problems = []
        for name, value in asdict(self).items():
            if name.endswith("_share") or name == "label_noise":
                if not 0.0 <= value <= 1.0:
                    problems.append(f"{name} = {value} must lie in [0, 1]")
            elif name != "seed" and value < 1:
                problems.append(f"{name} = {value} must be at least 1")
        if self.unlabelled_sentences <= self.train_sentences:
            problems.append(
                f"unlabelled_sentences = {self.unlabelled_sentences} must be above train_sentences = "
                f"{self.train_sentences}: the source's labelled sentences are part of its task text"
            )
        if problems:
            raise ConfigError("demo world: " + "; ".join(problems))


@dataclass(frozen=True)
class WorldFiles:
    """Where the world lies. Mappings are by language ("en", "de", "es"); text files hold one sentence a line with its
    words separated by spaces, CoNLL files a word, a tab and its BIO tag a line, and an empty line after each sentence.
    """

    folder: Path
    general: dict[str, Path]
    control: dict[str, Path]
    unlabelled: dict[str, Path]
    """Task text; in the source language what there is besides `train`."""
    train: Path
    test: dict[str, Path]
    noisy: tuple[int, ...]
    """The training sentences, counted from 0, whose labels were made wrong on purpose."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words, their BIO tags, and the entities as they were drawn, before any grammar: type and name (for
    nationalities, the English word)."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    entities: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def make_world(config: WorldConfig, folder: Path) -> WorldFiles:
    """The world of `config`, written into `folder` unless it lies there already.

    Folder and `world.json` (configuration, SHA-256 of every file) appear at once, or not at all.

    Raises:
        DataError: the folder holds something else: other files, another configuration, or files that were changed.
        StorageError: writing failed.
    """
    folder = Path(folder)
    if not (folder / RECORD).exists():
        contents, noisy = _contents(config)
        record = {"version": VERSION, "config": asdict(config), "noisy_sentences": noisy}
        create_world(folder, contents, record, _WHAT)
    return _open(config, folder)


def stream(language: str, domain: str, draws: Draws, config: WorldConfig) -> Iterator[Sentence]:
    """Sentences of a language in the "general" or the "news" domain without end; some occur more than once."""
    names = Names(draws, lexicon(language), config.shared_name_share, config.composed_org_share)
    teller = grammar(language)
    everyday = Everyday(draws, names, config.person_share, config.place_share)
    domain_sampler = everyday if domain == "general" else News(draws, names)
    while True:
        names.planted.clear()
        words, tags = teller.tell(domain_sampler.event())
        yield Sentence(tuple(words), tuple(tags), tuple(names.planted))


def _distinct(
    config: WorldConfig, language: str, domain: str, purpose: str, count: int, seen: set[str]
) -> list[Sentence]:
    """`count` sentences that are not in `seen`, which grows by them."""
    sentences = stream(language, domain, Draws(derive_seed(config.seed, "demo world", language, purpose)), config)
    chosen: list[Sentence] = []
    for _ in range(20 * count + 1000):
        if len(chosen) == count:
            return chosen
        candidate = next(sentences)
        if candidate.text not in seen:
            seen.add(candidate.text)
            chosen.append(candidate)
    raise ConfigError(f"demo world: the grammar does not make {count} more distinct {domain} sentences; ask for fewer")


def _contents(config: WorldConfig) -> tuple[dict[str, str], list[int]]:
    """The files by name, and the numbers of the sentences with wrong labels."""
    files: dict[str, str] = {}
    noisy: list[int] = []
    for language in LANGUAGES:
        everyday: set[str] = set()
        for purpose, count in (("general", config.general_sentences), ("control", config.control_sentences)):
            chosen = _distinct(config, language, "general", purpose, count, everyday)
            files[f"{purpose}.{language}.txt"] = lines_of(item.words for item in chosen)
        news: set[str] = set(everyday)
        test = _distinct(config, language, "news", "test", config.test_sentences, news)
        files[f"task.{language}.test.conll"] = conll_of((item.words, item.tags) for item in test)
        task = _distinct(config, language, "news", "task", config.unlabelled_sentences, news)
        if language == SOURCE:
            train, noisy = _with_noise(config, task[: config.train_sentences])
            task = task[config.train_sentences :]
            files[f"task.{language}.train.conll"] = conll_of((item.words, item.tags) for item in train)
        files[f"task.{language}.unlabelled.txt"] = lines_of(item.words for item in task)
    return files, noisy


def _with_noise(config: WorldConfig, train: list[Sentence]) -> tuple[list[Sentence], list[int]]:
    draws = Draws(derive_seed(config.seed, "demo world", "label noise"))
    noisy = []
    for number, item in enumerate(train):
        if not item.entities or not draws.chance(config.label_noise):
            continue
        tags, *_ = with_wrong_type(item.tags, draws, TYPES)
        train[number] = Sentence(item.words, tags, item.entities)
        noisy.append(number)
    return train, noisy


def with_wrong_type(tags: Sequence[str], draws: Draws, types: Sequence[str]) -> tuple[tuple[str, ...], int, str, str]:
    """BIO tags of which one entity got another of the types; its first word, its right type, its wrong type."""
    start = draws.pick([position for position, tag in enumerate(tags) if tag.startswith("B-")])
    right = tags[start][2:]
    wrong = draws.pick([kind for kind in types if kind != right])
    changed = list(tags)
    changed[start] = f"B-{wrong}"
    for position in range(start + 1, len(changed)):
        if changed[position] != f"I-{right}":
            break
        changed[position] = f"I-{wrong}"
    return tuple(changed), start, right, wrong


def _open(config: WorldConfig, folder: Path) -> WorldFiles:
    record = read_world(folder, VERSION, asdict(config), _WHAT)
    try:
        noisy = tuple(record["noisy_sentences"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / RECORD}:1: has no list of noisy sentences ({error}); delete the folder") from error
    return WorldFiles(
        folder=folder,
        general={language: folder / f"general.{language}.txt" for language in LANGUAGES},
        control={language: folder / f"control.{language}.txt" for language in LANGUAGES},
        unlabelled={language: folder / f"task.{language}.unlabelled.txt" for language in LANGUAGES},
        train=folder / f"task.{SOURCE}.train.conll",
        test={language: folder / f"task.{language}.test.conll" for language in LANGUAGES},
        noisy=noisy,
    )


def lines_of(sentences: Iterable[Sequence[str]]) -> str:
    """Sentences, each its words, as a text file: one a line, spaces between the words."""
    return "".join(f"{' '.join(words)}\n" for words in sentences)


def conll_of(sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> str:
    """Words with their tags as a column file."""
    return "".join("".join(f"{w}\t{t}\n" for w, t in zip(*one, strict=True)) + "\n" for one in sentences)


def write_world(folder: Path, contents: Mapping[str, str], record: Mapping[str, object]) -> None:
    """Files by name, then the record with their SHA-256 and its own."""
    hashes = {}
    for name, text in contents.items():
        data = text.encode("utf-8")
        hashes[name] = hashlib.sha256(data).hexdigest()
        (folder / name).write_bytes(data)
    whole = json.loads(json.dumps({**record, "files": hashes}))
    (folder / RECORD).write_text(json.dumps(whole | {"sha256": content_hash(whole)}, indent=1) + "\n", encoding="utf-8")


def create_world(folder: Path, contents: Mapping[str, str], record: Mapping[str, object], what: str) -> None:
    """Writes a folder beside `folder`, and renames it; all or nothing.

    Raises:
        DataError: the folder holds files that are no world.
        StorageError: writing failed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: holds files but no {RECORD}; give the {what} an empty or a new folder")
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        try:
            write_world(part, contents, record)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if not (folder / RECORD).exists():
            raise StorageError(f"{folder}: the {what} could not be written: {error}") from error


def read_world(folder: Path, version: int, config: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    """The record of a world that lies in `folder`, its files compared with their hashes; any configuration with None.

    Raises:
        DataError: no such record, another version or configuration, or a file that was changed.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found, made_with, hashes = record["version"], record["config"], dict(record["files"])
        same = found == version and (config is None or made_with == dict(config))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}:1: not the record of a {what} ({error}); delete the folder to make it again"
        ) from error
    if record.get("sha256") not in (None, content_hash(record)):
        raise DataError(f"{path}:1: changed since it was written; delete {folder} to make it again")
    if not same:
        raise DataError(f"{path}:1: the folder holds the {what} of another configuration; give this one its own folder")
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise DataError(f"{file}:1: missing, or changed since it was made; delete {folder} to make it again")
    return dict(record)
