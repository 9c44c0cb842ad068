"""The source wiki's files as a `SourceWiki`: a question is a pass over a file, memory grows with what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from ... import ConfigError
from .title_links import PageFacts
from .wiki_dump import read_pages
from .wiki_tables import table_rows, text_of, title_of
from .wiki_text import is_disambiguation

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
