"""Wikipedia's dumps: the pages of pages-articles XML, and the articles of WikiExtractor's JSON lines."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from ... import DataError
from .wiki_files import LONGEST, NO_END, Span, blocks, decode, open_text, split_dump, where

__all__ = ["NO_END", "Article", "Page", "Span", "clean_title", "open_text", "read_articles", "read_pages", "split_dump"]

_OPEN, _CLOSE = b"<page>", b"</page>"
_HEAD = re.compile(rb"<page>\s*<title>([^<]*)</title>\s*<ns>(-?\d+)</ns>\s*<id>(\d+)</id>")
_REDIRECT = re.compile(rb'<redirect title="([^"]*)"')
_TEXT = re.compile(rb"<text\b[^>]*>")
_ENTITY = re.compile(r"&(?:#(\d{1,7})|#x([0-9a-fA-F]{1,6})|(lt|gt|quot|apos|amp));")
_NAMED = {"lt": "<", "gt": ">", "quot": '"', "apos": "'", "amp": "&"}
_AGAIN = "download the file again"


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a dump; `redirect` is the title that it leads to, `offset` where it begins (see `read_pages`)."""

    title: str
    namespace: int
    page_id: int
    redirect: str | None
    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Article:
    """An article of WikiExtractor, with its line (counted from where reading started) and that line's offset."""

    title: str
    text: str
    line: int
    offset: int = 0


def clean_title(title: str) -> str:
    """A title as the tables and the dumps have it in common: composed (NFC), spaces for underscores, trimmed."""
    title = title.replace("_", " ").strip()
    return title if title.isascii() else unicodedata.normalize("NFC", title)


def read_pages(path: str | Path, *, start: int = 0, namespaces: Container[int] | None = None) -> Iterator[Page]:
    """The pages of a pages-articles dump, in their order, in constant memory.

    A page's offset is where it begins: in the file where that is plain XML, in the unpacked data for `.gz` and `.xz`.
    For `.bz2` it is where the stream in which the page begins starts in the packed file; all pages of one stream have
    the same.

    Args:
        path: plain XML, or packed as `.gz`, `.bz2` (of one stream or many) or `.xz`.
        start: begin with the first page that begins here or later: 0, the start of a span of `split_dump`, or the
            offset of a page.
        namespaces: pages of others are left out before their text is looked at; None keeps all. Articles are in 0.

    Raises:
        DataError: the file cannot be read, is no such dump, is damaged or ends too early. The message names the byte,
            and all whole pages before it have been given out.
    """
    scanner = _Scanner(path, start, namespaces)
    for data, offset in blocks(path, start):
        scanner.add(data, offset)
        yield from scanner.pages()
    scanner.finish()


