"""Which of a stranger's files is what: language by language, and what all of them need to be read together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import ConfigError, DataError
from ...data import Example, guess_format
from ..stages.datasets import label_set
from .languages import language_of
from .sniff import FileFacts, pretokenised, read_sample, sniff


@dataclass
class Language:
    """One language with its files and what was read from them."""

    code: str
    unlabelled: list[FileFacts] = field(default_factory=list)
    test: FileFacts | None = None
    texts: list[Example] = field(default_factory=list)


@dataclass
class Found:
    """Everything that the recipe is written from.

    `encoding` is that of [reader], `encodings` has the keys of a language's own `reader` table, where it needs any.
    """

    source: FileFacts
    language: str
    source_test: FileFacts | None
    targets: list[Language]
    folder: Path
    task: str = ""
    encoding: str = "utf-8"
    encodings: dict[str, dict[str, str]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    reader: dict[str, tuple[Any, str]] = field(default_factory=dict)
    train: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def labelled(self) -> list[FileFacts]:
        tests = [self.source_test, *(t.test for t in self.targets)]
        return [self.source, *(f for f in tests if f is not None)]

    @property
    def unlabelled(self) -> list[FileFacts]:
        return [f for t in self.targets for f in t.unlabelled]


def find_files(
    source: Path,
    unlabelled: Sequence[str | Path],
    test: Sequence[str | Path],
    source_test: str | Path | None,
    language: str | None,
    target_languages: Sequence[str],
    folder: Path,
) -> Found:
    """Which file is of which language."""
    if target_languages and len(target_languages) not in (1, len(unlabelled)):
        raise ConfigError(
            f"{len(target_languages)} target languages for {len(unlabelled)} unlabelled files; give one each"
        )
    names = list(target_languages) * (len(unlabelled) if len(target_languages) == 1 else 1)
    guesses: list[str | None] = [*names] or [language_of(Path(p)) for p in unlabelled]
    tests = [Path(p) for p in test]
    code = language or language_of(source)
    spare = [x for x in map(language_of, tests) if x and x != code and x not in guesses]
    if guesses == [None] and len(spare) == 1:
        guesses = [spare[0]]
    missing = [i for i, guess in enumerate(guesses) if guess is None]
    codes = [g or ("tgt" if len(missing) == 1 else f"tgt{missing.index(i) + 1}") for i, g in enumerate(guesses)]
    notes = [
        f"{unlabelled[i]}: its name tells no language, called {codes[i]!r}; see --target-language" for i in missing
    ]
    if code is None:
        code = "src"
        notes.insert(0, f"{source}: its name tells no language, called 'src'; see --language")
    if code in codes:
        raise ConfigError(
            f"source and target text both look like {code!r} by their names; give --language and --target-language"
        )
    targets = {c: Language(c) for c in codes}
    for c, path in zip(codes, unlabelled, strict=True):
        targets[c].unlabelled.append(sniff(Path(path)))
    found = Found(sniff(source), code, None, list(targets.values()), folder, notes=notes)
    if source_test is not None:
        found.source_test = sniff(Path(source_test))
    _match_tests(found, targets, tests)
    return found


def _match_tests(found: Found, targets: dict[str, Language], tests: Sequence[Path]) -> None:
    """Gives each test file to its language: by name, and those without one in the order of the targets."""
    nameless = []
    for path in tests:
        code = language_of(path)
        if code in targets and targets[code].test is None:
            targets[code].test = sniff(path)
        elif code == found.language and found.source_test is None:
            found.source_test = sniff(path)
        elif code in targets or code == found.language:
            raise ConfigError(f"{path}: a second test file for {code}; give one for each language")
        else:
            nameless.append(path)
    open_targets = [t for t in targets.values() if t.test is None]
    if len(nameless) > len(open_targets):
        raise ConfigError(
            f"{nameless[0]}: which language is this test file? The targets are {', '.join(targets)}; put the language "
            "code into its name"
        )
    for target, path in zip(open_targets, nameless, strict=False):
        found.notes.append(
            f"{path}: taken as the test file of {target.code}; put the language into its name to be sure"
        )
        target.test = sniff(path)
    silent = [t.code for t in targets.values() if t.test is None]
    if silent:
        found.notes.append(f"no test file for {', '.join(silent)}: the run gives a model, but no score there")


def read_files(found: Found) -> None:
    """Reads every file with the settings that they need together."""
    if found.source.task is None:
        raise DataError(
            f"{found.source.path}:1: found no labels; give words and tags in columns (CoNLL), or a table with a header "
            "row (TSV, CSV) or JSON lines with fields text and label"
        )
    found.task = found.source.task
    _encodings(found)
    found.reader |= {key: (value, _WHY[key]) for key, value in found.source.options.items()}
    _formats(found)
    options = {key: value for key, (value, _) in found.reader.items()}
    found.train = _read_labelled(found, found.source, options)
    tests = [(t.code, t.test) for t in found.targets]
    gold = {code: _read_labelled(found, f, options) for code, f in tests if f is not None}
    if found.source_test is not None:
        gold[found.language] = _read_labelled(found, found.source_test, options)
    found.labels = _labels(found, gold)
    for target in found.targets:
        for facts in target.unlabelled:
            target.texts += read_sample(facts, found.task, options)
    plain = [line for f in found.unlabelled if f.format == "text" for line in f.lines]
    if found.task == "ner" and plain and pretokenised(plain):
        found.reader["split"] = ("whitespace", "the unlabelled text has spaces around its punctuation already")


_WHY = {
    "token_column": "the words are in this column, counted from 0",
    "label_column": "the tags are in this column, counted from 0",
    "repair": "some entities of the files start with I-; read them as B-, as conlleval does",
    "words": "field of the words",
    "tags": "field of the tags",
    "text": "column or field of the text",
    "pair": "column or field of the second text",
    "label": "column or field of the label",
}


def _common_encoding(files: Iterable[FileFacts]) -> str:
    """The encoding that all of the files can be read with; "ascii" where most can.

    Raises:
        DataError: there is none.
    """
    encodings: dict[str, Path] = {}
    for facts in files:
        if facts.encoding != "ascii":
            encodings.setdefault(facts.encoding, facts.path)
    if set(encodings) == {"latin-1", "cp1252"}:
        return "cp1252"
    if len(encodings) > 1:
        listed = ", ".join(f"{path} is {name}" for name, path in encodings.items())
        raise DataError(
            f"{next(iter(encodings.values()))}: files of one kind and language have several encodings ({listed}); "
            "convert them to UTF-8"
        )
    return next(iter(encodings), "ascii")


def _encodings(found: Found) -> None:
    """The encodings of each language's files, and where there is one for all of them, that of the recipe."""
    sources = [found.source, *([] if found.source_test is None else [found.source_test])]
    needed = {found.language: (_common_encoding(sources), "ascii")}
    for t in found.targets:
        needed[t.code] = (_common_encoding([] if t.test is None else [t.test]), _common_encoding(t.unlabelled))
    used = {encoding for pair in needed.values() for encoding in pair} - {"ascii"}
    if used == {"latin-1", "cp1252"}:
        used = {"cp1252"}
    found.encoding = used.pop() if len(used) == 1 else "utf-8"
    if not used:
        return
    for code, pair in needed.items():
        keys = zip(("encoding", "unlabelled_encoding"), pair, strict=True)
        found.encodings[code] = {key: name for key, name in keys if name not in ("ascii", "utf-8")}
        if pair[1] == "utf-8" and "encoding" in found.encodings[code]:
            found.encodings[code]["unlabelled_encoding"] = "utf-8"


