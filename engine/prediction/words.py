"""Sentences: plain texts cut into words, whether a way of cutting suits a text, and valid tags of the words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ... import ConfigError
from ...data import OUTSIDE
from ...data.readers.plain import unspaced, word_pattern
from ..storage.run_warning import RunWarning

Split = Literal["punctuation", "whitespace", "characters"]
RAW_SHARE = 0.02
"""Of the words; a larger share with punctuation at the end is not text that was cut into words."""
LONGEST_MEAN = 6
"""Characters between spaces or punctuation, on average; in text of a script without spaces, no words are so long."""

_LEAST = float(np.finfo(np.float32).tiny)
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
    """What is to be said of cutting these texts so.

    Raises:
        ConfigError: most of the text is in scripts without spaces, and does not come cut into words.
    """
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


class TagDecoder:
    """The most probable sequences of valid BIO, in which `I-X` stands behind `B-X` or `I-X`, over the tags of a model.

    An `I-X` without a `B-X` among the tags is of IOB1, where it opens an entity: it may stand anywhere.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._outside = labels.index(OUTSIDE) if OUTSIDE in labels else 0
        # One row more than there are tags, the first: what may begin a sentence.
        allowed = [[_follows(before, tag, labels) for tag in labels] for before in (OUTSIDE, *labels)]
        self._allowed = np.array(allowed, dtype=bool)
        self._cost = np.where(self._allowed, 0.0, -np.inf)

    def decode(
        self,
        tags: NDArray[np.int64],
        probabilities: NDArray[np.float32],
        seen: NDArray[np.bool_],
        starts: Sequence[int],
    ) -> NDArray[np.int64]:
        """Valid tags of sentences that lie end to end, [W]: as they are where a sentence is valid already.

        Args:
            tags: [W], the choice for each word alone.
            probabilities: [W, C], whose product over a sentence the new tags make as large as valid tags can.
            seen: [W], whether the model has read the word; one that it has not is `O`.
            starts: the first word of each sentence, and W.
        """
        tags = np.where(seen, tags, self._outside)
        before = np.concatenate([[0], tags[:-1] + 1])
        before[[start for start in starts if start < len(tags)]] = 0
        invalid = np.flatnonzero(~self._allowed[before[: len(tags)], tags])
        for sentence in np.unique(np.searchsorted(starts, invalid, side="right") - 1):
            part = slice(starts[sentence], starts[sentence + 1])
            scores = np.log(np.maximum(probabilities[part].astype(np.float64), _LEAST))
            scores[~seen[part]] = np.where(np.arange(scores.shape[1]) == self._outside, 0.0, -np.inf)
            tags[part] = self._best_path(scores)
        return tags

    def _best_path(self, scores: NDArray[np.float64]) -> list[int]:
        """Viterbi: the tags with the largest sum of scores [W, C] that follow each other as they may."""
        best = self._cost[0] + scores[0]
        origins = []
        for score in scores[1:]:
            reached = best[:, None] + self._cost[1:]
            origins.append(reached.argmax(axis=0))
            best = reached.max(axis=0) + score
        path = [int(best.argmax())]
        for origin in reversed(origins):
            path.append(int(origin[path[-1]]))
        return path[::-1]


def _follows(before: str, tag: str, labels: Sequence[str]) -> bool:
    kind = tag[2:]
    return not tag.startswith("I-") or before in (f"B-{kind}", tag) or f"B-{kind}" not in labels
