"""The text to select from as tasks: spans of files that can be read anywhere, and batches of those that cannot.

What a task holds depends on the files alone, never on who works on it, so that a result is the same for any number of
workers. `feed` is for files packed as one stream: one process has to unpack them, others can do the rest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ... import DataError
from .wiki_dump import read_articles, read_pages
from .wiki_files import NO_END, blocks, decode, has_streams, is_packed, open_file, split_dump
from .wiki_text import is_disambiguation, to_text

Kind = Literal["text", "xml", "articles"]
PIECE = 8 << 20
"""Bytes of a task, at least; of a packed file before unpacking a quarter of it."""
_MOST_TASKS = 4096
_RATIO = 4
"""How much larger text becomes by unpacking, roughly; only for sizes that are shown or used as a bound."""


@dataclass(frozen=True)
class Source:
    """A file of text; `kind` as `kind_of` tells."""

    path: str
    kind: Kind
    size: int
    """Bytes on the disk."""
    feed: bool
    """Whether one process has to read it from the start."""

    @property
    def unpacked(self) -> int:
        """Bytes of its content, roughly."""
        return self.size * (_RATIO if is_packed(self.path) else 1)


@dataclass(frozen=True)
class Task:
    """A part of the text: a span of a file, or texts that were read already.

    Attributes:
        index: its number among all tasks of a run, from 0.
        start: where the span begins; of `items` the number of the first one.
        items: texts (pages in wiki markup for XML), None for a span.
        size: bytes to count as read when it is done.
    """

    index: int
    path: str
    kind: Kind
    start: int
    end: int
    size: int
    items: tuple[str, ...] | None = None


def kind_of(path: str | Path) -> Kind:
    """XML, WikiExtractor's JSON lines, or text, by the first character of the content."""
    for data, _ in blocks(path):
        first = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if first:
            return "xml" if first == b"<" else "articles" if first == b"{" else "text"
    raise DataError(f"{path}: the file is empty; give a file with text")


def open_source(path: str | Path, kind: Kind | None = None) -> Source:
    """A file of text, whose kind is looked up where it is not given."""
    kind = kind or kind_of(path)
    with open_file(path) as file:
        size = file.seek(0, 2)
    feed = is_packed(path) and not (kind == "xml" and has_streams(path))
    return Source(str(path), kind, size, feed)


def tasks(sources: Sequence[Source], *, piece: int = PIECE) -> Iterator[Task]:
    """The tasks of all files in their order; those of a feed read the file as they are asked for."""
    piece = max(piece, sum(s.unpacked for s in sources) // _MOST_TASKS)
    number = 0
    for source in sources:
        for task in _feed(source, number, piece) if source.feed else _spans(source, number, piece):
            yield task
            number += 1


def _spans(source: Source, number: int, piece: int) -> Iterator[Task]:
    spans = split_dump(source.path, max(1, -(-source.unpacked // piece)))
    for span in spans:
        size = min(span.end, source.size) - span.start
        yield Task(number, source.path, source.kind, span.start, span.end, size)
        number += 1


def _feed(source: Source, number: int, piece: int) -> Iterator[Task]:
    held: list[str] = []
    size = first = 0
    for count, (text, length) in enumerate(_whole_texts(source)):
        held.append(text)
        size += length
        if size >= piece:
            yield Task(number, source.path, source.kind, first, count + 1, size, tuple(held))
            held, size, first, number = [], 0, count + 1, number + 1
    if held:
        yield Task(number, source.path, source.kind, first, NO_END, size, tuple(held))


def _whole_texts(source: Source) -> Iterator[tuple[str, int]]:
    """Texts with the bytes that they took, of a file read from the start."""
    if source.kind == "xml":
        for page in read_pages(source.path, namespaces=(0,)):
            if page.redirect is None and not is_disambiguation(page.text, page.title):
                yield page.text, len(page.text.encode())
    elif source.kind == "articles":
        for article in read_articles(source.path):
            text = _characters(article.text)
            yield text, len(text.encode())
    else:
        for data, offset in _whole_lines(source.path):
            yield decode(source.path, data, offset), len(data)


def texts_of(task: Task, language: str, counts: Counter[str]) -> Iterator[str]:
    """The texts of a task, markup removed, each of one or more lines.

    Raises:
        DataError: the file is damaged there; the message names the byte.
    """
    if task.kind == "xml":
        yield from _pages(task, language, counts)
    elif task.items is not None:
        counts["articles"] += len(task.items) if task.kind == "articles" else 0
        yield from task.items
    elif task.kind == "articles":
        for data, offset in _span_lines(task):
            for line in data.split(b"\n"):
                if line.strip():
                    counts["articles"] += 1
                    yield _article(task.path, line, offset)
                offset += len(line) + 1
    else:
        for data, offset in _span_lines(task):
            yield decode(task.path, data, offset)


def _pages(task: Task, language: str, counts: Counter[str]) -> Iterator[str]:
    if task.items is not None:
        for markup in task.items:
            counts["pages"] += 1
            yield to_text(markup, language)
        return
    for page in read_pages(task.path, start=task.start, namespaces=(0,)):
        if page.offset >= task.end:
            return
        if page.redirect is not None:
            counts["redirects"] += 1
        elif is_disambiguation(page.text, page.title):
            counts["disambiguations"] += 1
        else:
            counts["pages"] += 1
            yield to_text(page.text, language)


def _article(path: str, line: bytes, offset: int) -> str:
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: byte {offset}: not a JSON line: {error}; give WikiExtractor's output with --json"
        ) from error
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str):
        raise DataError(f'{path}: byte {offset}: no "text" string; give WikiExtractor\'s output with --json')
    return _characters(text)


def _characters(text: str) -> str:
    """The text with U+FFFD for each half of a pair of surrogates, which JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _span_lines(task: Task) -> Iterator[tuple[bytes, int]]:
    """Whole lines of a span of a plain file, a block at a time, each block with its offset."""
    left = task.end - task.start
    for data, offset in _whole_lines(task.path, task.start):
        if len(data) >= left:
            # The span ends at the end of a line.
            yield data[:left], offset
            return
        yield data, offset
        left -= len(data)


def _whole_lines(path: str, start: int = 0) -> Iterator[tuple[bytes, int]]:
    held, at = b"", start
    for data, _ in blocks(path, start):
        cut = data.rfind(b"\n") + 1
        if cut:
            yield held + data[:cut], at
            at += len(held) + cut
            held = data[cut:]
        else:
            held += data
    if held:
        yield held, at
