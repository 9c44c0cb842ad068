"""Which sentences a corpus keeps: hashes that decide everything, balance over entities, and a random control.

Every sentence has a 64-bit hash of its text and the seed. Equal texts have equal hashes, which removes duplicates, and
the order of the hashes is a random order that depends on nothing else: not on the place in the dump, the number of
workers, or where a run was cut off.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable

import numpy as np

from ..batches.seeding import derive_seed

_NOT_WORD = re.compile(r"[\W_]+")
# More of each entity than the level of a perfect balance: for sentences with several entities, and for those that the
# language identifier refuses later.
_SLACK, _SLACK_MORE = 4, 8


class SentenceHash:
    """Keyed 64-bit hashes of sentences; one purpose's order says nothing about another's."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._key = derive_seed(seed, "corpus", purpose).to_bytes(8, "little")

    def __call__(self, sentence: str) -> int:
        digest = hashlib.blake2b(sentence.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little")


def comparison_key(text: str) -> str:
    """What is left of a text for comparing it with another copy: its letters and digits in folded case.

    Tokenised and running text of the same sentence have the same key.
    """
    return _NOT_WORD.sub("", unicodedata.normalize("NFKC", text).casefold())


def sampled_lines(seed: int, piece: int, count: int, share: float) -> np.ndarray:
    """Which of `count` lines of a piece of the input are looked at for the control: bool [count], a given share."""
    if share >= 1:
        return np.ones(count, dtype=bool)
    with np.errstate(over="ignore"):
        x = _mixed(np.arange(count, dtype=np.uint64) + np.uint64(derive_seed(seed, "control", piece)))
    return np.asarray(x < np.uint64(int(share * 2**64)))


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: neighbouring numbers to independent ones, one to one."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def water_level(counts: np.ndarray, cap: int) -> int:
    """The smallest L for which `min(count, L)` over all entities sums to at least `cap`; the largest count if none."""
    ordered = np.sort(counts[counts > 0])
    if not len(ordered) or int(ordered.sum()) <= cap:
        return int(ordered[-1]) if len(ordered) else 0
    below = np.concatenate([[0], np.cumsum(ordered)[:-1]])
    left = np.arange(len(ordered), 0, -1)
    step = int(np.argmax(below + left * ordered >= cap))
    return int(-(-(cap - below[step]) // left[step]))


class Candidates:
    """Sentences that may be selected, as (entity, order, hash, place) rows, trimmed as they grow.

    `order` decides within an entity, the lowest first: the hash itself, or a score. Memory is bounded: beyond `limit`
    rows each entity keeps the first few times what a perfect balance of `cap` sentences would take.

    Attributes:
        duplicates: rows dropped because their sentence was there already, of those that trimming had left.
        trimmed: rows dropped by trimming.
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
    entity: np.ndarray,
    order: np.ndarray,
    hashes: np.ndarray,
    cap: int,
    *,
    frequency: np.ndarray | None = None,
    rejected: Collection[int] = (),
) -> list[int]:
    """Hashes of up to `cap` sentences, in rounds: in round r each entity that has fewer than r sentences gets one more.

    The rarest entity chooses first. A sentence with several entities counts for all of them and is taken once.

    Args:
        entity: int [n], rows sorted by entity, then order, without duplicates.
        order: uint64 [n].
        hashes: uint64 [n], of the sentence.
        cap: most sentences.
        frequency: how often each entity occurs, int [entities], by which rarity is told; None: by the rows.
        rejected: hashes that must not be taken.
    """
    if rejected:
        allowed = ~np.isin(hashes, np.fromiter(rejected, np.uint64, len(rejected)))
        entity, order, hashes = entity[allowed], order[allowed], hashes[allowed]
    if not len(entity):
        return []
    distinct, sentence = np.unique(hashes, return_inverse=True)
    names, starts, counts = np.unique(entity, return_index=True, return_counts=True)
    numbers = np.repeat(np.arange(len(names)), counts)
    by_sentence = np.argsort(sentence, kind="stable")
    first = np.searchsorted(sentence[by_sentence], np.arange(len(distinct) + 1)).tolist()
    members, lists = numbers[by_sentence].tolist(), sentence.tolist()
    place, ends, have = starts.tolist(), (starts + counts).tolist(), [0] * len(names)
    turn = np.lexsort((names, counts if frequency is None else frequency[names])).tolist()
    taken = bytearray(len(distinct))
    picked: list[int] = []
    level = 0
    while turn and len(picked) < cap:
        level += 1
        going = []
        for who in turn:
            if have[who] >= level:
                going.append(who)
                continue
            while place[who] < ends[who] and taken[lists[place[who]]]:
                place[who] += 1
            if place[who] == ends[who]:
                continue
            going.append(who)
            chosen = lists[place[who]]
            taken[chosen] = 1
            picked.append(chosen)
            for member in members[first[chosen] : first[chosen + 1]]:
                have[member] += 1
            if len(picked) == cap:
                break
        turn = going
    return [int(h) for h in distinct[picked]]


def pick_lowest(order: np.ndarray, hashes: np.ndarray, count: int, *, rejected: Collection[int] = ()) -> list[int]:
    """Hashes of the `count` sentences with the lowest order: the best by score, or a random sample."""
    at = np.lexsort((hashes, order))
    out: list[int] = []
    seen = set(rejected)
    for value in hashes[at].tolist():
        if len(out) == count:
            break
        if value not in seen:
            seen.add(value)
            out.append(int(value))
    return out


def score_order(scores: np.ndarray) -> np.ndarray:
    """Scores from 0 to 1 as uint64 [n] that rise where they fall."""
    return (np.float64(2**53) * (1 - np.clip(scores.astype(np.float64), 0, 1))).astype(np.uint64)


def excluded_keys(texts: Iterable[str]) -> set[str]:
    """Keys of evaluation texts for the comparison; what is only punctuation has none."""
    return {key for key in map(comparison_key, texts) if key}


def shuffled(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Another random order of the same sentences: uint64 [n], for the control, which knows nothing of the selection."""
    with np.errstate(over="ignore"):
        return _mixed(hashes ^ np.uint64(derive_seed(seed, "corpus", "control")))
