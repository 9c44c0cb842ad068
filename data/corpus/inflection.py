"""Endings that a name may carry in running text, by language: a tolerance, not a grammar.

A title is cut to its stem where the language changes its last vowel (Praha, Prahy), and an ending of the list may
follow the stem. Only the last word of a title is inflected. Every such match is counted apart from the exact ones,
since it costs precision: an ending can make another word of a name.
"""

from __future__ import annotations

from functools import cache

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
