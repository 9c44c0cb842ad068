from __future__ import annotations

from pathlib import Path

import pytest

from xlt_engine import DataError
from xlt_engine.data.corpus.matcher import TitleMatcher
from xlt_engine.data.corpus.piece import ByTitle, PieceReader, PieceResult, PieceRules
from xlt_engine.data.corpus.sentence_split import sentences
from xlt_engine.engine.corpus.pieces import StoredPiece, piece_bytes, piece_path


def read(*lines: str) -> PieceResult:
    titles = ByTitle(TitleMatcher(["Oslo", "Rom", "Ulm"], "de"), (0, 1, 2))
    return PieceReader(PieceRules(0, 1, 99, 1.0), titles, lambda text: sentences(text, "de")).read(0, lines)


def test_a_stored_piece_is_the_same(tmp_path: Path) -> None:
    result = read("Rom ist alt. Köln 東京 Ulm.", "Oslo \U0001f600 x.")
    path = piece_path(tmp_path, 7)
    path.write_bytes(piece_bytes(result))
    stored = StoredPiece(tmp_path, 7)
    assert [stored.text(i) for i in range(len(result.texts))] == result.texts
    for name in ("hashes", "order", "flags", "pair_row", "pair_entity"):
        assert getattr(stored, name).tolist() == getattr(result, name).tolist(), name
    assert stored.counts == result.counts
    path.write_bytes(piece_bytes(read()))
    empty = StoredPiece(tmp_path, 7)
    assert (len(empty.hashes), len(empty.pair_row)) == (0, 0)
    for wrong in (b"", b"xlt-piece-1", b"something else\n{}"):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="not a piece"):
            StoredPiece(tmp_path, 7)