class _Scanner:
    """Finds pages in bytes that come block by block; what stands between two pages must be nothing."""

    def __init__(self, path: str | Path, start: int, namespaces: Container[int] | None) -> None:
        self.path, self.start, self.namespaces = path, start, namespaces
        self.by_stream = Path(path).suffix.lower() == ".bz2"
        self.held, self.place, self.seen = b"", 0, False
        self.marks: list[tuple[int, int]] = []  # index in `held` -> offset there

    def add(self, data: bytes, offset: int) -> None:
        """More bytes; those of whole pages go."""
        gone = self.place
        self.held, self.place = self.held[gone:] + data, 0
        self.marks = [(index - gone, at) for index, at in self.marks]
        while len(self.marks) > 1 and self.marks[1][0] <= 0:
            del self.marks[0]
        if not self.marks or (self.by_stream and self.marks[-1][1] != offset):
            self.marks.append((len(self.held) - len(data), offset))

    def offset(self, index: int) -> int:
        """The offset of a byte held."""
        begin, offset = next(mark for mark in reversed(self.marks) if mark[0] <= index)
        return offset if self.by_stream else offset + index - begin

    def pages(self) -> Iterator[Page]:
        """The whole pages among the bytes held."""
        while (begin := self.held.find(_OPEN, self.place)) >= 0:
            self._check_gap(self.held[self.place : begin])
            self.place, self.seen = begin, True
            close = self.held.find(_CLOSE, begin)
            if close < 0:
                break
            self.place = close + len(_CLOSE)
            page = self._page(self.held[begin : self.place], self.offset(begin))
            if page is not None:
                yield page
        if len(self.held) - self.place > LONGEST:
            name = (_CLOSE if self.held.startswith(_OPEN, self.place) else _OPEN).decode()
            raise DataError(f"{self._at(self.place)}: no {name} in the next {LONGEST} bytes; {_AGAIN}")

    def finish(self) -> None:
        """Refuse what is no end of a dump."""
        rest = self.held[self.place :]
        if rest.startswith(_OPEN):
            raise DataError(f"{self._at(self.place)}: the file ends within the page that begins here; {_AGAIN}")
        if not self.marks:
            raise DataError(f"{self.path}: nothing from byte {self.start} on; is this a pages-articles dump?")
        self._check_gap(rest)
        if b"</mediawiki>" not in rest:
            raise DataError(f"{self._at(len(self.held) - 1)}: the file ends here, without </mediawiki>; {_AGAIN}")

    def _at(self, index: int) -> str:
        return f"{self.path}: {where(self.path, self.offset(index))}"

    def _check_gap(self, gap: bytes) -> None:
        text = gap.strip()
        if self.seen:
            if text and not text.startswith(b"</mediawiki>"):
                raise DataError(f"{self._at(self.place)}: {text[:40]!r} instead of a page; {_AGAIN}")
        elif self.start == 0 and b"<mediawiki" not in text:
            raise DataError(f"{self.path}: byte 0: no <mediawiki> before the first page; give a pages-articles dump")

    def _page(self, raw: bytes, offset: int) -> Page | None:
        place = f"{self.path}: {where(self.path, offset)}"
        head = _HEAD.match(raw)
        if head is None or raw.find(_OPEN, 1) > 0:
            fault = "has no title, ns and id" if head is None else "has another page in it"
            raise DataError(f"{place}: the page that begins here {fault}; {_AGAIN}")
        namespace = int(head[2])
        if self.namespaces is not None and namespace not in self.namespaces:
            return None
        title = clean_title(self._text(head[1], offset, head.start(1)))
        # The last one: of a dump with history, the newest revision.
        begin = raw.rfind(b"<text", head.end())
        opened = _TEXT.match(raw, begin) if begin >= 0 else None
        end = raw.find(b"</text>", opened.end()) if opened else -1
        if opened is None or (end < 0 and not opened[0].endswith(b"/>")):
            raise DataError(f"{place}: the text of the page {title!r} that begins here is damaged; {_AGAIN}")
        text = self._text(raw[opened.end() : end], offset, opened.end()) if end >= 0 else ""
        link = _REDIRECT.search(raw, head.end(), begin)
        redirect = clean_title(self._text(link[1], offset, link.start(1))) if link else None
        return Page(title, namespace, int(head[3]), redirect, text, offset)

    def _text(self, data: bytes, offset: int, after: int) -> str:
        return _unescape(decode(self.path, data, offset, after=after))


def _unescape(text: str) -> str:
    if "&" not in text:
        return text
    if "&#" in text:
        return _ENTITY.sub(_character, text)
    text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&apos;", "'")
    return text.replace("&amp;", "&")


def _character(match: re.Match[str]) -> str:
    if match[3]:
        return _NAMED[match[3]]
    code = int(match[1]) if match[1] else int(match[2], 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF and code else "\ufffd"


def read_articles(path: str | Path, *, start: int = 0) -> Iterator[Article]:
    """The articles of a WikiExtractor file with `--json`: one object with "title" and "text" a line.

    Args:
        path: `.gz`, `.bz2` and `.xz` are unpacked.
        start: as of `open_text`.

    Raises:
        DataError: the file cannot be read, is damaged, or a line is no such object; names line and byte. All articles
            before have been given out.
    """
    for number, (offset, line) in enumerate(open_text(path, start=start), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}: {where(path, offset)}"
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{place}: not JSON at character {error.pos + 1}: {error.msg}; "
                "give WikiExtractor's output with --json, or extract again if the file is cut off"
            ) from error
        title, text = (found.get("title"), found.get("text")) if isinstance(found, dict) else (None, None)
        if not isinstance(title, str) or not isinstance(text, str):
            raise DataError(f'{place}: no "title" and "text" strings; give WikiExtractor\'s output with --json')
        yield Article(clean_title(title), text, number, offset)
