"""How close a sentence is to the task where no titles are at hand: by the entities' words, or by TF-IDF.

Both scores lie between 0 and 1. Words are compared in folded case; in scripts without spaces pairs of neighbouring
characters stand for words.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable

import numpy as np

from ... import DataError
from .matcher import UNSPACED_LANGUAGES

_WORDS = re.compile(r"\w+")
_SLOTS = 1 << 18
_SHORTEST = 3


def features(text: str, language: str) -> list[str]:
    """The words of a text in folded case, or the pairs of neighbouring characters of its words."""
    words: list[str] = _WORDS.findall(text.casefold())
    if language.split("-")[0] not in UNSPACED_LANGUAGES:
        return words
    return [word[i : i + 2] for word in words for i in range(max(1, len(word) - 1))]


class OverlapScorer:
    """Share of a sentence's words that are words of an entity, damped for short sentences, rare words counting more.

    With e the entity words of a sentence of n words and N(w) the entities that hold w of N in all, the score is
    sum over distinct e of (1 - log(N(w)) / log(N + 1)) / (n + 5). Words of fewer than three characters do not count.
    """

    def __init__(self, surfaces: Iterable[str], language: str) -> None:
        self._language = language
        shortest = 2 if language.split("-")[0] in UNSPACED_LANGUAGES else _SHORTEST
        holders = Counter(
            word for surface in surfaces for word in set(features(surface, language)) if len(word) >= shortest
        )
        if not holders:
            raise DataError("no entity has a word to look for; give a training set with entities")
        scale = math.log(len(holders) + 1)
        self._weight = {word: max(0.0, 1 - math.log(count) / scale) for word, count in holders.items()}

    def score(self, sentence: str) -> float:
        """The sentence's score."""
        words = features(sentence, self._language)
        weight = self._weight
        return sum(weight[w] for w in set(words) if w in weight) / (len(words) + 5)


class TfidfScorer:
    """Cosine between a sentence and the mean of the task's sentences, over hashed words weighted by TF-IDF.

    A word's weight in a text is (1 + log count) * log((1 + n) / (1 + sentences that hold it)), each text scaled to unit
    length. The frequencies come from the task's sentences and a sample of the text to select from, `n` in all.

    Args:
        task: sentences of the task.
        sample: sentences of the text to select from.
        language: of the text.
    """

    def __init__(self, task: Iterable[str], sample: Iterable[str], language: str) -> None:
        self._language = language
        own, held, total = [], np.zeros(_SLOTS), 0
        for number, group in enumerate((task, sample)):
            for text in group:
                slots, counts = self._slots(text)
                held[slots] += 1
                total += 1
                if number == 0 and len(slots):
                    own.append((slots, counts))
        if not own:
            raise DataError("the task text has no words; give sentences of the task")
        self._idf = np.log((1 + total) / (1 + held))
        centre = np.zeros(_SLOTS)
        for slots, counts in own:
            np.add.at(centre, slots, self._unit(slots, counts))
        self._centre = centre / max(float(np.linalg.norm(centre)), 1e-12)

    def _slots(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        hashed = [zlib.crc32(word.encode()) % _SLOTS for word in features(text, self._language)]
        slots, counts = np.unique(np.array(hashed, dtype=np.int64), return_counts=True)
        return slots, counts

    def _unit(self, slots: np.ndarray, counts: np.ndarray) -> np.ndarray:
        values = (1 + np.log(counts)) * self._idf[slots]
        return np.asarray(values / max(float(np.linalg.norm(values)), 1e-12))

    def score(self, sentence: str) -> float:
        """The sentence's score."""
        slots, counts = self._slots(sentence)
        if not len(slots):
            return 0.0
        return max(0.0, float(self._unit(slots, counts) @ self._centre[slots]))
