"""Wikipedia's tables: the SQL dumps of mysqldump, Wikidata's table of sites, and two-column files of titles."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from ... import DataError
from ..readers.problems import Problems
from .wiki_dump import clean_title
from .wiki_files import blocks, open_text

_QUOTED = rb"(?:_binary )?'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'"
_VALUE = rb"(?:" + _QUOTED + rb"|-?[0-9][0-9.eE+-]*|NULL|0x[0-9A-Fa-f]+)"
_ROW = re.compile(rb"\s*\((" + _VALUE + rb"(?:," + _VALUE + rb")*+)\)\s*[,;]", re.S)
_ONE = re.compile(_VALUE, re.S)
_ESCAPE = re.compile(rb"\\(.)|''", re.S)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"b": b"\b", b"Z": b"\x1a"}
_NAMES = re.compile(rb"`([^`]+)`")
_COLUMN = re.compile(rb"^\s*`([^`]+)`", re.M)
_ROW_LIMIT = 1 << 22
_OFTEN = 1 << 14
_ADVICE = "damaged or cut off; download the file again"
# The columns that are used, with their places where a file has no CREATE TABLE.
_PLACES = {
    "page": {"page_id": 0, "page_namespace": 1, "page_title": 2, "page_is_redirect": 3},
    "redirect": {"rd_from": 0, "rd_namespace": 1, "rd_title": 2, "rd_interwiki": 3, "rd_fragment": 4},
    "langlinks": {"ll_from": 0, "ll_lang": 1, "ll_title": 2},
    "page_props": {"pp_page": 0, "pp_propname": 1},
    "wb_items_per_site": {"ips_item_id": 1, "ips_site_id": 2, "ips_site_page": 3},
}


@dataclass(frozen=True, slots=True)
class PageRow:
    """A row of the table `page`; the title is without its namespace."""

    page_id: int
    namespace: int
    title: str
    is_redirect: bool


@dataclass(frozen=True, slots=True)
class RedirectRow:
    """A row of the table `redirect`: the page that redirects, and where it leads; `interwiki` to another wiki."""

    page_id: int
    namespace: int
    title: str
    interwiki: str
    fragment: str


class TableRows:
    """The raw values of a table's rows in a dump of mysqldump, plain or packed, streamed.

    Tables, comments and settings around it are skipped. A row is matched as a whole, so that a damaged one cannot be
    misread.
    """

    def __init__(self, path: str | Path, table: str) -> None:
        self.path, self.table = path, table
        name = re.escape(table.encode())
        self.insert = re.compile(
            rb"^INSERT (?:IGNORE )?INTO `?" + name + rb"`?\s*(\([^)]*\))?\s*VALUES\s*", re.M | re.I
        )
        self.create = re.compile(
            rb"^CREATE TABLE (?:IF NOT EXISTS )?`?" + name + rb"`?\s*\((.*?)^\)", re.M | re.S | re.I
        )
        self.columns: list[str] = []
        self.row: re.Pattern[bytes] | None = None
        self.held, self.place, self.base = b"", 0, 0

    def places(self) -> list[int]:
        """The places in a row of the columns that are used, once a row has been given out."""
        known = _PLACES[self.table]
        if not self.columns:
            return list(known.values())
        if missing := [name for name in known if name not in self.columns]:
            raise DataError(f"{self.path}: the table {self.table} has no column {missing[0]}; it has {self.columns}")
        return [self.columns.index(name) for name in known]

    def rows(self) -> Iterator[tuple[bytes, ...]]:
        """Raw values of each row.

        Raises:
            DataError: the file cannot be read, has no such table, is damaged, or ends within a row. The message names
                the byte; all whole rows before it have been given out.
        """
        inside = found = False
        for data, _ in blocks(self.path):
            self.base += self.place
            self.held, self.place = self.held[self.place :] + data, 0
            while inside or self._enter():
                found = inside = True
                yield from self._whole_rows()
                if self.held[self.place - 1 : self.place] != b";":
                    break
                inside = False
            if inside and len(self.held) - self.place > _ROW_LIMIT:
                break
        if inside:
            raise DataError(
                f"{self._at()}: no whole row of {self.table} begins here: "
                f"{self.held[self.place : self.place + 40]!r}; {_ADVICE}"
            )
        if not found and not self.columns:
            raise DataError(f"{self.path}: byte 0: no table {self.table!r} in this file; give the dump of that table")

    def _at(self) -> str:
        return f"{self.path}: byte {self.base + self.place} of the SQL text"

    def _whole_rows(self) -> Iterator[tuple[bytes, ...]]:
        """The rows among the bytes held, up to the semicolon after the last one of the INSERT."""
        if self.row is None and (first := _ROW.match(self.held, self.place)):
            count = len(_ONE.findall(first[1]))
            if self.columns and count != len(self.columns):
                raise DataError(
                    f"{self._at()}: {count} values for the {len(self.columns)} columns of {self.table}; {_ADVICE}"
                )
            values = b",".join([b"(" + _VALUE + b")"] * count)
            self.row = re.compile(rb"\s*\(" + values + rb"\)\s*[,;]", re.S)
        held, last = self.held, b";"[0]
        while self.row and (row := self.row.match(held, self.place)):
            self.place = row.end()
            yield row.groups()
            if held[self.place - 1] == last:
                return

    def _enter(self) -> bool:
        """Go to the first row of the next INSERT; False where more bytes are needed."""
        if not self.columns and (made := self.create.search(self.held, self.place)):
            self.columns = [name.decode("utf-8", "replace") for name in _COLUMN.findall(made[1])]
        insert = self.insert.search(self.held, self.place)
        if insert is None:
            # The statement that the next block may complete begins at a line break; CREATE TABLE has many lines.
            keep = self.held.rfind(b"CREATE TABLE", self.place) if not self.columns else -1
            self.place = keep if keep >= 0 else self.held.rfind(b"\n", self.place) + 1 or self.place
            return False
        if insert[1]:
            self.columns = [name.decode("utf-8", "replace") for name in _NAMES.findall(insert[1])]
        self.place = insert.end()
        return True


def _unquote(raw: bytes) -> str:
    """The text of a quoted value, U+FFFD for bytes that are not UTF-8 (MediaWiki cuts long fields); "" for NULL."""
    if raw == b"NULL":
        return ""
    raw = raw.removeprefix(b"_binary ")[1:-1] if raw.endswith(b"'") else raw
    if b"\\" in raw or b"''" in raw:
        raw = _ESCAPE.sub(lambda m: _ESCAPED.get(m[1], m[1]) if m[1] else b"'", raw)
    return raw.decode("utf-8", "replace")


def never() -> None:
    """Ends no pass."""


def _columns(path: str | Path, table: str, poll: Callable[[], None]) -> Iterator[list[bytes]]:
    """The used columns of each row, in the order of `_PLACES`, wherever the file has them.

    `poll` is called now and then, also between rows that nobody asked for; what it raises ends the pass.
    """
    source = TableRows(path, table)
    places: list[int] = []
    for number, row in enumerate(source.rows()):
        if number % _OFTEN == 0:
            poll()
        places = places or source.places()
        yield [row[place] for place in places]


def read_page(path: str | Path, *, namespace: int | None = 0, poll: Callable[[], None] = never) -> Iterator[PageRow]:
    """The rows of a `page` table, of one namespace or, with None, of all.

    Raises:
        DataError: as `TableRows.rows`.
    """
    wanted = None if namespace is None else str(namespace).encode()
    for page_id, space, title, redirect in _columns(path, "page", poll):
        if wanted is None or space == wanted:
            yield PageRow(int(page_id), int(space), clean_title(_unquote(title)), redirect == b"1")


def read_redirects(path: str | Path, *, poll: Callable[[], None] = never) -> Iterator[RedirectRow]:
    """The rows of a `redirect` table.

    Raises:
        DataError: as `TableRows.rows`.
    """
    for page_id, space, title, interwiki, fragment in _columns(path, "redirect", poll):
        yield RedirectRow(
            int(page_id), int(space), clean_title(_unquote(title)), _unquote(interwiki), _unquote(fragment)
        )


def read_langlinks(path: str | Path, language: str, *, poll: Callable[[], None] = never) -> Iterator[tuple[int, str]]:
    """Page of this wiki and title in the wiki of `language`, from a `langlinks` table.

    Raises:
        DataError: as `TableRows.rows`.
    """
    wanted = f"'{language}'".encode()
    for page_id, found, title in _columns(path, "langlinks", poll):
        if found == wanted:
            yield int(page_id), clean_title(_unquote(title))


def read_disambiguations(path: str | Path, *, poll: Callable[[], None] = never) -> set[int]:
    """The pages that a `page_props` table marks as disambiguation pages.

    Raises:
        DataError: as `TableRows.rows`.
    """
    return {int(page) for page, name in _columns(path, "page_props", poll) if name == b"'disambiguation'"}


def site_of(language: str) -> str:
    """The name of a language's Wikipedia in Wikidata's tables: `enwiki`, `zh_yuewiki`."""
    return language.lower().replace("-", "_") + "wiki"


def read_site_links(
    path: str | Path, sites: Container[str], *, poll: Callable[[], None] = never
) -> Iterator[tuple[int, str, str]]:
    """Item, site and title of some sites, from Wikidata's table `wb_items_per_site`.

    Raises:
        DataError: as `TableRows.rows`.
    """
    for item, site, title in _columns(path, "wb_items_per_site", poll):
        if (name := _unquote(site)) in sites:
            yield int(item), name, clean_title(_unquote(title))


def read_site_pairs(
    path: str | Path, source: str, target: str, wanted: Container[str], *, poll: Callable[[], None] = never
) -> dict[str, str]:
    """Title in the wiki of language `source` -> title in that of `target`, for the titles wanted.

    The table is read twice, so that memory grows with the titles wanted and not with the table.

    Raises:
        DataError: as `TableRows.rows`.
    """
    items = {item: title for item, _, title in read_site_links(path, {site_of(source)}, poll=poll) if title in wanted}
    links = read_site_links(path, {site_of(target)}, poll=poll)
    return {items[item]: title for item, _, title in links if item in items}


def read_titles(path: str | Path) -> list[tuple[str, str]]:
    """The pairs of a two-column table: title in the source language, tab, title in the target language.

    Blank lines are left out; order and repetitions stay.

    Raises:
        DataError: the file cannot be read, or lines have another form; the first 20 are listed as `file:line:`.
    """
    problems = Problems()
    pairs: list[tuple[str, str]] = []
    for number, (_, line) in enumerate(open_text(path), 1):
        if not line.strip():
            continue
        cells = [clean_title(cell) for cell in line.split("\t")]
        if len(cells) != 2 or not all(cells):
            what = f"{len(cells)} columns" if len(cells) != 2 else "an empty title"
            problems.add(f"{path}:{number}", what, "write the source title, a tab and the target title")
            continue
        pairs.append((cells[0], cells[1]))
    problems.raise_if_any()
    if not pairs:
        raise DataError(f"{path}:1: no pair of titles; write the source title, a tab and the target title on each line")
    return pairs
