"""Many titles at once in running text: leftmost, longest, at the boundaries of words.

The automaton finds every occurrence of every title; Python then drops those that begin or end inside a word, and of
those that overlap keeps the leftmost, and of these the longest. A title that is cut short by a boundary so never hides
a shorter one: with "Bad" and "Bad Hom", "Bad Homburg" holds "Bad".
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

from ... import ConfigError
from ..readers.word_lists import read_list

_SHORTEST_STEM = 4


@cache
def _vowels_and_endings(language: str) -> tuple[str, frozenset[str]]:
    code = language.split("-")[0]
    known = (row for row in read_list("corpus/endings.tsv") if code in row[0].split())
    _, vowels, endings = next(known, ("", "", ""))
    return vowels, frozenset(endings.split())


def endings_of(language: str) -> frozenset[str]:
    """The endings that a language's names may carry; empty where no list is known."""
    return _vowels_and_endings(language)[1]


def stem_of(title: str, language: str) -> str:
    """The title without its last vowel where the language changes it and four letters are left."""
    vowels = _vowels_and_endings(language)[0]
    return title[:-1] if len(title) > _SHORTEST_STEM and title[-1] in vowels else title


Boundaries = Literal["auto", "words", "scripts", "none"]

# Scripts that are written without spaces; Korean is written with them, but its particles are part of the word.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x19E0, 0x19FF),
    (0x1100, 0x11FF),  # Hangul
    (0x2E80, 0x33FF),  # Han radicals, kana, CJK symbols
    (0x3400, 0x9FFF),
    (0xA960, 0xA97F),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
    (0xAC00, 0xD7FF),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),
    (0xFF65, 0xFFDC),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x3FFFF),
)
UNSPACED_LANGUAGES = frozenset(re.findall(r"\w+", "zh yue wuu gan hak nan lzh ja ko th lo km my shn dz bo ii"))


class Match(NamedTuple):
    """One occurrence.

    Attributes:
        start: of the first character.
        end: behind the last one, an ending included.
        title: index in the titles that were given.
        exact: False where only a tolerated ending makes it one.
    """

    start: int
    end: int
    title: int
    exact: bool = True


class TitleMatcher:
    """Finds titles in text that is in the Unicode form NFC, as titles are.

    Args:
        titles: in NFC; empty ones and repetitions are an error.
        language: of the text; decides `boundaries="auto"` and the endings.
        boundaries: "words" asks that no word character stands before or after a title that begins or ends with one;
            "scripts" asks for it only between characters of scripts with spaces, so that a title in Han or Thai
            matches anywhere and a Latin one not inside a Latin word; "none" asks for nothing; "auto" is "scripts" for
            languages written without spaces and "words" for all others.
        inflection: accept an ending of the language's list behind a title.

    Raises:
        ConfigError: the multi-pattern library is missing, or there are no titles.
    """

    def __init__(
        self, titles: Sequence[str], language: str, boundaries: Boundaries = "auto", inflection: bool = False
    ) -> None:
        if not titles or not all(titles) or len(set(titles)) < len(titles):
            raise ConfigError("a matcher needs titles, each once and none empty")
        if boundaries == "auto":
            boundaries = "scripts" if language.split("-")[0] in UNSPACED_LANGUAGES else "words"
        self.titles, self.language, self.boundaries = list(titles), language, boundaries
        self._endings = endings_of(language) if inflection else frozenset[str]()
        place = {title: number for number, title in enumerate(self.titles)}
        stems = defaultdict[str, list[int]](list)
        for number, title in enumerate(self.titles if inflection else ()):
            stems[stem_of(title, language)].append(number)
        self._patterns = list(dict.fromkeys([*place, *stems]))
        self._owners = [(place.get(pattern, -1), stems.get(pattern, [])) for pattern in self._patterns]
        """For each pattern the title that it spells, or -1, and the titles whose stem it is."""
        self._find: Callable[[str], list[tuple[int, int, int]]] = _automaton(self._patterns)
        self._inside = {"words": _inside_word, "scripts": _inside_spaced_word, "none": _never}[boundaries]

    def __reduce__(self) -> tuple[Any, ...]:
        """The automaton is built anew where a process is not a copy of its parent."""
        return TitleMatcher, (self.titles, self.language, self.boundaries, bool(self._endings))

    def find(self, text: str) -> list[Match]:
        """The titles in a text without overlap, from left to right."""
        out: list[Match] = []
        end = 0
        for start, behind, inexact, number in sorted(self._candidates(text)):
            if start >= end:
                end = -behind
                out.append(Match(start, end, number, not inexact))
        return out

    def _candidates(self, text: str) -> Iterator[tuple[int, int, bool, int]]:
        """Start, negative end, whether only an ending makes the match, and title, of all that boundaries allow."""
        inside, size = self._inside, len(text)
        for pattern, start, end in self._find(text):
            if start and inside(text[start - 1], text[start]):
                continue
            whole, stems = self._owners[pattern]
            if whole >= 0 and (end == size or not inside(text[end - 1], text[end])):
                yield start, -end, False, whole
            if stems and (rest := _WORD_REST.match(text, end)) and rest[0] in self._endings:
                inflected = text[start : rest.end()]
                yield from ((start, -rest.end(), True, n) for n in stems if self.titles[n] != inflected)


def _automaton(patterns: list[str]) -> Callable[[str], list[tuple[int, int, int]]]:
    """A function from text to (pattern, start, end) of every occurrence."""
    try:
        from ahocorasick_rs import AhoCorasick, Implementation, MatchKind
    except ImportError as error:
        raise ConfigError("matching titles needs ahocorasick_rs; run pip install 'xlt-engine[corpus]'") from error
    # The contiguous automaton: a fifth of the memory of the fast one, and at 100,000 titles faster, as it fits caches.
    automaton: Any = AhoCorasick(
        patterns, matchkind=MatchKind.Standard, store_patterns=False, implementation=Implementation.ContiguousNFA
    )

    def find(text: str) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = automaton.find_matches_as_indexes(text, overlapping=True)
        return found

    return find


@cache
def _marks() -> frozenset[str]:
    """Combining marks, which are part of a word though `str.isalnum` says no: the vowels of Hindi, for one."""
    blocks = (range(0x300, 0x3100), range(0xA000, 0xAC00), range(0xF900, 0x20000), range(0xE0100, 0xE01F0))
    return frozenset(c for block in blocks for c in map(chr, block) if unicodedata.category(c)[0] == "M")


def is_word(char: str) -> bool:
    """Letters, digits, the underscore and combining marks."""
    return char.isalnum() or char == "_" or (char >= "\u0300" and char in _marks())


_WORD_REST = re.compile(r"\w+")


@cache
def is_unspaced(char: str) -> bool:
    """Whether the character belongs to a script that is written without spaces between words."""
    code = ord(char)
    return code >= 0x0E00 and any(first <= code <= last for first, last in _UNSPACED)


def _inside_word(before: str, behind: str) -> bool:
    """Whether there is no word boundary between two characters."""
    return is_word(before) and is_word(behind)


def _inside_spaced_word(before: str, behind: str) -> bool:
    return is_word(before) and is_word(behind) and not (is_unspaced(before) or is_unspaced(behind))


def _never(before: str, behind: str) -> bool:
    return False
