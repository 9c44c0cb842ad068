"""One piece of the text to select from: its sentences that may be selected, and a sample of all of them.

A piece is worked on alone, and its result is the same wherever and whenever that is done; `PieceResult` is what is kept
of it on the disk.
"""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any

import numpy as np

from ... import DataError
from .matcher import Match, TitleMatcher
from .select import SentenceHash, comparison_key, sampled_lines, score_order, shuffled

MATCHED, CONTROL, INFLECTED = 1, 2, 4
_SPACES = ("\u00a0", "\u202f", "\u2007", "\u2009", "\t", "\f", "\v")
_NOTHING = ("\u00ad", "\u200e", "\u200f", "\ufeff")
_MORE_SPACES = re.compile(" {2,}")
_BATCH = 512
_MAGIC = b"xlt-piece-1\n"

Scorer = Callable[[str], float]
Splitter = Callable[[str], list[str]]


@dataclass(frozen=True)
class PieceRules:
    """What a piece's result depends on beside its text.

    Attributes:
        seed: of the hashes and the sample.
        min_chars: shorter sentences are left out.
        max_chars: longer ones too.
        keep: most sentences of a piece kept for the control, and where sentences are scored, for their score.
        control_share: share of the lines looked at for the control.
        groups: for each title of the matcher the entity that it counts for; empty where sentences are scored.
    """

    seed: int
    min_chars: int
    max_chars: int
    keep: int
    control_share: float
    groups: tuple[int, ...] = ()


@dataclass
class PieceResult:
    """The sentences kept of a piece, each once, in the order of the text.

    Attributes:
        texts: the sentences.
        hashes: uint64 [n].
        flags: uint8 [n] of MATCHED, CONTROL, INFLECTED (only an ending made the match).
        order: uint64 [n], what decides among the sentences of an entity, the lowest first.
        pair_row: int32 [p], row of the sentence.
        pair_entity: int32 [p], entity in it.
        counts: what was read and left out.
    """

    texts: list[str]
    hashes: np.ndarray
    flags: np.ndarray
    order: np.ndarray
    pair_row: np.ndarray
    pair_entity: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)

    def to_bytes(self) -> bytes:
        """Everything, for a file."""
        encoded = [text.encode() for text in self.texts]
        starts = np.concatenate([[0], np.cumsum([len(e) for e in encoded])]).astype(np.int64)
        arrays = (self.hashes, self.order, starts, self.pair_row, self.pair_entity, self.flags)
        head = {"rows": len(encoded), "pairs": len(self.pair_row), "counts": dict(sorted(self.counts.items()))}
        parts = [_MAGIC, json.dumps(head).encode() + b"\n", *(a.tobytes() for a in arrays), *encoded]
        return b"".join(parts)


class StoredPiece:
    """A piece's result in a file: the columns at once, the sentences when they are asked for.

    Raises:
        DataError: the bytes are no such result.
    """

    def __init__(self, data: bytes | mmap, name: str) -> None:
        end = data.find(b"\n", len(_MAGIC))
        if data[: len(_MAGIC)] != _MAGIC or end < 0:
            raise DataError(f"{name}: not a piece of a corpus; delete its folder and run the command again")
        head = json.loads(data[len(_MAGIC) : end])
        rows, pairs, place = head["rows"], head["pairs"], end + 1
        self.counts: Counter[str] = Counter(head["counts"])
        columns = []
        for kind, size in (
            ("<u8", rows),
            ("<u8", rows),
            ("<i8", rows + 1),
            ("<i4", pairs),
            ("<i4", pairs),
            ("u1", rows),
        ):
            columns.append(np.frombuffer(data, kind, size, place))
            place += columns[-1].nbytes
        self.hashes, self.order, self._starts, self.pair_row, self.pair_entity, self.flags = columns
        self._data, self._blob = data, place

    def text(self, row: int) -> str:
        """A sentence."""
        first, end = (self._blob + int(at) for at in self._starts[row : row + 2])
        return str(self._data[first:end], "utf-8")

    def length(self, row: int) -> int:
        """Bytes of a sentence."""
        return int(self._starts[row + 1] - self._starts[row])


