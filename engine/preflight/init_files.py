"""A stranger's files: what each looks like, of which language it is, and what all need to be read together.

For `init` only: a run goes by its recipe.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import ConfigError, DataError
from ...data import Example, ReaderOptions, guess_format, read_examples, reader_options
from ...data.readers.arrow import ArrowReader
from ...data.readers.formats import open_reader, probe
from ...data.readers.lines import MIXED, WrongEncoding, plain_suffix, read_lines
from ...data.readers.problems import Problems
from ...data.readers.reader import Head
from ...tasks import has_spans, per_word
from ...untrusted import listed
from ..reading.read_file import differ_by_case, label_set
from ..recipe.config import ReaderConfig
from .languages import language_of

_FIELDS = ("token_column", "label_column", "words", "tags", "text", "pair", "label", "delimiter", "header")
"""Keys of a `reader` table that say where in a file things are."""
LINES = 2000
"""Lines that are looked at for the format."""


@dataclass(frozen=True)
class FileFacts:
    """What one file is.

    Attributes:
        format: "conll", "conllu", "tsv", "csv", "jsonl", "spans", "arrow" or "text".
        encoding: of the whole file; "ascii" where most others read it alike.
        options: keys of the `reader` table that it needs, where they differ from the defaults.
        task: "ner", "tag" or "classification"; None where the file has no labels.
        lines: the first lines.
        note: what a person should know of the way it is read.
    """

    path: Path
    format: str
    encoding: str
    options: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    lines: tuple[str, ...] = ()
    note: str = ""

    @property
    def codec(self) -> str:
        """What the file is read with."""
        return "utf-8" if self.encoding == "ascii" else self.encoding


@dataclass
class Language:
    """One language: the training file of the source or unlabelled text of a target, and keys of its `reader` table."""

    code: str
    files: list[FileFacts]
    test: FileFacts | None = None
    texts: list[Example] = field(default_factory=list)
    reader: dict[str, Any] = field(default_factory=dict)


@dataclass
class Inputs:
    """Everything that the recipe is written from; only test files have the labels `untaught`."""

    source: Language
    targets: list[Language]
    task: str = ""
    labels: tuple[str, ...] = ()
    untaught: tuple[str, ...] = ()
    reader: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def languages(self) -> list[Language]:
        return [self.source, *self.targets]


def sniff(path: Path, header: bool = True, label: str = "", encoding: str = "") -> FileFacts:
    """Looks at a file.

    Args:
        header: whether tables begin with the names of their columns.
        label: the column or field of the labels, where the file has one of this name; found where empty.
        encoding: of the file, where it is not UTF-8; found where empty.

    Raises:
        WrongEncoding: it is in no encoding that can be told, or in two, or a few of its lines are damaged.
        DataError: it cannot be read.
    """
    if guess_format(path, task="text") == "arrow":
        found = ArrowReader.probe(Head(path, (), label=label))
        return FileFacts(path, "arrow", "ascii", found.options, found.task)
    if plain_suffix(path) == ".spacy":
        texts = [example.plain for example in open_reader(path, "spans", ReaderOptions(), task="ner").stream()]
        return FileFacts(path, "spans", "ascii", task="ner", lines=tuple(texts[:LINES]))
    encoding, text = _decode(path, encoding)
    head = Head(path, text[:LINES], header=header, label=label)
    if not head.filled:
        raise DataError(f"{path}: the file is empty; give one with text")
    found = probe(head)
    return FileFacts(path, found.format, encoding, found.options, found.task, tuple(head.lines), found.note)


def read_sample(facts: FileFacts, task: str, options: Mapping[str, Any]) -> list[Example]:
    """All examples of a file, read as the run will read it."""
    chosen = {name: options[name] for name in reader_options(facts.format) if name in options}
    return read_examples(facts.path, task=task, format=facts.format, encoding=facts.codec, **chosen)


def pretokenised(lines: Sequence[str]) -> bool:
    """Whether text has spaces before its punctuation, so that white space alone gives the words."""
    marked = [line for line in lines if re.search(r"[.,;:!?](\s|$)", line)]
    apart = [line for line in marked if re.search(r"\s[.,;:!?](\s|$)", line) and not re.search(r"\w[,;](\s|$)", line)]
    return len(apart) * 2 > len(marked)


def _decode(path: Path, said: str) -> tuple[str, list[str]]:
    """The encoding and the lines of a whole file."""
    encoding, problems = "utf-8", Problems()
    try:
        lines = [line for _, line in read_lines(path, encoding, problems)]
    except WrongEncoding as error:
        if error.likely in ("", "ascii", encoding, MIXED) and not said:
            raise
        encoding = said or error.likely
        lines = [line for _, line in read_lines(path, encoding, problems)]
    problems.raise_if_any()
    return "ascii" if all(map(str.isascii, lines)) else encoding, lines


def find_files(
    source: Path,
    unlabelled: Sequence[Path],
    test: Sequence[Path],
    source_test: Path | None,
    language: str | None,
    target_languages: Sequence[str],
    look: Callable[[Path], FileFacts] = sniff,
) -> Inputs:
    """Which file is of which language; `look` says what a file is."""
    if target_languages and len(target_languages) not in (1, len(unlabelled)):
        raise ConfigError(
            f"{len(target_languages)} target languages for {len(unlabelled)} unlabelled files; give one each"
        )
    names = list(target_languages) * (len(unlabelled) if len(target_languages) == 1 else 1)
    guesses = list(names or map(language_of, unlabelled))
    code = language or language_of(source)
    spare = [x for x in map(language_of, test) if x and x != code and x not in guesses]
    if guesses == [None] and len(spare) == 1:
        guesses = [*spare]
    notes = [] if code else [_note(source, "src", "--language")]
    code = code or "src"
    first = Language(code, [look(source)], None if source_test is None else look(source_test))
    targets: dict[str, Language] = {}
    for path, guess in zip(unlabelled, guesses, strict=True):
        number = sum(x.code.startswith("tgt") for x in targets.values()) + 1
        name = guess or ("tgt" if guesses.count(None) == 1 else f"tgt{number}")
        notes += [] if guess else [_note(path, name, "--target-language")]
        targets.setdefault(name, Language(name, [])).files.append(look(path))
    if code in targets:
        raise ConfigError(
            f"source and target text both look like {code!r} by their names; give --language and --target-language"
        )
    inputs = Inputs(first, list(targets.values()), notes=notes)
    _match_tests(inputs, test, look)
    return inputs


def _note(path: Path, name: str, option: str) -> str:
    return f"{path}: its name tells no language, called {name!r}; see {option}"


def _match_tests(inputs: Inputs, tests: Sequence[Path], look: Callable[[Path], FileFacts]) -> None:
    """Gives each test file to its language: by name, and those without one in the order of the targets."""
    languages = {language.code: language for language in inputs.languages}
    nameless = []
    for path in tests:
        language = languages.get(language_of(path) or "")
        if language is None:
            nameless.append(path)
        elif language.test is not None:
            raise ConfigError(f"{path}: a second test file for {language.code}; give one for each language")
        else:
            language.test = look(path)
    without = [target for target in inputs.targets if target.test is None]
    if len(nameless) > len(without):
        raise ConfigError(
            f"{nameless[0]}: which language is this test file? The targets are "
            f"{', '.join(target.code for target in inputs.targets)}; put the language code into its name"
        )
    for target, path in zip(without, nameless, strict=False):
        named = f", although its name says {said}" if (said := language_of(path)) else ""
        inputs.notes.append(
            f"{path}: taken as the test file of {target.code}{named}; put the language into its name to be sure"
        )
        target.test = look(path)
    if silent := [target.code for target in without[len(nameless) :]]:
        inputs.notes.append(f"no test file for {', '.join(silent)}: the run gives a model, but no score there")


def read_files(inputs: Inputs) -> None:
    """Reads every file with the settings that they need together."""
    train = inputs.source.files[0]
    if train.task is None:
        raise DataError(
            f"{train.path}:1: found no labels; give words and tags in columns (CoNLL), or a table with a header "
            "row (TSV, CSV) or JSON lines with fields text and label; or say which column or field has them: "
            "--label-column NAME"
        )
    inputs.task = train.task
    inputs.reader |= train.options
    for test in (language.test for language in inputs.languages):
        if test and test.task is not None and per_word(test.task) != per_word(inputs.task):
            what = f"looks like {test.task}, and the training file {train.path} like {inputs.task}"
            raise DataError(f"{test.path}: {what}; give a test file of the same task")
    for language in inputs.languages:
        scored = [language.test] if language.test else []
        if language is inputs.source:
            language.reader = _own_keys([train, *scored], "", inputs.task) | _other_fields(train, scored, ())
            continue
        language.reader = _own_keys(scored, "", inputs.task) | _own_keys(language.files, "unlabelled_", inputs.task)
        if "encoding" in language.reader:
            language.reader.setdefault("unlabelled_encoding", "utf-8")
        language.reader |= _other_fields(train, scored, language.files)
    looked_at = [facts for x in inputs.languages for facts in (*x.files, x.test) if facts is not None]
    inputs.notes += [facts.note for facts in looked_at if facts.note]
    inputs.source.texts = _read_labelled(inputs, inputs.source, train)
    tests = [example for x in inputs.languages if x.test for example in _read_labelled(inputs, x, x.test)]
    inputs.labels = _labels(inputs, tests)
    for target in inputs.targets:
        for facts in target.files:
            target.texts += read_sample(facts, inputs.task, _options(inputs, target))
    plain = [line for target in inputs.targets for f in target.files if f.format == "text" for line in f.lines]
    if per_word(inputs.task) and plain and pretokenised(plain):
        inputs.reader["split"] = "whitespace"


def _own_keys(files: Sequence[FileFacts], prefix: str, task: str) -> dict[str, str]:
    """The encoding of one language's files of a kind, unless it is UTF-8, and a format that their names do not tell."""
    keys: dict[str, str] = {}
    encodings = {facts.encoding: facts.path for facts in files if facts.encoding != "ascii"}
    if set(encodings) == {"latin-1", "cp1252"}:
        del encodings["latin-1"]  # a part of cp1252
    told = all(guess_format(f.path, task=task, encoding=f.encoding) == f.format for f in files)
    formats = {} if told else {facts.format: facts.path for facts in files}
    for key, values in (("encoding", encodings), ("format", formats)):
        if len(values) > 1:
            listed = ", ".join(f"{path} is {name}" for name, path in values.items())
            advice = "convert them to UTF-8" if key == "encoding" else "name them by their format"
            first = next(iter(values.values()))
            raise DataError(f"{first}: files of one kind and language differ in their {key} ({listed}); {advice}")
        keys |= {f"{prefix}{key}": name for name in values if name != "utf-8"}
    return keys


