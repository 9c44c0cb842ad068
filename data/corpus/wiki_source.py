"""Wikipedia's tables: SQL dumps of mysqldump, Wikidata's table of sites, and two-column files of titles.

The source wiki's files are a `SourceWiki`: a question is a pass over a file, memory grows with what is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ... import ConfigError, DataError
from ...untrusted import listed
from ..readers.lines import read_lines
from ..readers.problems import Problems
from .title_links import PageFacts
from .wiki_dump import LONGEST, blocks, clean_title, read_pages
from .wiki_text import is_disambiguation

_QUOTED = rb"(?:_binary )?'[^'\\]*+(?>(?:(?:\\.|'')[^'\\]*+)*)'"
_VALUE = rb"(?:" + _QUOTED + rb"|0x[0-9A-Fa-f]+|-?[0-9][0-9.eE+-]*|NULL)"
_ROW = re.compile(rb"\s*\((" + _VALUE + rb"(?>(?:," + _VALUE + rb")*))\)\s*[,;]", re.S)
_ONE = re.compile(_VALUE, re.S)
_ESCAPE = re.compile(rb"\\(.)|''", re.S)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"b": b"\b", b"Z": b"\x1a"}
_NAMES = re.compile(rb"`([^`]+)`")
_COLUMN = re.compile(rb"^\s*`([^`]+)`", re.M)
_ROW_LIMIT = 1 << 22
_LAST = b";"[0]
_MOST_COLUMNS = 4096  # of a table of MySQL
_NUMBER = re.compile(rb"[0-9]{1,18}")
_NUMBERS = ("page_id", "rd_from", "ll_from", "pp_page")
_ADVICE = "damaged or cut off; download the file again"
# The columns that are used, with their places where a file has no CREATE TABLE.
_PLACES = {
    "page": {"page_id": 0, "page_namespace": 1, "page_title": 2, "page_is_redirect": 3},
    "redirect": {"rd_from": 0, "rd_namespace": 1, "rd_title": 2, "rd_interwiki": 3},
    "langlinks": {"ll_from": 0, "ll_lang": 1, "ll_title": 2},
    "page_props": {"pp_page": 0, "pp_propname": 1},
    "wb_items_per_site": {"ips_item_id": 1, "ips_site_id": 2, "ips_site_page": 3},
}


class _Table:
    """A table in a dump of mysqldump; other tables, comments and settings around it are skipped."""

    def __init__(self, path: str | Path, table: str) -> None:
        self.path, self.table = path, table
        name = re.escape(table.encode())
        self.insert = re.compile(
            rb"^INSERT (?:IGNORE )?INTO `?" + name + rb"`?\s*+(\([^)]*+\))?\s*+VALUES\s*+", re.M | re.I
        )
        self.create = re.compile(rb"^CREATE TABLE (?:IF NOT EXISTS )?`?" + name + rb"`?\s*+\(", re.M | re.I)
        self.columns: list[str] = []
        self.held, self.place, self.base = b"", 0, 0

    def fault(self, what: str) -> DataError:
        return DataError(f"{self.path}: byte {self.base + self.place} of the SQL text: {what}; {_ADVICE}")

    def rows(self) -> Iterator[tuple[bytes, ...]]:
        """The raw values of each row, which is matched as a whole, so that a damaged one cannot be misread."""
        inside = found = False
        pattern: re.Pattern[bytes] | None = None
        for data in blocks(self.path):
            self.base += self.place
            self.held, self.place = self.held[self.place :] + data, 0
            while inside or self._enter():
                found = inside = True
                pattern, held = pattern or self._pattern(), self.held
                while inside and pattern and (row := pattern.match(held, self.place)):
                    self.place = row.end()
                    yield row.groups()
                    inside = held[self.place - 1] != _LAST
                if inside:
                    break
            if len(self.held) - self.place > (_ROW_LIMIT if inside else LONGEST):
                inside = True
                break
        if inside:
            begin = self.held[self.place : self.place + 40]
            raise self.fault(f"no whole row of {self.table} begins here: {begin!r}")
        if not found and not self.columns:
            raise DataError(f"{self.path}: byte 0: no table {self.table!r} in this file; give the dump of that table")

    def _pattern(self) -> re.Pattern[bytes] | None:
        """What a row looks like, by the first one."""
        if (first := _ROW.match(self.held, self.place)) is None:
            return None
        count = len(_ONE.findall(first[1]))
        if count > _MOST_COLUMNS or (self.columns and count != len(self.columns)):
            columns = len(self.columns) or _MOST_COLUMNS
            raise self.fault(f"{count} values for the {columns} columns of {self.table}")
        return re.compile(rb"\s*\(" + b",".join([b"(" + _VALUE + b")"] * count) + rb"\)\s*[,;]", re.S)

    def _enter(self) -> bool:
        """Go to the first row of the next INSERT; False where more bytes are needed."""
        made = None if self.columns else self.create.search(self.held, self.place)
        if made and (end := self.held.find(b"\n)", made.end())) >= 0:
            self.columns = _names(_COLUMN, self.held[made.end() : end])
        insert = self.insert.search(self.held, self.place)
        if insert is None:
            # The statement that the next block may complete begins at a line break; CREATE TABLE has many lines.
            keep = self.held.rfind(b"CREATE TABLE", self.place) if not self.columns else -1
            self.place = keep if keep >= 0 else self.held.rfind(b"\n", self.place) + 1 or self.place
            return False
        if insert[1]:
            self.columns = _names(_NAMES, insert[1])
        self.place = insert.end()
        return True


def _names(pattern: re.Pattern[bytes], text: bytes) -> list[str]:
    return [name.decode("utf-8", "replace") for name in pattern.findall(text)]


def table_rows(path: str | Path, table: str) -> Iterator[list[bytes]]:
    """The raw values of the used columns (those of `_PLACES`) of each row, wherever the file has them, streamed.

    Numbers of pages (the columns of `_NUMBERS`) are whole, of up to 18 digits.

    Raises:
        DataError: the file cannot be read, has no such table, is damaged, ends within a row, or has something else
            where a page's number belongs. All whole rows before it have been given out.
    """
    source, known = _Table(path, table), _PLACES[table]
    numbered = next(iter(known)) in _NUMBERS
    places = list(known.values())
    for number, row in enumerate(source.rows(), 1):
        if number == 1 and source.columns:
            if missing := [name for name in known if name not in source.columns]:
                has = listed(source.columns)
                raise DataError(f"{path}: the table {table} has no column {missing[0]}; it has {has}")
            places = [source.columns.index(name) for name in known]
        if max(places) >= len(row):
            raise DataError(f"{path}: row {number} of {table} has {len(row)} values, too few; {_ADVICE}")
        if numbered and not _NUMBER.fullmatch(row[places[0]]):
            raise DataError(f"{path}: row {number} of {table}: {row[places[0]][:40]!r} is no page; {_ADVICE}")
        yield [row[place] for place in places]


def text_of(raw: bytes) -> str:
    """The text of a quoted value, U+FFFD for bytes that are not UTF-8 (MediaWiki cuts long fields); "" for NULL."""
    if raw == b"NULL":
        return ""
    raw = raw.removeprefix(b"_binary ")[1:-1] if raw.endswith(b"'") else raw
    if b"\\" in raw or b"''" in raw:
        raw = _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[1]) if m[1] else b"'", raw)
    return raw.decode("utf-8", "replace")


def title_of(raw: bytes) -> str:
    """A title as the dumps have it, too."""
    return clean_title(text_of(raw))


def read_titles(path: str | Path) -> list[tuple[str, str]]:
    """The pairs of a two-column table: title in the source language, tab, title in the target language.

    Blank lines are left out; order and repetitions stay.

    Raises:
        DataError: the file cannot be read, or lines have another form; the first 20 are listed as `file:line:`.
    """
    problems = Problems()
    pairs: list[tuple[str, str]] = []
    for number, line in read_lines(path, "utf-8", problems):
        if not line.strip():
            continue
        cells = [clean_title(cell) for cell in line.split("\t")]
        if len(cells) == 2 and all(cells):
            pairs.append((cells[0], cells[1]))
            continue
        what = f"{len(cells)} columns" if len(cells) != 2 else "an empty title"
        problems.add(f"{path}:{number}", what, "write the source title, a tab and the target title")
    problems.raise_if_any()
    if not pairs:
        raise DataError(f"{path}:1: no pair of titles; write the source title, a tab and the target title on each line")
    return pairs


T = TypeVar("T")
_OFTEN = 1 << 14


def watched(rows: Iterable[T], poll: Callable[[], None]) -> Iterator[T]:
    """The rows, with a call of `poll` now and then, which may raise to end a long pass."""
    for number, row in enumerate(rows):
        if number % _OFTEN == 0:
            poll()
        yield row


@dataclass(frozen=True)
class SourceFiles:
    """The source wiki: `dump` (pages-articles), or its tables `page`, `redirect` and `page_props` (disambiguation
    pages), and for the links `langlinks` or `items` (Wikidata's table wb_items_per_site).
    """

    dump: Path | None = None
    page: Path | None = None
    redirect: Path | None = None
    page_props: Path | None = None
    langlinks: Path | None = None
    items: Path | None = None

    def check(self) -> None:
        """Refuse files that do not suffice, by a ConfigError that says what is missing."""
        if self.langlinks is None and self.items is None:
            raise ConfigError(
                "no language links: give --langlinks (the table langlinks of the source wiki), --wikidata "
                "(wb_items_per_site of Wikidata), or --titles with your own table"
            )
        if self.langlinks is not None and self.dump is None and self.page is None:
            raise ConfigError("--langlinks has page numbers only: give --source-dump or --page, which have the titles")
        if self.redirect is not None and self.page is None:
            raise ConfigError("--redirect has page numbers only: give --page, which has the titles")


class FileWiki:
    """The source wiki in files; `say` is told each file that is read, and `poll` called now and then, since a pass can
    take minutes."""

    def __init__(
        self,
        files: SourceFiles,
        source: str,
        target: str,
        *,
        say: Callable[[Path], None] = lambda path: None,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        files.check()
        self._say, self._poll = say, poll
        self._files, self._source, self._target = files, source, target

    def pages(self, titles: set[str]) -> dict[str, PageFacts]:
        """As `SourceWiki`; with Wikidata's table alone every title is taken for a page."""
        if self._files.page is not None:
            return self._from_tables(self._files.page, titles)
        if self._files.dump is not None:
            return dict(self._from_dump(self._files.dump, titles))
        return dict.fromkeys(titles, PageFacts(0))

    def links(self, pages: Mapping[str, int]) -> dict[str, str]:
        """As `SourceWiki`; where both tables are given, Wikidata's adds what `langlinks` lacks."""
        targets: dict[str, str] = {}
        if (sites := self._files.items) is not None:
            # Read twice, so that memory grows with the titles asked for and not with the table.
            items = {item: title for item, title in self._site(sites, self._source) if title in pages}
            targets |= {items[item]: title for item, title in self._site(sites, self._target) if item in items}
        if self._files.langlinks is not None:
            names = {number: title for title, number in pages.items()}
            code = f"'{self._target}'".encode()
            for page, language, title in self._rows(self._files.langlinks, "langlinks"):
                if language == code and int(page) in names:
                    targets[names[int(page)]] = title_of(title)
        return targets

    def _rows(self, path: Path, table: str) -> Iterator[list[bytes]]:
        self._say(path)
        return watched(table_rows(path, table), self._poll)

    def _site(self, path: Path, language: str) -> Iterator[tuple[bytes, str]]:
        """Item and title of one wiki, called `enwiki` or `zh_yuewiki`, in Wikidata's table."""
        name = language.lower().replace("-", "_") + "wiki"
        rows = self._rows(path, "wb_items_per_site")
        return ((item, title_of(title)) for item, site, title in rows if text_of(site) == name)

    def _from_dump(self, dump: Path, titles: set[str]) -> Iterator[tuple[str, PageFacts]]:
        self._say(dump)
        for page in watched(read_pages(dump, namespaces=(0,)), self._poll):
            if page.title in titles:
                listed = page.redirect is None and is_disambiguation(page.text, page.title)
                yield page.title, PageFacts(page.page_id, page.redirect, listed)

    def _from_tables(self, table: Path, titles: set[str]) -> dict[str, PageFacts]:
        pages: dict[bytes, tuple[str, bool]] = {}
        for number, namespace, raw, is_redirect in self._rows(table, "page"):
            if namespace == b"0" and (title := title_of(raw)) in titles:
                pages[number] = (title, is_redirect == b"1")
        leads: dict[bytes, str] = {}
        if self._files.redirect is not None and any(is_redirect for _, is_redirect in pages.values()):
            for number, namespace, raw, interwiki in self._rows(self._files.redirect, "redirect"):
                # To another wiki or namespace: no article.
                if number in pages and namespace == b"0" and not text_of(interwiki):
                    leads[number] = title_of(raw)
        return {
            title: PageFacts(int(number), leads.get(number, "") if is_redirect else None, number in self._listed)
            for number, (title, is_redirect) in pages.items()
        }

    @cached_property
    def _listed(self) -> set[bytes]:
        """The disambiguation pages by the table of properties; none without it."""
        if self._files.page_props is None:
            return set()
        rows = self._rows(self._files.page_props, "page_props")
        return {number for number, name in rows if name == b"'disambiguation'"}


def target_redirects(dump: Path, poll: Callable[[], None] = lambda: None) -> Iterator[tuple[str, str]]:
    """The redirects among the articles of a dump: title, and where it leads."""
    for page in watched(read_pages(dump, namespaces=(0,)), poll):
        if page.redirect is not None:
            yield page.title, page.redirect
