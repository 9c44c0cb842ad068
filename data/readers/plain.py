"""Plain text, and its words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .example import Example, Examples
from .lines import file_stem, finish, read_lines, stream
from .problems import Problems

WORD = re.compile(r"\w+(?:[-.,'’&/]\w+)*|\S")
"""A word of plain text: white space and punctuation end it, but not a hyphen, point or apostrophe inside it."""
_SPACED = re.compile(r"\S+")

# Thai, Lao and Tibetan; Burmese; Khmer; kana; Han. Korean is written with spaces.
_ALPHABETS = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3041, 0x30FF))
_HAN = "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"


def word_pattern(split: str) -> re.Pattern[str]:
    """What a word of plain text is, cut around "punctuation", at "whitespace" only, or, in scripts without spaces, at
    all "characters"."""
    return {"punctuation": WORD, "whitespace": _SPACED}.get(split) or _characters()


@cache
def unspaced() -> re.Pattern[str]:
    """Characters of scripts without spaces, end to end."""
    return re.compile(f"[{_ranges()}]+")


@cache
def _characters() -> re.Pattern[str]:
    """One character of a script without spaces with its marks; all else as around punctuation."""
    codes = (code for first, last in _ALPHABETS for code in range(first, last + 1))
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(f"[{_ranges()}][{marks}]*|[^\\W{_ranges()}]+(?:[-.,'’&/][^\\W{_ranges()}]+)*|\\S")


def _ranges() -> str:
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in _ALPHABETS) + _HAN


def read_text(path: str | Path, *, language: str = "", encoding: str = "utf-8", split_words: bool = False) -> Examples:
    """The sentences of a plain text file, one a line; blank lines are skipped and counted.

    Args:
        split_words: give lists of words for tagging instead of texts: cut at white space and around punctuation,
            but not at a hyphen, point or apostrophe inside a word. Text in a script without spaces should come cut
            into words, as column file or JSON lines.

    Raises:
        ConfigError: unknown encoding.
        DataError: the file cannot be read, has no sentence, or does not decode.
    """
    problems, counts = Problems(), Counter[str]()
    examples = list(_lines(path, language, encoding, split_words, problems, counts))
    return finish(path, examples, counts, problems)


def stream_text(
    path: str | Path, *, language: str = "", encoding: str = "utf-8", split_words: bool = False
) -> Iterator[Example]:
    """As `read_text`, an example at a time; faults are raised at the end."""
    problems, counts = Problems(), Counter[str]()
    return stream(path, _lines(path, language, encoding, split_words, problems, counts), counts, problems)


def _lines(
    path: str | Path, language: str, encoding: str, split_words: bool, problems: Problems, counts: Counter[str]
) -> Iterator[Example]:
    stem = file_stem(path)
    for number, line in read_lines(path, encoding, problems):
        if not line.strip():
            counts["blank"] += 1
            continue
        words = words_of(line) if split_words else None
        text = None if split_words else line
        yield Example(f"{stem}:{number}", language, words, text, None, None, str(path), number)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a plain text, as `read_text` with `split_words` cuts it."""
    return tuple(WORD.findall(text))
