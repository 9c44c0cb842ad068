"""A WordPiece vocabulary from text, the same on every run.

The trainer of the `tokenizers` library iterates over randomly seeded hash maps, so that the same text gives different
ids in every process. This one merges the most frequent pair first, as that library does, and breaks ties by
the strings of the pair. The training words live in flat arrays, linked in both directions; one merge is a few array
operations on the places where its pair occurs.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from tokenizers import normalizers, pre_tokenizers

from ... import ConfigError
from .files import MAX_WORD, SPECIAL_TOKENS, bert_tokenizer
from .wrapper import Tokenizer

PREFIX = "##"
_SHIFT = 32
_MASK = (1 << _SHIFT) - 1

_Ints = npt.NDArray[np.int32]
_Keys = npt.NDArray[np.int64]


def train_wordpiece(
    lines: Iterable[str],
    vocab_size: int,
    *,
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
    lowercase: bool = False,
) -> Tokenizer:
    """A BERT tokenizer whose WordPiece vocabulary is trained on `lines`.

    Ids 0 to 4 are [PAD], [UNK], [CLS], [SEP] and [MASK]; then the characters in code point order, then the merged
    pieces in the order in which they were found. The result is a function of the multiset of the words alone:
    independent of the process, of PYTHONHASHSEED and of the order of the lines.

    Args:
        lines: the text; read once, so that a generator over large files will do.
        vocab_size: upper bound of the vocabulary; it comes out smaller where the pairs run out.
        min_frequency: a pair seen less often is not merged.
        limit_alphabet: so many of the most frequent characters enter the vocabulary; a word with another one becomes
            [UNK].
        lowercase: lower-case the text and strip its accents.

    Raises:
        ConfigError: the text has no words, or `vocab_size` does not hold the special tokens and the characters.
    """
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words = _count_words(lines, normalizer)
    if not words:
        raise ConfigError("the text for the vocabulary has no words; give at least one non-empty line")
    words, symbols = _alphabet(words, limit_alphabet)
    vocab = [*SPECIAL_TOKENS.values(), *symbols]
    if len(vocab) > vocab_size:
        raise ConfigError(
            f"vocab_size {vocab_size} does not hold the {len(SPECIAL_TOKENS)} special tokens and the {len(symbols)} "
            f"character pieces of the text; raise vocab_size or lower limit_alphabet ({limit_alphabet})"
        )
    _Merger(words, vocab).run(vocab_size, max(1, min_frequency))
    ids = {piece: i for i, piece in enumerate(vocab)}
    return Tokenizer(bert_tokenizer(ids, SPECIAL_TOKENS, normalizer))


def _count_words(lines: Iterable[str], normalizer: normalizers.BertNormalizer) -> dict[str, int]:
    """Words of the BERT pre-tokenizer with their counts."""
    # A space always separates words, so normalising each distinct chunk once gives what whole lines would give.
    chunks: Counter[str] = Counter()
    for line in lines:
        chunks.update(line.split(" "))
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word, _ in split(normalizer.normalize_str(chunk)):
            words[word] += count
    return {word: count for word, count in words.items() if len(word) <= MAX_WORD}


def _alphabet(words: dict[str, int], limit: int) -> tuple[dict[str, int], list[str]]:
    """The words that the kept characters spell, and the character pieces: `c`, and `##c` where c continues a word."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for char in word:
            counts[char] += count
    kept = set(sorted(counts, key=lambda c: (-counts[c], c))[:limit])
    words = {word: count for word, count in words.items() if kept.issuperset(word)}
    continuing = {char for word in words for char in word[1:]}
    return words, sorted(kept) + [PREFIX + char for char in sorted(continuing)]


