"""How much of a target's words and pieces another language's text has, counted at equal size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...data import Example, Tokenizer, rng_for
from ...data.readers.plain import words_of

_CHUNK = 2000
_Name = TypeVar("_Name", str, int)


@dataclass(frozen=True)
class Words:
    """The words of a text, each with at least one letter, and their pieces; counts are of tokens.

    Attributes:
        unknown: share of the words with an unknown piece.
        fertility: pieces for each word.
    """

    words: Counter[str]
    pieces: Counter[int]
    unknown: float
    fertility: float


@dataclass(frozen=True)
class Overlap:
    """Shares of the target's words and pieces that a candidate's text has: of the different ones, and of all."""

    word_types: float
    word_tokens: float
    piece_types: float
    piece_tokens: float


def words_in(examples: Iterable[Example]) -> int:
    """Number of words with a letter."""
    return sum(1 for example in examples for _ in _words(example))


def count_words(examples: Sequence[Example], tokenizer: Tokenizer, most: int, seed: int, language: str) -> Words:
    """The first `most` words of the examples in a seeded order, and the pieces that a tokenizer makes of them.

    Raises:
        ModelError: the tokenizer does not mark the start of a word.
    """
    counts: Counter[str] = Counter()
    left = most
    for i in rng_for(seed, "overlap", language).permutation(len(examples)):
        taken = list(_words(examples[i]))[:left]
        counts.update(taken)
        left -= len(taken)
        if not left:
            break
    pieces: Counter[int] = Counter()
    unknown = 0
    for word, ids in _pieces(list(counts), tokenizer):
        for piece in ids:
            pieces[piece] += counts[word]
        unknown += counts[word] * (tokenizer.unk_id in ids)
    total = max(1, counts.total())
    fertility = pieces.total() / total
    for special in tokenizer.special_ids:
        pieces.pop(special, None)
    return Words(counts, pieces, unknown / total, fertility)


def overlap(target: Words, candidate: Words) -> Overlap:
    """How much of the target the candidate covers."""
    return Overlap(*_covered(target.words, candidate.words), *_covered(target.pieces, candidate.pieces))


def _covered(target: Counter[_Name], other: Counter[_Name]) -> tuple[float, float]:
    shared = [name for name in target if name in other]
    return len(shared) / max(1, len(target)), sum(target[name] for name in shared) / max(1, target.total())


def _words(example: Example) -> Iterable[str]:
    words = example.words if example.words is not None else words_of(f"{example.text or ''} {example.pair or ''}")
    return (word for word in words if any(map(str.isalpha, word)))


def _pieces(words: list[str], tokenizer: Tokenizer) -> Iterable[tuple[str, list[int]]]:
    """The ids of each word by itself; a word without one is left out."""
    for a in range(0, len(words), _CHUNK):
        chunk = words[a : a + _CHUNK]
        (encoded,) = tokenizer.encode_words([chunk])
        ends = [*encoded.positions[1:], len(encoded.ids) - 1]
        for index, start, end in zip(encoded.words, encoded.positions, ends, strict=True):
            yield chunk[index], encoded.ids[start:end]
