"""The source wiki's files as a `SourceWiki`: a question is a pass over a file, memory grows with what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ... import ConfigError
from .title_links import PageFacts
from .wiki_dump import read_pages
from .wiki_tables import read_disambiguations, read_langlinks, read_page, read_redirects, read_site_pairs
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
    """Files about the source wiki.

    Attributes:
        dump: pages-articles: pages, redirects and disambiguation pages.
        page: SQL table, in place of the dump.
        redirect: SQL table, to go with `page`.
        page_props: SQL table with the disambiguation pages, to go with `page`.
        langlinks: SQL table of language links.
        items: Wikidata's table wb_items_per_site, in place of `langlinks`.
    """

    dump: Path | None = None
    page: Path | None = None
    redirect: Path | None = None
    page_props: Path | None = None
    langlinks: Path | None = None
    items: Path | None = None

    def check(self) -> None:
        """Refuse files that do not suffice.

        Raises:
            ConfigError: says what is missing.
        """
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
    """The source wiki in files.

    Args:
        files: where it is.
        source: language of the wiki.
        target: language that is linked to.
        say: told each file that is read, since a pass can take minutes.
        poll: called now and then during a pass.
    """

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
        self._disambiguations: set[int] | None = None

    def pages(self, titles: set[str]) -> dict[str, PageFacts]:
        """As `SourceWiki`; with Wikidata's table alone every title is taken for a page."""
        if self._files.page is not None:
            return self._from_tables(self._files.page, titles)
        if self._files.dump is not None:
            return dict(self._from_dump(self._files.dump, titles))
        return dict.fromkeys(titles, PageFacts(0))

    def links(self, pages: Mapping[str, int]) -> dict[str, str]:
        """As `SourceWiki`; where both tables are given, Wikidata's adds what `langlinks` lacks."""
        found: dict[str, str] = {}
        if self._files.items is not None:
            self._say(self._files.items)
            found.update(read_site_pairs(self._files.items, self._source, self._target, pages, poll=self._poll))
        if self._files.langlinks is not None:
            names = {number: title for title, number in pages.items()}
            self._say(self._files.langlinks)
            rows = read_langlinks(self._files.langlinks, self._target, poll=self._poll)
            found.update({names[number]: title for number, title in rows if number in names})
        return found

    def _from_dump(self, dump: Path, titles: set[str]) -> Iterator[tuple[str, PageFacts]]:
        self._say(dump)
        for page in watched(read_pages(dump, namespaces=(0,)), self._poll):
            if page.title in titles:
                listed = page.redirect is None and is_disambiguation(page.text, page.title)
                yield page.title, PageFacts(page.page_id, page.redirect, listed)

    def _from_tables(self, table: Path, titles: set[str]) -> dict[str, PageFacts]:
        self._say(table)
        rows = {row.page_id: row for row in read_page(table, poll=self._poll) if row.title in titles}
        redirects = {number for number, row in rows.items() if row.is_redirect}
        leads: dict[int, str] = {}
        if redirects and self._files.redirect is not None:
            self._say(self._files.redirect)
            for row in read_redirects(self._files.redirect, poll=self._poll):
                # To another wiki or namespace: no article.
                if row.page_id in redirects and row.namespace == 0 and not row.interwiki:
                    leads[row.page_id] = row.title
        if self._disambiguations is None:
            self._disambiguations = self._listed()
        return {
            row.title: PageFacts(
                number, leads.get(number, "" if row.is_redirect else None), number in self._disambiguations
            )
            for number, row in rows.items()
        }

    def _listed(self) -> set[int]:
        """The disambiguation pages by the table of properties; none without it."""
        props = self._files.page_props
        if props is None:
            return set()
        self._say(props)
        return read_disambiguations(props, poll=self._poll)


def target_redirects(dump: Path, poll: Callable[[], None] = lambda: None) -> Iterator[tuple[str, str]]:
    """The redirects among the articles of a dump: title, and where it leads."""
    for page in watched(read_pages(dump, namespaces=(0,)), poll):
        if page.redirect is not None:
            yield page.title, page.redirect