class _Merger:
    """The training words as linked symbols, with the count and the places of every pair."""

    def __init__(self, words: dict[str, int], vocab: list[str]) -> None:
        self.vocab = vocab
        self.ids = {piece: i for i, piece in enumerate(vocab)}
        lengths = np.array([len(w) for w in words], dtype=np.int64)
        ids = self.ids
        flat = (ids[c if i == 0 else PREFIX + c] for w in words for i, c in enumerate(w))
        total = int(lengths.sum())
        self.symbol: _Ints = np.fromiter(flat, dtype=np.int32, count=total)
        self.weight: _Keys = np.repeat(np.array(list(words.values()), dtype=np.int64), lengths)
        place = np.arange(total, dtype=np.int32)
        ends = np.cumsum(lengths)
        self.next: _Ints = place + 1
        self.next[ends - 1] = -1
        self.previous: _Ints = place - 1
        self.previous[ends - lengths] = -1
        self.count: dict[int, int] = {}
        self.places: dict[int, list[_Ints]] = {}
        self.heap: list[tuple[int, str, str, int]] = []

    def run(self, vocab_size: int, min_frequency: int) -> None:
        """Merge until the vocabulary is full or no pair is frequent enough."""
        self._add(np.flatnonzero(self.next >= 0).astype(np.int32), min_frequency)
        while self.heap and len(self.vocab) < vocab_size:
            negative, left, right, key = heapq.heappop(self.heap)
            count = self.count.get(key, 0)
            if count != -negative:
                # Counts fall without notice; a count that rose has its own, higher entry on the heap.
                if min_frequency <= count < -negative:
                    heapq.heappush(self.heap, (-count, left, right, key))
                continue
            self._merge(key, left + right.removeprefix(PREFIX), min_frequency)

    def _group(self, places: _Ints) -> tuple[_Ints, list[int], list[int], list[int]]:
        """`places` sorted by the pair that starts there; the pairs, where each begins in that order, their weights."""
        keys = (self.symbol[places].astype(np.int64) << _SHIFT) | self.symbol[self.next[places]]
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        sums = np.add.reduceat(self.weight[places], starts)
        return places, keys[starts].tolist(), starts.tolist(), sums.tolist()

    def _add(self, places: _Ints, min_frequency: int) -> None:
        """Count the pairs that start at `places` and remember where they are."""
        if not len(places):
            return
        places, keys, starts, sums = self._group(places)
        ends = [*starts[1:], len(places)]
        for key, start, end, added in zip(keys, starts, ends, sums, strict=True):
            count = self.count[key] = self.count.get(key, 0) + added
            self.places.setdefault(key, []).append(places[start:end])
            if count >= min_frequency:
                left, right = self.vocab[key >> _SHIFT], self.vocab[key & _MASK]
                heapq.heappush(self.heap, (-count, left, right, key))

    def _remove(self, places: _Ints) -> None:
        """Take the pairs that start at `places` out of the counts."""
        _, keys, _, sums = self._group(places)
        for key, removed in zip(keys, sums, strict=True):
            left = self.count[key] - removed
            if left:
                self.count[key] = left
            else:
                del self.count[key], self.places[key]

    def _occurrences(self, key: int) -> _Ints:
        """Where the pair starts now, without overlaps (`a a a` holds the pair `a a` once)."""
        left, right = key >> _SHIFT, key & _MASK
        places: _Ints = np.concatenate(self.places[key])
        places = places[self.symbol[places] == left]
        following = self.next[places]
        places = places[(following >= 0) & (self.symbol[following] == right)]
        if left != right:
            return places
        chosen: list[int] = []
        taken = -1
        for place in np.sort(places).tolist():
            if place != taken:
                chosen.append(place)
                taken = int(self.next[place])
        return np.array(chosen, dtype=np.int32)

    def _merge(self, key: int, piece: str, min_frequency: int) -> None:
        new = self.ids.setdefault(piece, len(self.vocab))
        if new == len(self.vocab):
            self.vocab.append(piece)
        first = self._occurrences(key)
        second = self.next[first]
        third = self.next[second]
        before = self.previous[first]
        # Neighbouring occurrences share the pair between them, hence the union.
        touched = np.unique(np.concatenate((first, second[third >= 0], before[before >= 0])))
        self._remove(touched)
        self.symbol[first] = new
        self.symbol[second] = -1
        self.next[first] = third
        inner = third >= 0
        self.previous[third[inner]] = first[inner]
        before = self.previous[first]
        fresh = np.unique(np.concatenate((first[self.next[first] >= 0], before[before >= 0])))
        self._add(fresh, min_frequency)
