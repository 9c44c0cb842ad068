"""A dictionary without parallel data: words of two languages that are each other's nearest neighbours.

The states of words come from a model of both languages; nothing here knows where they come from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..readers.example import Example

NEIGHBOURS = 10
"""Of CSLS, as in the paper."""
BLOCK = 1024
"""Rows whose cosines with all of the other language are held at once."""
_PIECES = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class InducedPair:
    """Two words, by their rows, and their CSLS score."""

    source: int
    target: int
    score: float


def words_of(example: Example) -> tuple[str, ...]:
    """The words of an example, marks of punctuation by themselves where it is a text; a pair is one sequence."""
    if example.words is not None:
        return example.words
    return tuple(_PIECES.findall(f"{example.text or ''} {example.pair or ''}"))


def frequent_words(sentences: Iterable[Sequence[str]], most: int, least: int = 1) -> list[str]:
    """The words with a letter and without white space that occur most often, as they are written.

    Args:
        most: how many; of equally frequent ones those first in the alphabet.
        least: occurrences that a word must have.
    """
    counts = Counter(word for words in sentences for word in words)
    often = [(word, count) for word, count in counts.items() if count >= least]
    known = [(word, count) for word, count in often if any(map(str.isalpha, word)) and word.split() == [word]]
    return [word for word, _ in sorted(known, key=lambda entry: (-entry[1], entry[0]))[:most]]


def csls(
    source: NDArray[np.floating], target: NDArray[np.floating], neighbours: int = NEIGHBOURS
) -> NDArray[np.float64]:
    """2 cos(x, y) - r(x) - r(y), with r the mean cosine with the nearest neighbours in the other language, [n, m].

    Cross-domain similarity local scaling (Conneau et al., ICLR 2018, Eq. 3): a word that is near everything is nobody's
    translation. Each language is centred first, since a model writes the language itself into every state.

    Args:
        source, target: [n, H] and [m, H].
        neighbours: fewer where a language has fewer words.
    """
    x, y = (unit(states - states.mean(axis=0)) for states in (np.asarray(source, float), np.asarray(target, float)))
    result: NDArray[np.float64] = (
        2 * (x @ y.T) - hubness(x, y, neighbours)[:, None] - hubness(y, x, neighbours)[None, :]
    )
    return result


def unit(states: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows of length one, float64; rows of zeros stay."""
    wide = np.asarray(states, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    result: NDArray[np.float64] = wide / np.where(lengths > 0, lengths, 1.0)
    return result


def hubness(candidates: NDArray[np.float64], queries: NDArray[np.float64], neighbours: int) -> NDArray[np.float64]:
    """Mean cosine of each candidate with its nearest queries, [candidates]: r in CSLS (Conneau et al., ICLR 2018)."""
    k = min(neighbours, len(queries))
    parts = []
    for a in range(0, len(candidates), BLOCK):
        similarity = candidates[a : a + BLOCK] @ queries.T
        parts.append(np.partition(similarity, -k, axis=1)[:, -k:].mean(axis=1))
    return np.concatenate(parts)


def mutual_pairs(scores: NDArray[np.float64], margin: float = 0.0) -> list[InducedPair]:
    """The pairs that are each other's best, with a score above `margin`; the best first, then by row.

    Args:
        scores: [n, m], as `csls` gives them. Of equal scores the first counts.
    """
    if not scores.size:
        return []
    there, back = scores.argmax(axis=1), scores.argmax(axis=0)
    rows = [i for i, j in enumerate(there) if back[j] == i and scores[i, j] > margin]
    found = [InducedPair(i, int(there[i]), float(scores[i, there[i]])) for i in rows]
    return sorted(found, key=lambda pair: (-pair.score, pair.source))
