"""Code switching: words of a text replaced by their translations from a dictionary, tags kept in place.

A dictionary is a file, or made without parallel data: words of two languages that are each other's nearest neighbours,
by their states in a model of both languages, of which nothing here knows where they come from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ... import DataError
from ..batches.sampling import rng_for
from ..readers.example import OUTSIDE, Example
from ..readers.lines import read_lines
from ..readers.problems import Problems

Dictionary = Mapping[str, Sequence[str]]
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")


def read_dictionary(paths: Sequence[str | Path], *, encoding: str = "utf-8") -> dict[str, list[str]]:
    """The translations of each word, in the order of the files: a word, a tab, a translation, without a header.

    A word may have several lines. Blank lines are skipped.

    Raises:
        DataError: all faults, the first 20 listed by line; or a file without an entry.
    """
    found: dict[str, list[str]] = {}
    problems = Problems()
    for path in paths:
        before = len(found)
        for number, line in read_lines(path, encoding, problems):
            cells = [cell.strip() for cell in line.split("\t")]
            if not line.strip():
                continue
            if len(cells) != 2 or not all(cells):
                problems.add(f"{path}:{number}", "is not a word, a tab and a translation", "correct or remove the line")
                continue
            known = found.setdefault(cells[0], [])
            known += [] if cells[1] in known else [cells[1]]
        if len(found) == before and not problems.count:
            raise DataError(
                f"{path}:1: the dictionary has no entry of its own; give word, tab, translation on each line"
            )
    problems.raise_if_any()
    return found


def code_switched(example: Example, dictionary: Dictionary, rate: float, seed: int) -> Example | None:
    """The example with some words in another language; None where none was replaced.

    Each word that the dictionary has is replaced with probability `rate`, by one of its translations, all equally
    likely. A word that is not there as it is written is looked up in lower case, and its translation gets its capital.
    Where one word becomes several, `B-X` becomes `B-X I-X ...`, and `I-X` and `O` are repeated, so that every span
    covers the same words as before. The draw depends on the seed and the example's id alone.

    Args:
        example: words with tags, a text, or a pair of texts, both of which are switched.
        rate: 0 to 1.
    """
    rng = rng_for(seed, "code_switch", example.id)
    if example.words is not None:
        return _switched_words(example, dictionary, rate, rng)
    text, count = _switched_text(example.text or "", dictionary, rate, rng)
    pair, more = (None, 0) if example.pair is None else _switched_text(example.pair, dictionary, rate, rng)
    return replace(example, id=f"{example.id}/switched", text=text, pair=pair) if count + more else None


def _switched_words(example: Example, dictionary: Dictionary, rate: float, rng: np.random.Generator) -> Example | None:
    words: list[str] = []
    tags: list[str] = []
    count = 0
    given = example.words or ()
    old_tags = example.labels if isinstance(example.labels, tuple) else (OUTSIDE,) * len(given)
    for word, tag in zip(given, old_tags, strict=True):
        translation = _draw(word, dictionary, rate, rng)
        new = [word] if translation is None else translation.split()
        count += translation is not None
        words += new
        tags += [tag, *([f"I-{tag[2:]}" if tag.startswith("B-") else tag] * (len(new) - 1))]
    labels = tuple(tags) if isinstance(example.labels, tuple) else example.labels
    return replace(example, id=f"{example.id}/switched", words=tuple(words), labels=labels) if count else None


def _switched_text(text: str, dictionary: Dictionary, rate: float, rng: np.random.Generator) -> tuple[str, int]:
    count = 0

    def switch(match: re.Match[str]) -> str:
        nonlocal count
        translation = _draw(match[0], dictionary, rate, rng)
        count += translation is not None
        return match[0] if translation is None else translation

    return _WORD.sub(switch, text), count


def _draw(word: str, dictionary: Dictionary, rate: float, rng: np.random.Generator) -> str | None:
    """A translation, or None where the word stays."""
    exact = dictionary.get(word)
    known = exact or dictionary.get(word.lower())
    if not known or rng.random() >= rate:
        return None
    found = known[int(rng.integers(len(known)))]
    return found[0].upper() + found[1:] if exact is None and word[0].isupper() else found


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
