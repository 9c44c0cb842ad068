"""From the results of all pieces to the sentences of the corpus and of its control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...data.corpus.language_id import accepted_codes, language_model
from ...data.corpus.piece import CONTROL, INFLECTED, MATCHED
from ...data.corpus.select import Candidates, control_order, pick_balanced
from .config import CorpusConfig
from .pieces import StoredPiece

_ROW_BITS = 32
_OPEN_PIECES = 64


@dataclass
class Merged:
    """What all pieces hold together.

    Attributes:
        folder: of the pieces.
        candidates: the sentences that may be selected.
        control: the random ones, as candidates for one entity.
        counts: sums over the pieces.
        per_entity: sentences of each entity, repetitions in other pieces included.
    """

    folder: Path
    candidates: Candidates
    control: Candidates
    counts: Counter[str]
    per_entity: np.ndarray

    @classmethod
    def of(cls, folder: Path, pieces: int, config: CorpusConfig, entities: int) -> Merged:
        """Read the columns of all pieces, in their order, in bounded memory."""
        out = cls(folder, Candidates(config.cap), Candidates(config.cap), Counter(), np.zeros(entities, np.int64))
        for index in range(pieces):
            piece = StoredPiece(folder, index)
            out.counts.update(piece.counts)
            out.counts["inflected"] += int(((piece.flags & INFLECTED) != 0).sum())
            out.per_entity += np.bincount(piece.pair_entity, minlength=entities)
            rows, first = piece.pair_row, np.int64(index) << _ROW_BITS
            out.candidates.add(piece.pair_entity, piece.order[rows], piece.hashes[rows], first + rows)
            rows = np.flatnonzero(piece.flags & CONTROL)
            hashes = piece.hashes[rows]
            out.control.add(np.zeros(len(rows), np.int32), control_order(hashes, config.seed), hashes, first + rows)
        return out


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
    inflected: int
    shared: int
    control_matched: int
    checked: int
    refused: Counter[str]


def choose(merged: Merged, config: CorpusConfig) -> Chosen:
    """Select corpus and control, each sentence checked for its language when its turn has come."""
    piece_of = lru_cache(_OPEN_PIECES)(lambda index: StoredPiece(merged.folder, index))

    def read(place: int) -> tuple[str, int]:
        index, row = divmod(place, 1 << _ROW_BITS)
        return piece_of(index).text(row), int(piece_of(index).flags[row])

    accept = _LanguageCheck(config, lambda place: read(place)[0])
    rows = merged.candidates.rows()
    picked = sorted(pick_balanced(rows, config.cap, frequency=merged.per_entity, accept=accept))
    control: list[tuple[int, int]] = []
    if config.control:
        control = sorted(pick_balanced(merged.control.rows(), len(picked), accept=accept))
    taken = np.isin(rows[2], np.array([value for value, _ in picked], dtype=np.uint64))
    corpus_rows, control_rows = ([read(place) for _, place in chosen] for chosen in (picked, control))
    return Chosen(
        [text for text, _ in corpus_rows],
        [text for text, _ in control_rows],
        np.bincount(rows[0][taken], minlength=len(merged.per_entity)),
        sum(flags & INFLECTED != 0 for _, flags in corpus_rows),
        len({value for value, _ in picked} & {value for value, _ in control}),
        sum(flags & MATCHED != 0 for _, flags in control_rows),
        len(accept.known),
        accept.refused,
    )


class _LanguageCheck:
    """Refuses sentences in another language; all are accepted where the check is off or the language is not known."""

    def __init__(self, config: CorpusConfig, text_at: Callable[[int], str]) -> None:
        self._codes = accepted_codes(config.language) if config.language_check else frozenset[str]()
        self._text_at = text_at
        self.known: dict[int, bool] = {}
        self.refused: Counter[str] = Counter()

    def __call__(self, sentence: int, place: int) -> bool:
        if not self._codes:
            return True
        if sentence not in self.known:
            language = str(language_model().classify(self._text_at(place))[0])
            self.known[sentence] = language in self._codes
            self.refused[language] += not self.known[sentence]
        return self.known[sentence]
