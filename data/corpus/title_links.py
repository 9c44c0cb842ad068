"""From the entities of the source training set to the titles of their pages in the target language.

An entity is a page when its surface is the page's title, exactly, in the Unicode form NFC; as in MediaWiki the first
letter may be small. Redirects are followed to their end. Each rule is a flag, and each fate of an entity is counted.

Titles are found in running text all at once: leftmost, longest, at the boundaries of words. The automaton finds every
occurrence of every title; Python then drops those that begin or end inside a word, and of those that overlap keeps the
leftmost, and of these the longest. A title that is cut short by a boundary so never hides a shorter one: with "Bad" and
"Bad Hom", "Bad Homburg" holds "Bad".
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

from ... import ConfigError
from ..readers.example import OUTSIDE, Example
from .wiki_dump import clean_title
from .wiki_text import is_disambiguation

Boundaries = Literal["auto", "words", "scripts", "none"]

# Scripts that are written without spaces: Thai and Lao, Burmese, Hangul, Khmer, Tai Lue, Han and kana, and more blocks
# of these. Korean is written with spaces, but its particles are part of the word.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u19e0-\u19ff\u2e80-\u9fff\ua960-\ua97f\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff65-\uffdc\U0001aff0-\U0001b16f\U00020000-\U0003ffff]"
)
UNSPACED_LANGUAGES = frozenset(re.findall(r"\w+", "zh yue wuu gan hak nan lzh ja ko th lo km my shn dz bo ii"))


class Match(NamedTuple):
    """One occurrence: its characters, from `start` to before `end`, and the index of the title."""

    start: int
    end: int
    title: int


class TitleMatcher:
    """Finds titles in text that is in the Unicode form NFC, as titles are.

    Args:
        titles: in NFC; empty ones and repetitions are an error.
        language: of the text; decides `boundaries="auto"`.
        boundaries: "words" asks that no word character stands before or after a title that begins or ends with one;
            "scripts" asks for it only between characters of scripts with spaces, so that a title in Han or Thai
            matches anywhere and a Latin one not inside a Latin word; "none" asks for nothing; "auto" is "scripts" for
            languages written without spaces and "words" for all others.

    Raises:
        ConfigError: the multi-pattern library is missing, or there are no titles.
    """

    def __init__(self, titles: Sequence[str], language: str, boundaries: Boundaries = "auto") -> None:
        if not titles or not all(titles) or len(set(titles)) < len(titles):
            raise ConfigError("a matcher needs titles, each once and none empty")
        self._given = titles, language, boundaries
        if boundaries == "auto":
            boundaries = "scripts" if language.split("-")[0] in UNSPACED_LANGUAGES else "words"
        self._find: Callable[[str], list[tuple[int, int, int]]] = _automaton(list(titles))
        self._inside = {"words": _inside_word, "scripts": _inside_spaced_word, "none": _never}[boundaries]

    def __reduce__(self) -> tuple[Any, ...]:
        """The automaton is built anew where a process is not a copy of its parent."""
        return TitleMatcher, self._given

    def find(self, text: str) -> list[Match]:
        """The titles in a text without overlap, from left to right."""
        inside, size = self._inside, len(text)
        found = sorted(
            (start, -end, title)
            for title, start, end in self._find(text)
            if not (start and inside(text[start - 1], text[start]))
            and (end == size or not inside(text[end - 1], text[end]))
        )
        out: list[Match] = []
        end = 0
        for start, behind, title in found:
            if start >= end:
                end = -behind
                out.append(Match(start, end, title))
        return out


def _automaton(patterns: list[str]) -> Callable[[str], list[tuple[int, int, int]]]:
    """From a text to (pattern, start, end) of every occurrence."""
    try:
        from ahocorasick_rs import AhoCorasick, Implementation, MatchKind
    except ImportError as error:
        raise ConfigError("matching titles needs ahocorasick_rs; run pip install 'xlt-engine[corpus]'") from error
    # The contiguous automaton: a fifth of the memory of the fast one, and at 100,000 titles faster, as it fits caches.
    automaton: Any = AhoCorasick(
        patterns, matchkind=MatchKind.Standard, store_patterns=False, implementation=Implementation.ContiguousNFA
    )
    find: Callable[[str], list[tuple[int, int, int]]] = partial(automaton.find_matches_as_indexes, overlapping=True)
    return find


def is_word(char: str) -> bool:
    """Letters, digits, the underscore and combining marks, such as the vowels of Hindi, to which `isalnum` says no."""
    return char.isalnum() or char == "_" or (char >= "\u0300" and unicodedata.category(char)[0] == "M")


def is_unspaced(char: str) -> bool:
    """Whether the character belongs to a script that is written without spaces between words."""
    return _UNSPACED.match(char) is not None


def _inside_word(before: str, behind: str) -> bool:
    """Whether there is no word boundary between two characters."""
    return is_word(before) and is_word(behind)


def _inside_spaced_word(before: str, behind: str) -> bool:
    return is_word(before) and is_word(behind) and not (is_unspaced(before) or is_unspaced(behind))


def _never(before: str, behind: str) -> bool:
    return False


Fate = Literal["linked", "missing", "loop", "disambiguation", "no-link"]
FATES: tuple[Fate, ...] = ("linked", "missing", "loop", "disambiguation", "no-link")
_MOST_REDIRECTS = 8
"""A longer chain counts as a loop."""
_QUALIFIER = re.compile(r"\s*[(（][^()（）]+[)）]$")


@dataclass(frozen=True)
class LinkRules:
    """How an entity becomes a title: redirects are followed, disambiguation pages skipped, the first letter may be
    small as in MediaWiki, and with `strip_qualifier` `Merkur` is looked for where the title is `Merkur (Planet)`."""

    redirects: bool = True
    disambiguation: bool = True
    first_letter: bool = True
    strip_qualifier: bool = False


@dataclass(frozen=True, slots=True)
class PageFacts:
    """What is known of a page of the source wiki."""

    page_id: int
    redirect: str | None = None
    disambiguation: bool = False


class SourceWiki(Protocol):
    """The source wiki, to be asked for many titles at once, since each question is a pass over its files."""

    def pages(self, titles: set[str]) -> dict[str, PageFacts]:
        """What is known of those of the titles (clean, in the main namespace) that are pages."""

    def links(self, pages: Mapping[str, int]) -> dict[str, str]:
        """The target title (clean) of those pages, given with their numbers, that have one."""


@dataclass
class Links:
    """The target titles of each linked entity (surface in NFC), as they are looked for; the fate of every entity; and
    for the report the fates and how often each rule made a difference, counted."""

    titles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fates: dict[str, Fate] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def patterns(self) -> list[str]:
        """All distinct titles to look for, sorted."""
        return sorted({title for found in self.titles.values() for title in found})


def entity_surfaces(examples: Iterable[Example]) -> Counter[str]:
    """Surfaces (words joined by single spaces, clean) of the entities in BIO tags, with how often each occurs."""
    surfaces: Counter[str] = Counter()
    for example in examples:
        entity: list[str] = []
        tags = example.labels if isinstance(example.labels, tuple) else ()
        kind = ""
        for word, tag in zip((*(example.words or ()), ""), (*tags, OUTSIDE), strict=False):
            if entity and tag == f"I-{kind}":
                entity.append(word)
                continue
            surfaces[clean_title(" ".join(entity))] += 1
            entity, kind = ([word], tag[2:]) if tag.startswith("B-") else ([], "")
    del surfaces[""]
    return surfaces


def link_table(surfaces: Iterable[str], rows: Iterable[tuple[str, str]], rules: LinkRules) -> Links:
    """Links by a table of source and target titles; an entity may have several rows."""
    table: dict[str, list[str]] = {}
    for source, target in rows:
        found = table.setdefault(clean_title(source), [])
        if clean_title(target) not in found:
            found.append(clean_title(target))
    out = Links()
    for surface in sorted(set(surfaces)):
        title = _known(surface, table, rules, out.counts)
        if title is None:
            out.fates[surface] = "missing"
        else:
            _add(out, surface, table[title], rules)
    return _counted(out)


def link_wiki(surfaces: Iterable[str], wiki: SourceWiki, rules: LinkRules) -> Links:
    """Links by the source wiki's pages, redirects and language links."""
    wanted = sorted(set(surfaces))
    facts = _gather(wanted, wiki, rules)
    out = Links()
    ends: dict[str, str] = {}
    for surface in wanted:
        start = _known(surface, facts, rules, out.counts)
        if start is None:
            out.fates[surface] = "missing"
            continue
        end, fate = _follow(start, facts, rules, out.counts)
        if end is None:
            out.fates[surface] = fate
        else:
            ends[surface] = end
    targets = wiki.links({title: facts[title].page_id for title in sorted(set(ends.values()))})
    for surface, end in ends.items():
        if end in targets:
            _add(out, surface, [targets[end]], rules)
        else:
            out.fates[surface] = "no-link"
    return _counted(out)


