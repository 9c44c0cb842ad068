"""What a sentence is worth: the entities of its titles, or without titles a score for its words.

Both scores lie between 0 and 1. Words are compared in folded case; in scripts without spaces pairs of neighbouring
characters stand for words.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable

from ... import DataError
from .title_links import UNSPACED_LANGUAGES, TitleMatcher

Verdict = tuple[Collection[int], float | None]
"""The entities that a sentence counts for, none where it may not be selected; and the score that decides among the
sentences of an entity, None where a hash does."""

_WORDS = re.compile(r"\w+")
_SHORTEST = 3


def by_title(matcher: TitleMatcher, groups: tuple[int, ...], sentence: str) -> Verdict:
    """The entities that `groups` has at the places of the titles in it."""
    return {groups[match.title] for match in matcher.find(sentence)}, None


def by_score(score: Callable[[str], float], sentence: str) -> Verdict:
    """One entity for all sentences with a score above 0."""
    value = score(sentence)
    return (0,) if value > 0 else (), value


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
        words = features(sentence, self._language)
        weight = self._weight
        return sum(weight[w] for w in set(words) if w in weight) / (len(words) + 5)


class TfidfScorer:
    """Cosine between a sentence and the mean of the task's sentences, over words weighted by TF-IDF.

    A word's weight in a text is (1 + log count) * log((1 + n) / (1 + sentences that hold it)), each text scaled to unit
    length. The frequencies come from the task's sentences and a sample of the text to select from, `n` in all.
    """

    def __init__(self, task: Iterable[str], sample: Iterable[str], language: str) -> None:
        self._language = language
        texts = [Counter(features(text, language)) for text in task]
        if not any(texts):
            raise DataError("the task text has no words; give sentences of the task")
        self._holders, self._total = Counter[str](), len(texts)
        for words in texts:
            self._holders.update(words.keys())
        for text in sample:
            self._holders.update(set(features(text, language)))
            self._total += 1
        centre: defaultdict[str, float] = defaultdict(float)
        for words in texts:
            for word, weight in self._unit(words).items():
                centre[word] += weight
        length = math.hypot(*centre.values()) or 1.0
        self._centre = {word: weight / length for word, weight in centre.items()}

    def _unit(self, words: Counter[str]) -> dict[str, float]:
        idf = {word: math.log((1 + self._total) / (1 + self._holders[word])) for word in words}
        weights = {word: (1 + math.log(count)) * idf[word] for word, count in words.items()}
        length = math.hypot(*weights.values()) or 1.0
        return {word: weight / length for word, weight in weights.items()}

    def score(self, sentence: str) -> float:
        weights = self._unit(Counter(features(sentence, self._language)))
        return max(0.0, sum(weight * self._centre.get(word, 0.0) for word, weight in weights.items()))
