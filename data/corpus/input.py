"""The text to select from, as tasks of some megabytes.

What a task holds depends on the files alone, never on who works on it, so that a result is the same for any number of
workers. One process reads and unpacks the files; cutting markup, matching and scoring, which take most of the time, are
the work of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ... import DataError
from ..readers.lines import is_packed, open_file, read_lines
from ..readers.problems import Problems
from .wiki_dump import Page, blocks, read_articles, read_pages
from .wiki_text import is_disambiguation, to_text

Kind = Literal["text", "xml", "articles"]
PIECE = 8 << 20
"""Characters of a task, at least."""
_RATIO = 4
"""How much larger text becomes by unpacking, roughly; only for sizes that are shown or used as a bound."""


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
