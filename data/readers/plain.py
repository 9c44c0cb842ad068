"""Plain text, and its words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from ...tasks import per_word
from .example import Example
from .reader import Labelled, Piece, Reader, Record

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


class TextReader(Reader):
    """Plain text, a sentence a line; blank lines are skipped and counted."""

    takes = ("language", "encoding", "split_words")

    def pieces(self) -> Iterator[Piece]:
        language, path, stem = self.options.language, self.path, self.stem
        cut = self.options.split_words and not self.task
        for number, line in self.lines():
            if not line.strip():
                self.counts["blank"] += 1
                yield number, None, None
                continue
            words, text = (words_of(line), None) if cut else (None, line)
            example = Example(f"{stem}:{number}", language, words, text, None, None, path, number)
            yield number, line, example

    def write(self, record: Record, labelled: Labelled | None) -> str:
        """For a tagger a column file, a word a line; else label, confidence and text, between tabs."""
        if labelled is None:
            return "" if per_word(self.task) else "\n"
        if per_word(self.task):
            rows = (f"{word}\t{confidence}\t{tag}\n" for word, tag, confidence in labelled.cells())
            return "".join([*rows, "\n"])
        ((_, label, confidence),) = labelled.cells()
        return f"{label}\t{confidence}\t{record.raw}\n"


def words_of(text: str) -> tuple[str, ...]:
    """The words of a plain text, as the reader with `split_words` cuts it."""
    return tuple(WORD.findall(text))
