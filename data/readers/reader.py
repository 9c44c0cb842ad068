"""What the readers of all formats share: their options, the records of a file, and the examples made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import starmap
from typing import Any, ClassVar, NamedTuple, Protocol, cast

from ...untrusted import quoted
from .example import Example, Examples
from .lines import LabelSet, Watch, check_label, file_stem, finish, map_label, read_lines
from .problems import Problems
from .tagged import BIO_TAG, PLAIN, TaggedSentence, resolve_tags

NO_WORDS = ("-DOCSTART-", "#")
"""How lines of column files begin that are no word."""
PREDICTED = ("predicted", "confidence")
"""Columns and fields that a labelled file has more than it had."""
Lines = Iterator[tuple[int, str]]


@dataclass(frozen=True)
class ReaderOptions:
    """How a file is read. Each format takes some of these (`reader_options`).

    Attributes:
        language: written into the examples; of files that hold several, the one to read.
        encoding: of the file; CoNLL 2002 and 2003 come in latin-1.
        text: column or field of the text; so are `label` of the class (None leaves it unread), `pair` of the second
            text, and `id` of unique ids, without which they are `<file stem>:<line>`.
        language_field: column or field of the language; rows of another than `language` are left out, as `foreign`.
        words: field of the words; `tags` of their tags (None leaves them unread), or CoNLL-U's column of them, where
            "tags" is upos.
        token_column: column files: the words' column from 0, from the end where negative.
        label_column: likewise. Where absent the last, or, where that holds entities within those of the column before
            it (GermEval 2014), the column of the outer ones; counted as `nested`.
        separator: between columns of column files; a tab where the first word line has one, else runs of spaces.
        delimiter: between the columns of CSV; those of TSV have tabs.
        quoting: whether a table is CSV, in which a quoted field may hold line breaks; by the file's name where None.
        header: whether the first row names the columns; their names are else their numbers from 0, "0" for the first.
        scheme: of the tags, see `resolve_tags`.
        repair: read an invalid `I-` of BIO as `B-`, as conlleval does; counted as `repaired`.
        split: where the texts of files of entities are cut into words, as `word_pattern` takes it.
        split_words: plain text: give lists of words, cut as "punctuation" has it. Text in a script without spaces
            should come cut into words, as column file or JSON lines.
        cut_spans: what an entity is that begins or ends within a word: an "error", the whole words ("expand"), or
            nothing ("drop"); the last two are counted, as `cut`.
        labels: the labels or tags that may occur, after conversion to BIO, or `label_map`.
        label_map: new class for each class of the file; None drops the row, counted as `dropped`.
        tag_names: the names of labels that are whole numbers, from 0.
        require_labels: refuse what has no labels.
    """

    language: str = ""
    encoding: str = "utf-8"
    text: str = "text"
    label: str | None = "label"
    pair: str | None = None
    id: str | None = None
    language_field: str | None = None
    words: str = "words"
    tags: str | None = "tags"
    token_column: int = 0
    label_column: int | None = None
    separator: str | None = None
    delimiter: str = ","
    quoting: bool | None = None
    header: bool = True
    scheme: str = "auto"
    repair: bool = False
    split: str = "punctuation"
    split_words: bool = False
    cut_spans: str = "error"
    labels: Sequence[str] | None = None
    label_map: Mapping[str, str | None] | None = None
    tag_names: Sequence[str] = ()
    require_labels: bool = False


class Record(NamedTuple):
    """One piece of a file.

    Attributes:
        line: of the file, from 1.
        raw: as the file has it, in the reader's own form, from which `Reader.write` writes it back.
        example: what it holds, its tags as they are in the file; None where there is nothing to read, or to label.
    """

    line: int
    raw: Any
    example: Example | TaggedSentence | None


Piece = tuple[int, Any, Example | TaggedSentence | None]
"""The fields of a record, as readers make them: reading a file takes no more of it."""


class Labelled(Protocol):
    """What a model says of one example."""

    def cells(self) -> Iterable[tuple[str, str, str]]:
        """Each word, or "", with its label, `_` for none, and confidence."""

    def fields(self, name: str, words: str) -> dict[str, Any]:
        """As JSON values: the label or tags under `name`, the words under `words`."""


@dataclass(frozen=True)
class Head:
    """The first lines of a file, for `probe`.

    Attributes:
        few: they are no more than five, of each of which a format has to be sure.
        header: whether tables begin with the names of their columns.
        label: the column or field of the labels where the file has one of this name; found where empty.
    """

    path: Any
    lines: Iterable[str]
    few: bool = False
    header: bool = True
    label: str = ""

    @cached_property
    def filled(self) -> list[str]:
        """The lines that are not blank."""
        return [line for line in self.lines if line.strip()]


class Found(NamedTuple):
    """What `probe` takes a file for.

    Attributes:
        format: as `read_examples` takes it.
        options: keys of `ReaderOptions` that the file needs, where they differ from the defaults.
        task: "ner", "tag" or "classification"; None where there are no labels.
        note: what a person should know of the way it is read.
    """

    format: str
    options: dict[str, Any]
    task: str | None
    note: str = ""


class Reader:
    """A file in one format: its records, its examples, and its records written back with labels.

    Args:
        task: what it is to be labelled for; "" where its own labels are read.
        lines: of a stream; where absent the file is opened.
        problems: where faults of the lines are noted.

    Attributes:
        takes: the options of the format.
        counts: as of `Examples`, and rows `without_text`, which have nothing to label.
    """

    takes: ClassVar[tuple[str, ...]] = ("language", "encoding")

    def __init__(
        self,
        path: Any,
        options: ReaderOptions,
        *,
        task: str = "",
        lines: Lines | None = None,
        problems: Problems | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.path, self.options, self.task = str(path), options, task
        self.problems, self.counts = problems or Problems(), Counter[str]()
        self.stem = file_stem(path)
        self._given, self._watch = lines, watch
        self._labels = None if options.labels is None else LabelSet(options.labels)
        label_map = options.label_map
        self._label_map = None if label_map is None else {old.strip(): new for old, new in label_map.items()}
        self._ids: dict[str, int] = {}

    def lines(self) -> Lines:
        """The numbered lines."""
        return self._given or read_lines(self.path, self.options.encoding, self.problems, self._watch)

    def pieces(self) -> Iterator[Piece]:
        """All that the file holds, in order; faults are noted in `problems`."""
        raise NotImplementedError

    def records(self) -> Iterator[Record]:
        """The same as records, which `write` takes."""
        return starmap(Record, self.pieces())

    def write(self, record: Record, labelled: Labelled | None) -> str:
        """A record as its format has it, with what a model says of it; copied where that is nothing."""
        raise NotImplementedError

    def read(self) -> Examples:
        """The examples.

        Raises:
            ConfigError: unknown encoding, or another option with a wrong value.
            DataError: the file cannot be read or has no example; or all its faults, the first 20 listed by line.
        """
        found = [example for _, _, example in self.pieces() if example is not None]
        sentences = [one for one in found if isinstance(one, TaggedSentence)]
        self.resolve(sentences)
        examples = [self._example(one) for one in found] if sentences else cast(list[Example], found)
        return finish(self.path, examples, self.counts, self.problems)

    def stream(self) -> Iterator[Example]:
        """As `read`, an example at a time, its tags as they are; faults are raised at the end."""
        some = False
        for _, _, example in self.pieces():
            if example is not None:
                some = True
                yield self._example(example)
        self.problems.raise_if_any()
        if not some:
            finish(self.path, [], self.counts, self.problems)

    def _example(self, one: Example | TaggedSentence) -> Example:
        return one if isinstance(one, Example) else one.example(self.options.language, self.path)

    def resolve(self, sentences: Sequence[TaggedSentence]) -> None:
        """Makes BIO of the tags of the whole file, in place, and checks them."""
        scheme, repair = self.options.scheme, self.options.repair
        self.counts["repaired"] += resolve_tags(
            self.path, sentences, scheme=scheme, repair=repair, problems=self.problems
        )
        for sentence in sentences if self._labels is not None else ():
            for line, tag in sorted(set(zip(sentence.lines, sentence.tags or (), strict=False))):
                if scheme == PLAIN or BIO_TAG.fullmatch(tag):
                    check_label(f"{self.path}:{line}", tag, self._labels, self.problems)

    def row(self, number: int, cells: Mapping[str, str]) -> Example | None:
        """The example of a row's cells, by role; None where it is faulty, dropped or of another language."""
        place = f"{self.path}:{number}"
        faults = self.problems.count
        if "language" in cells and cells["language"] != self.options.language:
            self.counts["foreign"] += 1
            return None
        for role in cells:
            if not cells[role].strip():
                self.problems.add(place, f"empty {role}", "fill the field or remove the row")
        if self.problems.count > faults:
            return None
        label = cells.get("label")
        if label is not None:
            label = map_label(place, label.strip(), self._label_map, self.problems)
            if label is None:
                self.counts["dropped"] += 1
                return None
            if self.problems.count == faults:
                check_label(place, label, self._labels, self.problems)
        name = self.name(place, number, cells.get("id"))
        return Example(name, self.options.language, None, cells["text"], cells.get("pair"), label, self.path, number)

    def name(self, place: str, number: int, given: str | None) -> str:
        """The id of a row, checked to be the only one of its kind."""
        if given is None:
            return f"{self.stem}:{number}"
        if given in self._ids:
            what = f"id {quoted(given)} is already on line {self._ids[given]}"
            self.problems.add(place, what, "make the ids unique")
        self._ids.setdefault(given, number)
        return given

    def refuse_taken(self, place: str, what: str, names: Iterable[str]) -> None:
        """Notes columns or fields of a name that labels would be written under."""
        for name in names:
            self.problems.add(place, f"a {what} {name!r} is there already", "rename it")
