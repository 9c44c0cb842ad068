"""Many titles at once in running text: leftmost, longest, at the boundaries of words.

The automaton finds every occurrence of every title; Python then drops those that begin or end inside a word, and of
those that overlap keeps the leftmost, and of these the longest. A title that is cut short by a boundary so never hides
a shorter one: with "Bad" and "Bad Hom", "Bad Homburg" holds "Bad".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from ... import ConfigError

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