def _other_fields(train: FileFacts, tests: Sequence[FileFacts], unlabelled: Sequence[FileFacts]) -> dict[str, Any]:
    """The columns and fields of a language's files, where they are not those of the training file.

    What looks like labels of unlabelled text has no say.
    """
    keys: dict[str, Any] = {}
    usual = vars(ReaderConfig()) | {"label_column": -1}
    for facts in (*tests, *unlabelled):
        for key in _FIELDS:
            if (key == "delimiter" and facts.format != "csv") or (key == "label" and facts in unlabelled):
                continue
            if key not in reader_options(facts.format) or not {key} & {*train.options, *facts.options}:
                continue
            if facts.task is None and key in ("label", "tags", "label_column"):
                continue  # a file without labels does not say where they are
            value = facts.options.get(key, usual[key])
            if keys.setdefault(key, value) != value:
                raise DataError(
                    f"{facts.path}: reader.{key} is {value!r} here and {keys[key]!r} in another file of its language; "
                    "give both the same fields"
                )
    return {key: value for key, value in keys.items() if value != train.options.get(key, usual[key])}


def _options(inputs: Inputs, language: Language) -> dict[str, Any]:
    """How the files of a language are read."""
    return inputs.reader | {key: value for key, value in language.reader.items() if key in _FIELDS}


