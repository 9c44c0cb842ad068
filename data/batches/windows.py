"""Overlapping windows over a sentence that is longer than the encoder reads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
