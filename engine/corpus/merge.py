"""The results of pieces as files of safetensors; from all of them to the sentences of the corpus and of its control."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ... import DataError
from ...data.corpus.language_id import accepted_codes, language_model
from ...data.corpus.piece import CONTROL, MATCHED, PieceResult
from ...data.corpus.select import Candidates, control_order, pick_balanced
from ..storage.files import storage_errors
from .config import CorpusConfig

_ROW_BITS = 32
_OPEN_PIECES = 64
_COLUMNS = ("hashes", "flags", "pair_row", "pair_entity")


def piece_path(folder: Path, index: int) -> Path:
    """File of a piece's result."""
    return folder / f"piece-{index:06}.bin"


def piece_bytes(result: PieceResult) -> bytes:
    """A result as a file's content."""
    encoded = [text.encode() for text in result.texts]
    columns = {name: np.array(getattr(result, name)) for name in _COLUMNS}
    columns["starts"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    columns["text"] = np.frombuffer(b"".join(encoded), np.uint8)
    return save(columns, {"counts": json.dumps(result.counts)})


class StoredPiece:
    """A piece's result in a file: the columns at once, the sentences when they are asked for."""

    def __init__(self, folder: Path, index: int) -> None:
        path = piece_path(folder, index)
        try:
            with storage_errors(path, "read"):
                self._file = cast(Any, safe_open(path, "numpy"))  # its methods have no types
            self.hashes, self.flags, self.pair_row, self.pair_entity, self._starts = (
                self._file.get_tensor(name) for name in (*_COLUMNS, "starts")
            )
            self.counts: Counter[str] = Counter(json.loads(self._file.metadata()["counts"]))
        except (SafetensorError, TypeError, KeyError) as error:
            raise DataError(f"{path}: not a piece of a corpus; delete its folder and run the command again") from error

    def text(self, row: int) -> str:
        """A sentence."""
        return bytes(self._file.get_slice("text")[self._starts[row] : self._starts[row + 1]]).decode()


@dataclass
class Merged:
    """What all pieces hold: the sentences that may be selected, random ones as candidates for one entity (`control`),
    and the number of each entity, repetitions in other pieces included (`per_entity`)."""

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
            out.per_entity += np.bincount(piece.pair_entity, minlength=entities)
            rows, first = piece.pair_row, np.int64(index) << _ROW_BITS
            out.candidates.add(piece.pair_entity, piece.hashes[rows], piece.hashes[rows], first + rows)
            rows = np.flatnonzero(piece.flags & CONTROL)
            hashes = piece.hashes[rows]
            out.control.add(np.zeros(len(rows), np.int32), control_order(hashes, config.seed), hashes, first + rows)
        return out


@dataclass
class Chosen:
    """The sentences of the corpus and of the control, in a random order; how many each entity has, are in both, and
    have an entity in the control; how many languages were looked at, and which refused."""

    texts: list[str]
    control: list[str]
    entities: np.ndarray
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

    codes = accepted_codes(config.language) if config.language_check else frozenset[str]()
    known, refused = dict[int, bool](), Counter[str]()

    def accept(sentence: int, place: int) -> bool:
        """All, where the check is off or the language is not known."""
        if codes and sentence not in known:
            language = str(language_model().classify(read(place)[0])[0])
            known[sentence] = language in codes
            refused[language] += not known[sentence]
        return not codes or known[sentence]

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
        len({value for value, _ in picked} & {value for value, _ in control}),
        sum(flags & MATCHED != 0 for _, flags in control_rows),
        len(known),
        refused,
    )