class PieceReader:
    """Works through the paragraphs of one piece after another.

    Args:
        rules: what decides.
        find: a matcher, whose titles `rules.groups` belong to, or a function that scores a sentence from 0 to 1.
        split: paragraph to sentences.
        excluded: keys (`comparison_key`) of sentences that must not be in the corpus.
    """

    def __init__(
        self, rules: PieceRules, find: TitleMatcher | Scorer, split: Splitter, excluded: frozenset[str] = frozenset()
    ) -> None:
        self.rules = rules
        self._find = find.find if isinstance(find, TitleMatcher) else None
        self._score = None if isinstance(find, TitleMatcher) else find
        self._split, self._excluded = split, excluded
        self._hash = SentenceHash(rules.seed, "sentence")

    def read(self, index: int, batches: Iterable[list[str]], counts: Counter[str] | None = None) -> PieceResult:
        """The result of a piece: its number, its paragraphs in batches (clean, see `paragraphs`), counts to go on."""
        state = _State(counts if counts is not None else Counter())
        total = 0
        for number, batch in enumerate(batches):
            wanted = sampled_lines(self.rules.seed, (index << 32) + number, len(batch), self.rules.control_share)
            total += len(batch)
            if self._find is None:
                for text, control in zip(batch, wanted.tolist(), strict=True):
                    self._scored(state, text, control)
                continue
            find = self._find
            for text, control in zip(batch, wanted.tolist(), strict=True):
                if matches := find(text):
                    self._matched(state, text, matches, control)
                elif control:
                    for sentence in self._split(text):
                        self._add(state, sentence, CONTROL)
        state.counts["paragraphs"] += total
        return self._finish(state)

    def _matched(self, state: _State, text: str, matches: list[Match], control: bool) -> None:
        assert self._find is not None
        parts = self._split(text)
        flag = CONTROL if control else 0
        for sentence in parts:
            found = matches if sentence == text else self._find(sentence)
            if not found:
                if control:
                    self._add(state, sentence, CONTROL)
                continue
            inexact = not any(match.exact for match in found)
            row = self._add(state, sentence, flag | MATCHED | (INFLECTED if inexact else 0))
            if row >= 0:
                groups = self.rules.groups
                for entity in {groups[match.title] for match in found}:
                    state.pair_row.append(row)
                    state.pair_entity.append(entity)

    def _scored(self, state: _State, text: str, control: bool) -> None:
        assert self._score is not None
        for sentence in self._split(text):
            score = self._score(sentence)
            flags = (CONTROL if control else 0) | (MATCHED if score > 0 else 0)
            if flags and self._add(state, sentence, flags) >= 0:
                state.scores.append(score)

    def _add(self, state: _State, sentence: str, flags: int) -> int:
        """The row of a new sentence that may be kept, else -1."""
        matched = flags & MATCHED
        state.counts["matched" if matched else "sampled"] += 1
        if not self.rules.min_chars <= len(sentence) <= self.rules.max_chars:
            if matched:
                state.counts["too-short" if len(sentence) < self.rules.min_chars else "too-long"] += 1
            return -1
        if self._excluded and comparison_key(sentence) in self._excluded:
            state.counts["excluded"] += 1
            return -1
        value = self._hash(sentence)
        row = state.rows.get(value)
        if row is not None:
            state.counts["duplicates"] += bool(matched)
            state.flags[row] |= flags & CONTROL
            return -1
        state.rows[value] = len(state.texts)
        state.texts.append(sentence)
        state.flags.append(flags)
        return len(state.texts) - 1

    def _finish(self, state: _State) -> PieceResult:
        hashes = np.fromiter(state.rows, np.uint64, len(state.rows))
        flags = np.frombuffer(state.flags, np.uint8).copy() if state.flags else np.zeros(0, np.uint8)
        pair_row, pair_entity = (np.array(a, dtype=np.int32) for a in (state.pair_row, state.pair_entity))
        order = hashes if self._find is not None else score_order(np.array(state.scores, dtype=np.float64))
        _thin(flags, CONTROL, shuffled(hashes, self.rules.seed), self.rules.keep)
        if self._find is None:
            _thin(flags, MATCHED, order, self.rules.keep)
            pair_row = np.flatnonzero(flags & MATCHED).astype(np.int32)
            pair_entity = np.zeros(len(pair_row), np.int32)
        kept = (flags & (MATCHED | CONTROL)) != 0
        number = np.cumsum(kept) - 1
        texts = [text for text, keep in zip(state.texts, kept.tolist(), strict=True) if keep]
        pair_row = number[pair_row].astype(np.int32)
        return PieceResult(texts, hashes[kept], flags[kept], order[kept], pair_row, pair_entity, state.counts)


class _State:
    """What grows while a piece is read."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self.rows: dict[int, int] = {}
        self.texts: list[str] = []
        self.flags = bytearray()
        self.scores = array("d")
        self.pair_row, self.pair_entity = array("i"), array("i")


def _thin(flags: np.ndarray, flag: int, order: np.ndarray, keep: int) -> None:
    """Take a flag from all but the `keep` sentences of lowest order."""
    marked = np.flatnonzero(flags & flag)
    if len(marked) > keep:
        dropped = marked[np.argsort(order[marked], kind="stable")[keep:]]
        flags[dropped] &= np.uint8(255 - flag)


def paragraphs(text: str) -> list[str]:
    """The non-empty lines of a text in NFC, white space made single spaces, invisible characters removed."""
    for char in _SPACES:
        if char in text:
            text = text.replace(char, " ")
    for char in _NOTHING:
        if char in text:
            text = text.replace(char, "")
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if "  " in text:
        text = _MORE_SPACES.sub(" ", text)
    normal, compose = unicodedata.is_normalized, unicodedata.normalize
    return [
        line if line.isascii() or normal("NFC", line) else compose("NFC", line)
        for line in map(str.strip, text.split("\n"))
        if line
    ]


def batches(texts: Iterable[str], counts: Counter[str]) -> Iterator[list[str]]:
    """The paragraphs of the texts, some hundred or more together, counting their characters."""
    held: list[str] = []
    for text in texts:
        counts["characters"] += len(text)
        held += paragraphs(text)
        if len(held) >= _BATCH:
            yield held
            held = []
    if held:
        yield held


def no_split(text: str) -> list[str]:
    """A paragraph that is one sentence already."""
    return [text]


def as_json(counts: Counter[str]) -> dict[str, Any]:
    """Counts that occurred, sorted by name."""
    return {name: counts[name] for name in sorted(counts) if counts[name]}
