"""The text to select from as tasks of some megabytes, and of each the sentences that may be selected.

What a task holds depends on the files alone, never on who works on it, and its result is the same wherever that is
done. One process reads and unpacks the files; cutting markup, matching and scoring, which take most of the time, are
the work of all.
"""

from __future__ import annotations

import random
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ... import DataError
from ..batches.sampling import derive_seed
from ..readers.lines import is_packed, open_file, read_lines
from ..readers.problems import Problems
from .select import SentenceHash, comparison_key
from .title_links import TitleMatcher
from .wiki_dump import Page, blocks, read_articles, read_pages
from .wiki_text import is_disambiguation, to_text

Kind = Literal["text", "xml", "articles"]
PIECE = 8 << 20
"""Characters of a task, at least."""
_RATIO = 4
"""How much larger text becomes by unpacking, roughly; only for sizes that are shown or used as a bound."""

MATCHED, CONTROL = 1, 2
_SPACES = ("\u00a0", "\u202f", "\u2007", "\u2009", "\t", "\f", "\v")
_NOTHING = ("\u00ad", "\u200e", "\u200f", "\ufeff")
_MORE_SPACES = re.compile(" {2,}")


@dataclass(frozen=True)
class Source:
    """A file of text; `kind` as `kind_of` tells, `size` the bytes of its content, roughly."""

    path: str
    kind: Kind
    size: int


@dataclass(frozen=True)
class Task:
    """A part of the text: its number among all tasks of a run, lines or pages, and their characters."""

    index: int
    items: tuple[str | Page, ...]
    size: int

    def __str__(self) -> str:
        return f"piece {self.index} of the text"


def kind_of(path: str | Path) -> Kind:
    """XML, WikiExtractor's JSON lines, or text, by the first character of the content."""
    for data in blocks(path):
        first = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if first:
            return "xml" if first == b"<" else "articles" if first == b"{" else "text"
    raise DataError(f"{path}: the file is empty; give a file with text")


def open_source(path: str | Path, kind: Kind | None = None) -> Source:
    """A file of text, whose kind is looked up where it is None; a DataError where it cannot be read."""
    kind = kind or kind_of(path)
    with open_file(path):
        size = Path(path).stat().st_size
    return Source(str(path), kind, size * (_RATIO if is_packed(path) else 1))


def tasks(sources: Sequence[Source], *, piece: int = PIECE) -> Iterator[Task]:
    """The tasks of all files in their order; the files are read as the tasks are asked for."""
    number = size = 0
    held: list[str | Page] = []
    for source in sources:
        for item in _items(source):
            held.append(item)
            size += len(item if isinstance(item, str) else item.text)
            if size >= piece:
                yield Task(number, tuple(held), size)
                number, held, size = number + 1, [], 0
    if held:
        yield Task(number, tuple(held), size)


def _items(source: Source) -> Iterator[str | Page]:
    if source.kind == "xml":
        return read_pages(source.path, namespaces=(0,))
    if source.kind == "articles":
        return read_articles(source.path)
    return (line for _, line in read_lines(source.path, "utf-8", Problems()))


def texts_of(task: Task, language: str, counts: Counter[str]) -> Iterator[str]:
    """The texts of a task, each of one or more lines, without markup, redirects and disambiguation pages."""
    yield "\n".join(item for item in task.items if isinstance(item, str))
    for page in task.items:
        if isinstance(page, str):
            continue
        if page.redirect is not None:
            counts["redirects"] += 1
        elif is_disambiguation(page.text, page.title):
            counts["disambiguations"] += 1
        else:
            counts["pages"] += 1
            yield to_text(page.text, language)


@dataclass
class PieceResult:
    """The sentences kept of a piece, each once, in the order of the text; what was read and left out (`counts`).

    A pair is a row and an entity in its sentence.
    """

    texts: list[str] = field(default_factory=list)
    hashes: array[int] = field(default_factory=lambda: array("Q"))
    flags: array[int] = field(default_factory=lambda: array("B"))
    pair_row: array[int] = field(default_factory=lambda: array("i"))
    pair_entity: array[int] = field(default_factory=lambda: array("i"))
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class PieceReader:
    """What a piece's result depends on beside its text.

    `groups` has the entity of each title of `matcher`; `split` cuts paragraphs, `control_share` of which are sampled
    with all their sentences; `excluded` has the keys (`comparison_key`) of what must not be in the corpus.
    """

    matcher: TitleMatcher
    groups: tuple[int, ...]
    split: Callable[[str], list[str]]
    seed: int
    min_chars: int
    max_chars: int
    control_share: float
    excluded: frozenset[str] = frozenset()

    def read(self, index: int, texts: Iterable[str], counts: Counter[str] | None = None) -> PieceResult:
        """The result of the piece with a number; `counts` are gone on with."""
        result, rows = PieceResult(counts=Counter() if counts is None else counts), dict[int, int]()
        draw = random.Random(derive_seed(self.seed, "control", index)).random
        hash_of = SentenceHash(self.seed)
        for text in texts:
            result.counts["characters"] += len(text)
            lines = paragraphs(text)
            result.counts["paragraphs"] += len(lines)
            for line in lines:
                control = draw() < self.control_share
                matched = bool(self._entities_in(line))
                for sentence in self.split(line) if control or matched else ():
                    found = self._entities_in(sentence) if matched else set[int]()
                    if (found or control) and self._may_be_kept(sentence, bool(found), result.counts):
                        _add(result, rows, sentence, hash_of(sentence), found, control)
        return result

    def _entities_in(self, text: str) -> set[int]:
        return {self.groups[match.title] for match in self.matcher.find(text)}

    def _may_be_kept(self, sentence: str, matched: bool, counts: Counter[str]) -> bool:
        counts["matched"] += matched
        if not self.min_chars <= len(sentence) <= self.max_chars:
            counts["too-short" if len(sentence) < self.min_chars else "too-long"] += matched
            return False
        if self.excluded and comparison_key(sentence) in self.excluded:
            counts["excluded"] += 1
            return False
        return True


def _add(
    result: PieceResult, rows: dict[int, int], sentence: str, value: int, entities: set[int], control: bool
) -> None:
    row = len(rows)
    if value in rows:
        result.counts["duplicates"] += bool(entities)
        result.flags[rows[value]] |= CONTROL * control
        return
    rows[value] = row
    result.texts.append(sentence)
    result.hashes.append(value)
    result.flags.append(MATCHED * bool(entities) | CONTROL * control)
    for entity in entities:
        result.pair_row.append(row)
        result.pair_entity.append(entity)


def paragraphs(text: str) -> list[str]:
    """The non-empty lines of a text in NFC, white space made single spaces, invisible characters removed."""
    for char in _SPACES:
        if char in text:
            text = text.replace(char, " ")
    for char in _NOTHING:
        if char in text:
            text = text.replace(char, "")
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if "  " in text:
        text = _MORE_SPACES.sub(" ", text)
    normal, compose = unicodedata.is_normalized, unicodedata.normalize
    return [
        line if line.isascii() or normal("NFC", line) else compose("NFC", line)
        for line in map(str.strip, text.split("\n"))
        if line
    ]