def add_aliases(links: Links, redirects: Iterable[tuple[str, str]]) -> None:
    """Redirects of the target wiki (title, where it leads) to a linked title become further names of its entities."""
    aliases: dict[str, list[str]] = {}
    known = set(links.patterns)
    for title, target in redirects:
        if target in known and title not in known:
            aliases.setdefault(target, []).append(title)
    for surface, titles in links.titles.items():
        more = sorted({alias for title in titles for alias in aliases.get(title, ())} - set(titles))
        links.titles[surface] = (*titles, *more)
    links.counts["target-aliases"] = len({alias for found in aliases.values() for alias in found})


def _gather(wanted: list[str], wiki: SourceWiki, rules: LinkRules) -> dict[str, PageFacts]:
    """The pages that the surfaces name, and those that redirects lead to from there: a pass for each step."""
    titles = {name for surface in wanted for name in _spellings(surface, rules)}
    facts: dict[str, PageFacts] = {}
    asked: set[str] = set()
    for _ in range(_MOST_REDIRECTS + 1 if rules.redirects else 1):
        if not titles:
            break
        asked |= titles
        found = wiki.pages(titles)
        facts.update(found)
        titles = {page.redirect for page in found.values() if page.redirect is not None} - asked
    return facts


def _spellings(surface: str, rules: LinkRules) -> list[str]:
    upper = surface[:1].upper() + surface[1:]
    return [surface, upper] if rules.first_letter and upper != surface else [surface]


