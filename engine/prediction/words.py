"""Plain texts cut into words with their places, and whether a way of cutting suits a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

from ... import ConfigError
from ...data.readers.plain import WORD
from ..storage.run_warning import RunWarning

Split = Literal["punctuation", "whitespace", "characters"]
RAW_SHARE = 0.02
"""Of the words; a larger share with punctuation at the end is not text that was cut into words."""
LONGEST_MEAN = 6
"""Characters between spaces or punctuation, on average; in text of a script without spaces, no words are so long."""

# Thai, Lao and Tibetan; Burmese; Khmer; kana; Han. Korean is written with spaces.
_ALPHABETS = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3041, 0x30FF))
_HAN = "\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_GLUED = re.compile(r"[^\W\d_][,;!?،؛؟]|\w[.:,;!?،؛؟]$")


class Sentence(NamedTuple):
    """Words with the places of their characters in a text."""

    text: str
    words: tuple[str, ...]
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Sentence:
        """The words with a space between them."""
        places, start = [], 0
        for word in words:
            places.append((start, start + len(word)))
            start += len(word) + 1
        return cls(" ".join(words), tuple(words), tuple(places))

    @classmethod
    def of_text(cls, text: str, split: Split) -> Sentence:
        """A text cut around punctuation, at white space only, or, in scripts without spaces, at every character."""
        pattern = {"punctuation": WORD, "whitespace": re.compile(r"\S+")}.get(split) or _characters()
        matches = list(pattern.finditer(text))
        return cls(text, tuple(m[0] for m in matches), tuple(m.span() for m in matches))


def check_split(texts: Sequence[str], split: Split) -> RunWarning | None:
    """What is to be said of cutting these texts so.

    Raises:
        ConfigError: most of the text is in scripts without spaces, and does not come cut into words.
    """
    if split == "characters":
        return None
    runs = [run for text in texts for run in _unspaced().findall(text)]
    letters = sum(map(len, runs))
    if letters > LONGEST_MEAN * len(runs) and 2 * letters > sum(len("".join(text.split())) for text in texts):
        raise ConfigError(
            f"{max(runs, key=len)[:30]!r} would be one word: its script is written without spaces; "
            "give --split characters (split='characters'), or text with spaces between the words"
        )
    words = [word for text in texts for word in text.split()] if split == "whitespace" else []
    glued = sum(_GLUED.search(word) is not None for word in words)
    if glued <= RAW_SHARE * len(words):
        return None
    message = (
        f"{glued} of the first {len(words)} words have punctuation at their end, but the model knows text in which it "
        "stands alone, and cuts at white space only; give --split punctuation (split='punctuation')"
    )
    return RunWarning("raw-text", message, {"words": len(words), "with_punctuation": glued})


@cache
def _unspaced() -> re.Pattern[str]:
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
