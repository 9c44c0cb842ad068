"""Token stores to be read as text, for masked language modelling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .store import TokenStore

_COUNTED = 2_000_000
"""Tokens of a store that its entropy is taken from."""


class Corpus:
    """Several token stores of one language behind one index; `subset` picks examples of the concatenation.

    Args:
        separator: id of [SEP] where the stores hold pairs, and positions begin again at the second sentence.
    """

    def __init__(
        self, stores: Sequence[TokenStore], subset: np.ndarray | None = None, separator: int | None = None
    ) -> None:
        self._stores, self._separator = list(stores), separator
        self._starts = np.concatenate([[0], np.cumsum([len(s) for s in stores])])
        self._subset = np.arange(self._starts[-1]) if subset is None else subset
        self.lengths = np.concatenate([s.lengths for s in stores])[self._subset] if stores else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._subset)

    def _find(self, index: int) -> tuple[TokenStore, int]:
        where = int(self._subset[index])
        which = int(np.searchsorted(self._starts, where, side="right")) - 1
        return self._stores[which], where - int(self._starts[which])

    def ids(self, index: int) -> np.ndarray:
        store, i = self._find(index)
        return store.ids(i)

    def segments(self, index: int) -> np.ndarray:
        store, i = self._find(index)
        return store.segments(i)

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
