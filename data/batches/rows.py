"""The items of a store's examples, and the sequences in which a model reads them: whole, or windows over long ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..store.format import IGNORE
from ..store.store import TokenStore
from .windows import Row, deciding_windows, window_row


@dataclass(frozen=True)
class ItemView:
    """The items of a store's examples: its own (words or [CLS]), or every token that is not special.

    Attributes:
        offsets: int64 [n + 1], where each example's items start on the flat item axis.
    """

    store: TokenStore
    mode: Literal["first", "all"] = "first"

    @property
    def offsets(self) -> np.ndarray:
        if self.mode == "first":
            return np.asarray(self.store.item_offsets, dtype=np.int64)
        return np.concatenate([[0], np.cumsum(self.store.lengths - 2)])

    def positions(self, example: int) -> np.ndarray:
        if self.mode == "first":
            return self.store.items(example)[0]
        return np.arange(1, self.store.lengths[example] - 1)


class Rows:
    """The sequences in which a model reads examples: the short ones in their order, then the windows of the others.

    Every item is decided, or learned, in one of them: prediction and training read a long example alike.

    Args:
        view: which items.
        examples: int [n].
        labels: int [items of the store]; a window that decides no item with a label is left out.

    Attributes:
        lengths: int64 [sequences], the tokens of each.
        counts: int64 [sequences], the items that each decides.
    """

    def __init__(self, view: ItemView, examples: np.ndarray, labels: np.ndarray | None = None) -> None:
        store, self._view, self._offsets = view.store, view, view.offsets
        long = store.long[examples]
        self._short = np.asarray(examples)[~long]
        self._windows = [
            (i, begin, words)
            for i in np.asarray(examples)[long].tolist()
            for begin, words in deciding_windows(view.positions(i), int(store.lengths[i]), store.max_length)
            if labels is None or (labels[self._offsets[i] + words] != IGNORE).any()
        ]
        windows = [min(store.max_length, int(store.lengths[i]) - begin) for i, begin, _ in self._windows]
        self.lengths = np.concatenate([store.lengths[self._short], np.array(windows, dtype=np.int64)])
        counts = np.array([len(words) for _, _, words in self._windows], dtype=np.int64)
        self.counts = np.concatenate([np.diff(self._offsets)[self._short], counts])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Row:
        view, store = self._view, self._view.store
        if number >= len(self._short):
            i, begin, words = self._windows[number - len(self._short)]
            first = int(self._offsets[i])
            return window_row(store.ids(i), view.positions(i), store.max_length, begin, words, first=first, example=i)
        i = int(self._short[number])
        segments = None if store.second is None else store.segments(i)
        return Row(store.ids(i), view.positions(i), np.arange(self._offsets[i], self._offsets[i + 1]), segments, i)