def _formats(found: Found) -> None:
    """Reader formats, where the names of the files do not tell them."""
    for key, files in (("format", found.labelled), ("unlabelled_format", found.unlabelled)):
        kinds = {f.format for f in files}
        told = all(guess_format(f.path, task=found.task, encoding=f.encoding) == f.format for f in files)
        if told:
            continue
        if len(kinds) > 1:
            listed = ", ".join(f"{f.path} is {f.format}" for f in files)
            raise ConfigError(
                f"files of several formats whose names do not tell them ({listed}); name them by their format"
            )
        found.reader[key] = (kinds.pop(), "the names of the files do not tell it")


def _read_labelled(found: Found, facts: FileFacts, options: dict[str, Any]) -> list[Example]:
    """The examples of a labelled file; `repair` goes into the recipe where only that makes a file readable."""
    try:
        return read_sample(facts, found.task, options)
    except DataError as error:
        if found.task != "ner" or "does not continue an entity" not in str(error):
            raise
    options["repair"] = True
    examples = read_sample(facts, found.task, options)
    found.reader["repair"] = (True, _WHY["repair"])
    found.notes.append(f"{facts.path}: some entities start with I- in a BIO file; read as B- (reader.repair = true)")
    return examples


def _labels(found: Found, gold: dict[str, list[Example]]) -> tuple[str, ...]:
    """Label set of the training file, plus labels that only a test file has, so that it can be scored."""
    labels = label_set(found.train, found.task)
    whole = label_set([*found.train, *(e for examples in gold.values() for e in examples)], found.task)
    extra = [x for x in whole if x not in labels]
    if extra:
        found.notes.append(
            f"only in test files: {', '.join(extra)}; listed in labels so that they can be scored, but nothing teaches "
            "them (or map them with reader.label_map)"
        )
    if len(whole) < 2:
        raise DataError(f"{found.source.path}: one label only ({', '.join(whole)}); there is nothing to tell apart")
    return (*labels, *extra)
