"""From the results of all pieces to the sentences of the corpus and of its control."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...data.corpus.language_id import LanguageIdentifier
from ...data.corpus.piece import CONTROL, INFLECTED, MATCHED, StoredPiece
from ...data.corpus.select import Candidates, pick_balanced, pick_lowest, shuffled
from ..storage.files import storage_errors
from .config import CorpusConfig

_ROW_BITS = 32
_CONTROL_SPARE = 2


def piece_name(index: int) -> str:
    """File of a piece's result."""
    return f"piece-{index:06}.bin"


@dataclass
class Merged:
    """What all pieces hold together.

    Attributes:
        folder: of the pieces.
        candidates: (entity, order, hash, place) of the sentences that may be selected.
        control: (order, hash, place) of the random ones.
        counts: sums over the pieces.
        per_entity: sentences of each entity, repetitions in other pieces included.
    """

    folder: Path
    candidates: Candidates
    control: tuple[np.ndarray, np.ndarray, np.ndarray]
    counts: Counter[str]
    per_entity: np.ndarray

    @classmethod
    def of(cls, folder: Path, pieces: int, config: CorpusConfig, entities: int) -> Merged:
        """Read the columns of all pieces, in their order, in bounded memory."""
        out = cls(folder, Candidates(config.cap), _empty(), Counter(), np.zeros(entities, np.int64))
        for index in range(pieces):
            piece = open_piece(folder, index)
            out.counts.update(piece.counts)
            rows = piece.pair_row
            place = (np.int64(index) << _ROW_BITS) + rows.astype(np.int64)
            out.per_entity += np.bincount(piece.pair_entity, minlength=entities)
            out.candidates.add(piece.pair_entity, piece.order[rows], piece.hashes[rows], place)
            out.counts["inflected"] += int(((piece.flags & INFLECTED) != 0).sum())
            out._add_control(index, piece, config)
        return out

    def _add_control(self, index: int, piece: StoredPiece, config: CorpusConfig) -> None:
        rows = np.flatnonzero(piece.flags & CONTROL)
        self.counts["control-matched"] += int(((piece.flags[rows] & MATCHED) != 0).sum())
        hashes = piece.hashes[rows]
        place = (np.int64(index) << _ROW_BITS) + rows.astype(np.int64)
        new = (shuffled(hashes, config.seed), hashes, place)
        order, hashes, place = (np.concatenate(pair) for pair in zip(self.control, new, strict=True))
        # Equal hashes are the same sentence; the first place stands for it.
        _, first = np.unique(hashes, return_index=True)
        first = first[np.argsort(order[first])][: _CONTROL_SPARE * config.cap]
        self.control = (order[first], hashes[first], place[first])


@dataclass
class Chosen:
    """The sentences of the corpus and of the control, in a random order, and what the language check said.

    Attributes:
        texts: sentences.
        control: sentences.
        entities: for each entity its sentences in the corpus.
        inflected: sentences in the corpus that only an ending made a match.
        shared: sentences that are in both.
        control_matched: sentences of the control that contain an entity.
        checked: sentences whose language was looked at; 0 where that was not possible.
        refused: languages of those that were refused.
    """

    texts: list[str]
    control: list[str]
    entities: np.ndarray
    inflected: int = 0
    shared: int = 0
    control_matched: int = 0
    checked: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def choose(merged: Merged, config: CorpusConfig, entities: int) -> Chosen:
    """Select, check the language of what was selected, and select anew without those that were refused."""
    entity, order, hashes, place = merged.candidates.rows()
    texts = _Texts(merged.folder)
    texts.add(hashes, place)
    texts.add(*merged.control[1:])
    check = _LanguageCheck(config, texts)
    if config.select == "entities":
        often = merged.per_entity
        picked = check.settle(lambda no: pick_balanced(entity, order, hashes, config.cap, frequency=often, rejected=no))
    else:
        picked = check.settle(lambda no: pick_lowest(order, hashes, config.cap, rejected=no))
    control_order, control_hashes, _ = merged.control
    control: list[int] = []
    if config.control:
        control = check.settle(lambda no: pick_lowest(control_order, control_hashes, len(picked), rejected=no))
    taken = np.isin(hashes, np.array(picked, dtype=np.uint64))
    return Chosen(
        texts.of(sorted(picked)),
        texts.of(sorted(control)),
        np.bincount(entity[taken], minlength=entities),
        sum(texts.flags(h) & INFLECTED != 0 for h in picked),
        len(set(picked) & set(control)),
        sum(texts.flags(h) & MATCHED != 0 for h in control),
        check.checked,
        check.refused,
    )


class _LanguageCheck:
    """Repeats a selection until no sentence of it is in another language."""

    def __init__(self, config: CorpusConfig, texts: _Texts) -> None:
        assert config.language is not None
        self._texts, self._known = texts, dict[int, bool]()
        self._model = LanguageIdentifier(config.language) if config.language_check else None
        if self._model is not None and not self._model.supported:
            self._model = None
        self.refused: Counter[str] = Counter()

    @property
    def checked(self) -> int:
        """Sentences looked at."""
        return len(self._known)

    def settle(self, select: Callable[[set[int]], list[int]]) -> list[int]:
        """What `select` gives, told which hashes it must not give, once all of it has passed."""
        rejected = {h for h, good in self._known.items() if not good}
        picked = select(rejected)
        while self._model is not None:
            new = [h for h in picked if h not in self._known]
            for value, text in zip(new, self._texts.of(new), strict=True):
                language = self._model.identify(text)
                self._known[value] = self._model.accepts(language)
                self.refused[language] += not self._known[value]
            if all(self._known[h] for h in picked):
                break
            rejected.update(h for h in new if not self._known[h])
            picked = select(rejected)
        return picked


class _Texts:
    """Sentences by their hash, read from the pieces' files when they are needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hashes, self._places = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._flags: dict[int, int] = {}

    def add(self, hashes: np.ndarray, places: np.ndarray) -> None:
        """More sentences; of one that is there the first place stays."""
        hashes, places = np.concatenate([self._hashes, hashes]), np.concatenate([self._places, places])
        order = np.lexsort((places, hashes))
        hashes, places = hashes[order], places[order]
        first = np.ones(len(hashes), dtype=bool)
        first[1:] = hashes[1:] != hashes[:-1]
        self._hashes, self._places = hashes[first], places[first]

    def of(self, hashes: list[int]) -> list[str]:
        """The sentences; a piece is opened once."""
        wanted = np.array(hashes, dtype=np.uint64)
        places = self._places[np.searchsorted(self._hashes, wanted)]
        out = [""] * len(hashes)
        number, piece = -1, None
        for at in np.argsort(places, kind="stable").tolist():
            index, row = divmod(int(places[at]), 1 << _ROW_BITS)
            if piece is None or index != number:
                number, piece = index, open_piece(self._folder, index)
            out[at] = piece.text(row)
            self._flags[hashes[at]] = int(piece.flags[row])
        return out

    def flags(self, value: int) -> int:
        """Flags of a sentence that was read."""
        return self._flags[value]


def open_piece(folder: Path, index: int) -> StoredPiece:
    """A piece's result; its sentences stay on the disk until they are asked for."""
    path = folder / piece_name(index)
    with storage_errors(path, "read"), path.open("rb") as file:
        return StoredPiece(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), str(path))


def _empty() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64)
