"""Overlapping windows over a sentence that is longer than the encoder reads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


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
