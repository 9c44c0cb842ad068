"""Wikipedia's dumps: the pages of pages-articles XML, and the articles of WikiExtractor's JSON lines."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from ... import DataError
from ..readers.lines import LONGEST_LINE, open_file, read_lines
from ..readers.problems import Problems

BLOCK = 1 << 20
"""Bytes read at once."""
LONGEST = LONGEST_LINE
"""The longest page, or statement before the rows of a table, that is taken for one, in bytes."""

_OPEN, _CLOSE = b"<page>", b"</page>"
_HEAD = re.compile(rb"<page>\s*<title>([^<]*)</title>\s*<ns>(-?\d{1,9})</ns>\s*<id>(\d{1,18})</id>")
_REDIRECT = re.compile(rb'<redirect title="([^"]*)"')
_TEXT = re.compile(rb"<text\b[^>]*>")
_ENTITY = re.compile(r"&(?:#(\d{1,7})|#x([0-9a-fA-F]{1,6})|(lt|gt|quot|apos|amp));")
_NAMED = {"lt": "<", "gt": ">", "quot": '"', "apos": "'", "amp": "&"}
_HALF = re.compile("[\ud800-\udfff]")
_AGAIN = "download the file again"


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a dump; `redirect` is the title that it leads to."""

    title: str
    namespace: int
    page_id: int
    redirect: str | None
    text: str


def blocks(path: str | Path) -> Iterator[bytes]:
    """The unpacked bytes of a file, a block at a time; all that can be read of a damaged one, then a DataError."""
    with open_file(path) as file:
        while data := file.read1(BLOCK):
            yield data


def clean_title(title: str) -> str:
    """A title as the tables and the dumps have it in common: composed (NFC), spaces for underscores, trimmed."""
    title = title.replace("_", " ").strip()
    return title if title.isascii() else unicodedata.normalize("NFC", title)


def read_pages(path: str | Path, *, namespaces: Container[int] | None = None) -> Iterator[Page]:
    """The pages of a pages-articles dump, in their order, in constant memory.

    Args:
        path: plain XML, or packed as `.gz`, `.bz2` (of one stream or many) or `.xz`.
        namespaces: pages of others are left out before their text is looked at; None keeps all. Articles are in 0.

    Raises:
        DataError: the file cannot be read, is no such dump, is damaged or ends too early. The message names the byte
            of the unpacked data, and all whole pages before it have been given out.
    """
    held, base, seen = b"", 0, False

    def fault(index: int, what: str) -> DataError:
        return DataError(f"{path}: byte {base + index}: {what}; {_AGAIN}")

    def check_gap(begin: int, end: int) -> None:
        """What stands between two pages must be nothing."""
        text = held[begin:end].strip()
        if seen and text and not text.startswith(b"</mediawiki>"):
            raise fault(begin, f"{text[:40]!r} instead of a page")
        if not seen and b"<mediawiki" not in text:
            raise DataError(f"{path}: byte 0: no <mediawiki> before the first page; give a pages-articles dump")

    for data in blocks(path):
        held, end = held + data, 0
        while (begin := held.find(_OPEN, end)) >= 0:
            check_gap(end, begin)
            end, seen = begin, True
            if (close := held.find(_CLOSE, begin)) < 0:
                break
            end = close + len(_CLOSE)
            try:
                page = _page(held[begin:end], namespaces)
            except ValueError as error:
                raise fault(begin, _said(error)) from error
            if page is not None:
                yield page
        if len(held) - end > LONGEST:
            name = (_CLOSE if held.startswith(_OPEN, end) else _OPEN).decode()
            raise fault(end, f"no {name} in the next {LONGEST} bytes")
        held, base = held[end:], base + end
    if held.startswith(_OPEN):
        raise fault(0, "the file ends within the page that begins here")
    check_gap(0, len(held))
    if b"</mediawiki>" not in held:
        raise fault(len(held), "the file ends here, without </mediawiki>")


def _said(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02x} of the page that begins here is not UTF-8"
    return str(error)


def _page(raw: bytes, namespaces: Container[int] | None) -> Page | None:
    """The page of an element; a ValueError says what is wrong with it."""
    head = _HEAD.match(raw)
    if head is None or raw.find(_OPEN, 1) > 0:
        raise ValueError(
            f"the page that begins here has {'no title, ns and id' if head is None else 'another page in it'}"
        )
    namespace = int(head[2])
    if namespaces is not None and namespace not in namespaces:
        return None
    title = clean_title(_unescape(head[1].decode()))
    # The last one: of a dump with history, the newest revision.
    begin = raw.rfind(b"<text", head.end())
    opened = _TEXT.match(raw, begin) if begin >= 0 else None
    end = raw.find(b"</text>", opened.end()) if opened else -1
    if opened is None or (end < 0 and not opened[0].endswith(b"/>")):
        raise ValueError(f"the text of the page {title!r} that begins here is damaged")
    text = _unescape(raw[opened.end() : end].decode()) if end >= 0 else ""
    link = _REDIRECT.search(raw, head.end(), begin)
    return Page(title, namespace, int(head[3]), clean_title(_unescape(link[1].decode())) if link else None, text)


def _unescape(text: str) -> str:
    if "&#" in text:
        return _ENTITY.sub(_character, text)
    for name, character in _NAMED.items() if "&" in text else ():
        text = text.replace(f"&{name};", character)
    return text


def _character(match: re.Match[str]) -> str:
    if match[3]:
        return _NAMED[match[3]]
    code = int(match[1]) if match[1] else int(match[2], 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF and code else "\ufffd"


def read_articles(path: str | Path) -> Iterator[str]:
    """The texts of a WikiExtractor file with `--json`: one object with "text" a line.

    U+FFFD stands for each half of a pair of surrogates, which JSON can hold.

    Raises:
        DataError: the file cannot be read, is damaged, or a line is no such object. All articles before have been
            given out.
    """
    for number, line in read_lines(path, "utf-8", Problems()):
        if not line.strip():
            continue
        try:
            article = json.loads(line)
        except (ValueError, RecursionError) as error:
            at = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
            raise DataError(
                f"{path}:{number}: not JSON{at}: {getattr(error, 'msg', error)}; "
                "give WikiExtractor's output with --json, or extract again if the file is cut off"
            ) from error
        text = article.get("text") if isinstance(article, dict) else None
        if not isinstance(text, str):
            raise DataError(f'{path}:{number}: no "text" string; give WikiExtractor\'s output with --json')
        yield _HALF.sub("\ufffd", text)