def _read_labelled(inputs: Inputs, language: Language, facts: FileFacts) -> list[Example]:
    """The examples of a labelled file; `repair` goes into the recipe where only that makes a file readable."""
    try:
        return read_sample(facts, inputs.task, _options(inputs, language))
    except DataError as error:
        if not has_spans(inputs.task) or "does not continue an entity" not in str(error):
            raise
    inputs.reader["repair"] = True
    examples = read_sample(facts, inputs.task, _options(inputs, language))
    inputs.notes.append(f"{facts.path}: some entities start with I- in a BIO file; read as B- (reader.repair = true)")
    return examples


def _labels(inputs: Inputs, tests: Sequence[Example]) -> tuple[str, ...]:
    """Label set of the training file, plus labels that only a test file has, so that it can be scored."""
    train = inputs.source.texts
    labels = label_set(train, inputs.task)
    taught = set(labels)
    whole = label_set([*train, *tests], inputs.task)
    extra = [x for x in whole if x not in taught]
    if extra:
        inputs.notes.append(
            f"only in test files: {listed(extra)}; listed in labels so that they can be scored, but nothing teaches "
            "them (or map them with reader.label_map)"
        )
    if len(whole) < 2:
        path = inputs.source.files[0].path
        where = f" in {named!r}" if (named := inputs.reader.get("label")) else ""
        fix = "give --label-column NAME"
        if has_spans(inputs.task):
            fix = "if it has classes of texts, write an object a line"
        raise DataError(f"{path}: one label only{where} ({listed(whole)}); there is nothing to tell apart; {fix}")
    if alike := differ_by_case(whole):
        fix = "write them alike, or map them with reader.label_map"
        inputs.notes.append(f"labels that differ by case alone are classes of their own: {listed(alike)}; {fix}")
    inputs.untaught = tuple(extra)
    return (*labels, *extra)
