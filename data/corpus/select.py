"""Which sentences a corpus keeps: hashes that decide everything, balance over entities, and a random control.

Every sentence has a 64-bit hash of its text and the seed. Equal texts have equal hashes, which removes duplicates, and
the order of the hashes is a random order that depends on nothing else: not on the place in the dump, the number of
workers, or where a run was cut off.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable

import numpy as np

from ..batches.sampling import derive_seed

_NOT_WORD = re.compile(r"[\W_]+")
# More of each entity than the level of a perfect balance: for sentences with several entities, and for those that the
# language identifier refuses later.
_SLACK, _SLACK_MORE = 4, 8


class SentenceHash:
    """Keyed 64-bit hashes of sentences."""

    def __init__(self, seed: int) -> None:
        self._key = derive_seed(seed, "corpus", "sentence").to_bytes(8, "little")

    def __call__(self, sentence: str) -> int:
        digest = hashlib.blake2b(sentence.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little")


def comparison_key(text: str) -> str:
    """What is left of a text for comparing it with another copy: its letters and digits in folded case.

    Tokenised and running text of the same sentence have the same key.
    """
    return _NOT_WORD.sub("", unicodedata.normalize("NFKC", text).casefold())


def water_level(counts: np.ndarray, cap: int) -> int:
    """The smallest L for which `min(count, L)` over all entities sums to at least `cap`; the largest count if none."""
    return bisect_left(range(int(counts.max(initial=0))), cap, key=lambda level: int(np.minimum(counts, level).sum()))


class Candidates:
    """Sentences that may be selected, as (entity, order, hash, place) rows, trimmed as they grow.

    `order` decides within an entity, the lowest first. Memory is bounded: beyond `limit`
    rows each entity keeps the first few times what a perfect balance of `cap` sentences would take. `duplicates` and
    `trimmed` count the rows dropped.
    """

    def __init__(self, cap: int, *, limit: int = 1_000_000) -> None:
        self._cap, self._limit = cap, limit
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._rows = 0
        self.duplicates = self.trimmed = 0

    def add(self, entity: np.ndarray, order: np.ndarray, hashes: np.ndarray, place: np.ndarray) -> None:
        """Add rows: int32, uint64, uint64 and int64 of one length; parts must come in the order of the input."""
        self._parts.append((entity, order, hashes, place))
        self._rows += len(entity)
        if self._rows > self._limit:
            self._compact(trim=True)

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All rows without duplicates, sorted by entity, then order; the first place of a sentence stands for it."""
        self._compact(trim=False)
        return self._parts[0]

    def _compact(self, *, trim: bool) -> None:
        empty = (np.zeros(0, np.int32), np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))
        entity, order, hashes, place = (np.concatenate(column) for column in zip(empty, *self._parts, strict=True))
        at = np.lexsort((place, hashes, order, entity))
        entity, order, hashes, place = entity[at], order[at], hashes[at], place[at]
        new = np.ones(len(entity), dtype=bool)
        new[1:] = (entity[1:] != entity[:-1]) | (hashes[1:] != hashes[:-1])
        self.duplicates += int(len(new) - new.sum())
        if trim:
            starts = np.flatnonzero(np.concatenate([[True], entity[new][1:] != entity[new][:-1]]))
            sizes = np.diff(np.append(starts, int(new.sum())))
            rank = np.arange(int(new.sum())) - np.repeat(starts, sizes)
            kept = rank < _SLACK * water_level(sizes, self._cap) + _SLACK_MORE
            self.trimmed += int(len(kept) - kept.sum())
            new[np.flatnonzero(new)[~kept]] = False
            # Where trimming cannot help (few rows for each of many entities), ask for it less often.
            self._limit = max(self._limit, 2 * int(kept.sum()))
        self._parts = [(entity[new], order[new], hashes[new], place[new])]
        self._rows = int(new.sum())


def pick_balanced(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    cap: int,
    *,
    frequency: np.ndarray | None = None,
    accept: Callable[[int, int], bool] = lambda sentence, place: True,
) -> list[tuple[int, int]]:
    """Hash and place of up to `cap` sentences, in rounds: in round r each entity with fewer than r gets one more.

    The rarest entity chooses first. A sentence with several entities counts for all of them and is taken once. With one
    entity, those of the lowest order are taken.

    Args:
        cap: most sentences.
        frequency: how often each entity occurs, int [entities], by which rarity is told; None: by the rows.
        accept: asked once about each sentence whose turn it is, by its hash and place.
    """
    entity, _, hashes, place = rows
    distinct, at, sentence = np.unique(hashes, return_index=True, return_inverse=True)
    names, starts, counts = np.unique(entity, return_index=True, return_counts=True)
    numbers = np.repeat(np.arange(len(names)), counts)
    by_sentence = np.argsort(sentence, kind="stable")
    first = np.searchsorted(sentence[by_sentence], np.arange(len(distinct) + 1)).tolist()
    members, lists = numbers[by_sentence].tolist(), sentence.tolist()
    following, ends, have = starts.tolist(), (starts + counts).tolist(), [0] * len(names)
    turn = np.lexsort((names, counts if frequency is None else frequency[names])).tolist()
    settled = bytearray(len(distinct))
    picked: list[tuple[int, int]] = []

    def next_of(who: int) -> int | None:
        """The first sentence of an entity that is neither taken nor refused."""
        while following[who] < ends[who]:
            number = lists[following[who]]
            following[who] += 1
            if not settled[number]:
                settled[number] = 1
                if accept(int(distinct[number]), int(place[at[number]])):
                    return int(number)
        return None

    level = 0
    while turn and len(picked) < cap:
        level += 1
        going = []
        for who in turn:
            if have[who] < level:
                chosen = next_of(who) if len(picked) < cap else None
                if chosen is None:
                    continue
                picked.append((int(distinct[chosen]), int(place[at[chosen]])))
                for member in members[first[chosen] : first[chosen + 1]]:
                    have[member] += 1
            going.append(who)
        turn = going
    return picked


def excluded_keys(texts: Iterable[str]) -> frozenset[str]:
    """Keys of evaluation texts for the comparison; what is only punctuation has none."""
    return frozenset(key for key in map(comparison_key, texts) if key)


def control_order(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Another random order of the same sentences: uint64 [n], for the control, which knows nothing of the selection."""
    return hashes * np.uint64(derive_seed(seed, "corpus", "control") | 1)  # odd, so one to one
