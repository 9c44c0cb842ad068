"""The items of a store's examples, the sequences (or windows) in which a model reads them, and batches of these."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..store.store import IGNORE, TokenStore
from .batch import PackedBatch, pack, pack_joined


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence that a model reads: a whole example, or a window over one.

    Attributes:
        ids: token ids, special ones included.
        positions: of the items that it decides, among its tokens.
        items: the number of each of these items in the result.
        segments: 0 or 1 for each token; None for all 0.
        example: the caller's number of the example.
    """

    ids: Sequence[int] | np.ndarray
    positions: Sequence[int] | np.ndarray
    items: Sequence[int] | np.ndarray
    segments: Sequence[int] | np.ndarray | None = None
    example: int = 0


def window_rows(
    ids: Sequence[int] | np.ndarray,
    positions: Sequence[int] | np.ndarray,
    max_length: int,
    *,
    first: int,
    example: int = 0,
) -> list[Row]:
    """A tokenised sentence as the rows that a model reads: itself, or windows of at most `max_length` tokens.

    Each item is decided by one row; a window that decides none is left out.

    Args:
        ids: of the whole sentence, [CLS] first and [SEP] last; every window has these two.
        positions: of the first token of each word among them, rising.
        first: number of the first item in the result; the others follow.
    """
    values, places = np.asarray(ids), np.asarray(positions, dtype=np.int64)
    if len(values) <= max_length:
        return [Row(values, places, np.arange(first, first + len(places)), example=example)]
    return [
        window_row(values, places, max_length, begin, words, first=first, example=example)
        for begin, words in deciding_windows(places, len(values), max_length)
    ]


def deciding_windows(places: np.ndarray, length: int, max_length: int) -> list[tuple[int, np.ndarray]]:
    """Where the windows over a sentence of `length` tokens begin after its [CLS], and the items that each decides.

    Args:
        places: int [K], the first token of each word, rising.
    """
    spans = cut_windows((places - 1).tolist(), length - 2, max_length - 2)
    return [(begin, np.asarray(words, dtype=np.int64)) for begin, words in spans if len(words)]


def window_row(
    ids: np.ndarray, places: np.ndarray, max_length: int, begin: int, words: np.ndarray, *, first: int, example: int
) -> Row:
    """One window of `deciding_windows`; the other arguments as of `window_rows`."""
    window = np.concatenate([ids[:1], ids[1 + begin : min(begin + max_length, len(ids)) - 1], ids[-1:]])
    return Row(window, places[words] - begin, first + words, example=example)