def _known(surface: str, titles: Mapping[str, object], rules: LinkRules, counts: Counter[str]) -> str | None:
    for number, name in enumerate(_spellings(surface, rules)):
        if name in titles:
            counts["first-letter"] += number
            return name
    return None


def _follow(
    title: str, facts: Mapping[str, PageFacts], rules: LinkRules, counts: Counter[str]
) -> tuple[str | None, Fate]:
    seen = [title]
    while (to := facts[title].redirect) is not None:
        if not rules.redirects:
            return None, "missing"
        if to in seen or len(seen) > _MOST_REDIRECTS:
            return None, "loop"
        if to not in facts:
            return None, "missing"
        seen.append(to)
        title = to
    counts["through-redirect"] += len(seen) > 1
    counts["through-chain"] += len(seen) > 2
    if rules.disambiguation and (facts[title].disambiguation or is_disambiguation("", title)):
        return None, "disambiguation"
    return title, "linked"


def _add(out: Links, surface: str, titles: list[str], rules: LinkRules) -> None:
    shown = [_QUALIFIER.sub("", title) or title for title in titles] if rules.strip_qualifier else titles
    out.counts["qualifier-stripped"] += sum(a != b for a, b in zip(shown, titles, strict=True))
    out.titles[surface] = tuple(dict.fromkeys(shown))
    out.fates[surface] = "linked"


def _counted(out: Links) -> Links:
    fates = Counter(out.fates.values())
    out.counts.update({name: fates.get(name, 0) for name in FATES})
    return out
