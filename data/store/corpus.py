"""Token stores to be read as text, for masked language modelling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .store import TokenStore

_COUNTED = 2_000_000
"""Tokens of a store that its entropy is taken from."""


class Corpus:
    """Several token stores of one language behind one index; `subset` picks examples of the concatenation.

    An example that is longer than its store's maximum length is several of the corpus, in as few pieces of about one
    length as it takes: here every token is learned, so that none needs to be in two.

    Args:
        separator: id of [SEP] where the stores hold pairs, and positions begin again at the second sentence.
    """

    def __init__(
        self, stores: Sequence[TokenStore], subset: np.ndarray | None = None, separator: int | None = None
    ) -> None:
        self._stores, self._separator = list(stores), separator
        self._starts = np.concatenate([[0], np.cumsum([len(s) for s in stores])])
        self._subset = np.arange(self._starts[-1]) if subset is None else subset
        if not stores:
            self.lengths = np.zeros(0, np.int64)
            return
        body = np.concatenate([s.lengths for s in stores])[self._subset] - 2
        counts = np.maximum(1, -(-body // (stores[0].max_length - 2)))
        self._subset, body, of = (np.repeat(values, counts) for values in (self._subset, body, counts))
        piece = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._begins, self._ends = piece * body // of, (piece + 1) * body // of
        self.lengths = self._ends - self._begins + 2

    def __len__(self) -> int:
        return len(self._subset)

    def _piece(self, index: int, values: np.ndarray) -> np.ndarray:
        """Of the values of an example's tokens those of its piece, the special tokens at both ends included."""
        if len(values) == self.lengths[index]:
            return values
        return np.concatenate([values[:1], values[1:-1][self._begins[index] : self._ends[index]], values[-1:]])

    def _find(self, index: int) -> tuple[TokenStore, int]:
        where = int(self._subset[index])
        which = int(np.searchsorted(self._starts, where, side="right")) - 1
        return self._stores[which], where - int(self._starts[which])

    def ids(self, index: int) -> np.ndarray:
        store, i = self._find(index)
        return self._piece(index, store.ids(i))

    def segments(self, index: int) -> np.ndarray:
        store, i = self._find(index)
        return self._piece(index, store.segments(i))

    def positions(self, index: int) -> np.ndarray | None:
        """The position of each token, int64 [tokens]; None where they are counted from the sequence's start."""
        if self._separator is None:
            return None
        store, i = self._find(index)
        return pair_positions(store.ids(i), self._separator)

    def name(self, index: int) -> str:
        """The id of an example: `<file stem>:<line>` unless its file has ids."""
        store, i = self._find(index)
        return store.example_ids[i]


def unigram_entropy(store: TokenStore, special: np.ndarray) -> float:
    """What the next token of a store costs who knows nothing but how frequent each is, in nats; 0 without tokens.

    Args:
        special: bool [V], tokens that do not count.
    """
    counts = np.bincount(store.token_ids[:_COUNTED], minlength=len(special)).astype(float)
    counts[special] = 0
    share = counts[counts > 0] / max(1.0, counts.sum())
    return float(-(share * np.log(share)).sum())


def pair_positions(ids: np.ndarray, separator: int) -> np.ndarray:
    """Positions that begin again at the second sentence, after the first run of [SEP] (XLM, arXiv 1901.07291).

    Args:
        ids: int [T], one sequence of two sentences.
    """
    counted = np.arange(len(ids))
    ends = np.flatnonzero((ids[:-1] == separator) & (ids[1:] != separator)) + 1
    return counted if not len(ends) else np.where(counted < ends[0], counted, counted - ends[0])
