"""Sentences: plain texts cut into words, and whether a way of cutting suits a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ... import ConfigError
from ...data.readers.plain import unspaced, word_pattern
from ..storage.run_warning import RunWarning

Split = Literal["punctuation", "whitespace", "characters"]
RAW_SHARE = 0.02
"""Of the words; a larger share with punctuation at the end is not text that was cut into words."""
LONGEST_MEAN = 6
"""Characters between spaces or punctuation, on average; in text of a script without spaces, no words are so long."""

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
        matches = list(word_pattern(split).finditer(text))
        return cls(text, tuple(m[0] for m in matches), tuple(m.span() for m in matches))


def check_split(texts: Sequence[str], split: Split) -> RunWarning | None:
    """What is to be said of cutting these texts so; a ConfigError where most is in scripts without spaces."""
    if split == "characters":
        return None
    runs = [run for text in texts for run in unspaced().findall(text)]
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