def cut_windows(starts: Sequence[int], total: int, room: int) -> list[tuple[int, Sequence[int]]]:
    """Windows of at most `room` tokens over `total` tokens, each beginning at a word, the next one half a window on.

    Args:
        starts: first token of each word, rising, from 0.

    Returns:
        Where each window begins, and the words that it decides: every word is decided once, by the window that leaves
        the most context on its shorter side (the ends of the sentence count as no limit).
    """
    if total <= room or not starts:
        return [(0, range(len(starts)))]
    begins = [0]
    while begins[-1] + room < total:
        here = bisect_right(starts, begins[-1])
        if here == len(starts):  # the last word alone is longer than a window
            break
        begins.append(starts[max(here, bisect_right(starts, begins[-1] + room - room // 2) - 1)])
    else:
        begins[-1] = starts[bisect_left(starts, total - room)]
    members: list[list[int]] = [[] for _ in begins]
    for word, start in enumerate(starts):
        end = starts[word + 1] if word + 1 < len(starts) else total
        first, last = bisect_right(begins, start - room), bisect_right(begins, start)
        members[max(range(first, last), key=lambda w: _context(begins[w], room, total, start, end))].append(word)
    return list(zip(begins, members, strict=True))


def _context(begin: int, room: int, total: int, start: int, end: int) -> int:
    left = total if begin == 0 else start - begin
    right = total if begin + room >= total else begin + room - end
    return min(left, right)


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

    def places(self, examples: np.ndarray, items: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """`positions` of several examples end to end, int64 [K]; `items` are their numbers, `counts` how many each."""
        if self.mode == "all":
            return _spans(np.ones_like(counts), counts)
        places: np.ndarray = self.store.item_positions[items].astype(np.int64)
        return places


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

    def batch(self, numbers: np.ndarray) -> tuple[PackedBatch, np.ndarray]:
        """Some of the sequences packed in this order, and the number of each of their items.

        Short ones are copied from the store all at once: one by one they would take as long as a GPU's forward pass.
        """
        if numbers.max() >= len(self._short):
            return pack_rows([self[int(number)] for number in numbers])
        store, examples = self._view.store, self._short[numbers]
        lengths, counts = self.lengths[numbers], self.counts[numbers]
        items = _spans(self._offsets[examples], counts)
        segments = None
        if store.second is not None:
            second = _spans(np.zeros_like(lengths), lengths) >= np.repeat(store.second[examples], lengths)
            segments = second.astype(np.int64)
        batch = pack_joined(
            lengths,
            store.token_ids[_spans(store.offsets[examples], lengths)].astype(np.int64),
            self._view.places(examples, items, counts),
            counts,
            segments=segments,
            example_ids=examples.astype(np.int64),
        )
        return batch, items


def _spans(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`counts[i]` numbers from `starts[i]` on, for each i after the other, int64."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1])


INFERENCE_TOKENS = 4096
GPU_INFERENCE_TOKENS = 32768
"""A GPU is busy only with large products; without a backward pass so many tokens take little of its memory."""


def inference_tokens(device_type: str) -> int:
    """Tokens of a batch without a backward pass, by the type of the device."""
    return GPU_INFERENCE_TOKENS if device_type == "cuda" else INFERENCE_TOKENS


def inference_batches(
    view: ItemView,
    examples: np.ndarray | None = None,
    *,
    token_budget: int = INFERENCE_TOKENS,
    part: int = 0,
    parts: int = 1,
) -> Iterator[tuple[PackedBatch, np.ndarray]]:
    """Batches of about `token_budget` tokens, sorted by length, with the flat item numbers of their rows.

    The sentences of a store that keeps them whole are read in windows where they are longer than its maximum length.
    Of the batches, which do not depend on `part` and `parts`, those number `part`, `part + parts` and so on.

    Yields:
        A batch, and int64 [K]: where the result of each of its items belongs on the flat item axis of the store.
    """
    rows = Rows(view, np.arange(len(view.store)) if examples is None else examples)
    return map(rows.batch, _cut(rows.lengths, token_budget, part, parts))


def row_batches(
    lengths: np.ndarray, row: Callable[[int], Row], token_budget: int, *, part: int = 0, parts: int = 1
) -> Iterator[tuple[PackedBatch, np.ndarray]]:
    """Batches of rows, as of `inference_batches`.

    Args:
        lengths: int [n], tokens in each row.
        row: makes the row of a number below n when its batch is due.
    """
    for members in _cut(lengths, token_budget, part, parts):
        yield pack_rows([row(int(number)) for number in members])


def _cut(lengths: np.ndarray, token_budget: int, part: int, parts: int) -> Iterator[np.ndarray]:
    """The numbers of the rows of each batch."""
    order = np.argsort(lengths, kind="stable")
    group = (np.cumsum(lengths[order]) - 1) // token_budget
    cut = np.split(order, np.flatnonzero(np.diff(group)) + 1)
    return (members for members in cut[part::parts] if len(members))


def pack_rows(rows: Sequence[Row]) -> tuple[PackedBatch, np.ndarray]:
    """The rows packed in their order, and the number of each of their items."""
    paired = any(r.segments is not None for r in rows)
    batch = pack(
        [r.ids for r in rows],
        [np.zeros(len(r.ids), dtype=np.int64) if r.segments is None else r.segments for r in rows] if paired else None,
        items=[r.positions for r in rows],
        example_ids=[r.example for r in rows],
    )
    return batch, np.concatenate([np.asarray(r.items, dtype=np.int64) for r in rows])
