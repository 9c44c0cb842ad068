"""The results of pieces as files of safetensors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ... import DataError
from ...data.corpus.piece import PieceResult
from ..storage.files import storage_errors

_COLUMNS = ("hashes", "order", "flags", "pair_row", "pair_entity")


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
    """A piece's result in a file: the columns at once, the sentences when they are asked for.

    Raises:
        DataError: the file is no such result.
        StorageError: it cannot be read.
    """

    def __init__(self, folder: Path, index: int) -> None:
        path = piece_path(folder, index)
        try:
            with storage_errors(path, "read"):
                self._file = _opened(path)
            self.hashes, self.order, self.flags, self.pair_row, self.pair_entity, self._starts = (
                self._file.get_tensor(name) for name in (*_COLUMNS, "starts")
            )
            self.counts: Counter[str] = Counter(json.loads(self._file.metadata()["counts"]))
        except (SafetensorError, TypeError, KeyError) as error:
            raise DataError(f"{path}: not a piece of a corpus; delete its folder and run the command again") from error

    def text(self, row: int) -> str:
        """A sentence."""
        return bytes(self._file.get_slice("text")[self._starts[row] : self._starts[row + 1]]).decode()


def _opened(path: Path) -> Any:
    """A file of safetensors; its methods have no types."""
    return safe_open(path, "numpy")
