"""What a stage decides before it trains, as two files: the data, and a record of it that is written last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ... import ModelError
from ..storage.files import atomic_write_bytes, atomic_write_json, read_json, sha256_file
from .context import Context


@dataclass(frozen=True)
class DecisionFiles:
    """The files of one kind of decision: with the record there, the decision is complete and is not made again.

    Attributes:
        record, data: file names; the record is JSON, and has the hash of the data under the key `hash_key`.
    """

    record: str
    data: str
    hash_key: str = "arrays"

    def exist(self, context: Context, folder: Path) -> bool:
        """Whether the stage in `folder` has decided, the same for all processes."""
        return context.processes.rank_zero_only((folder / self.record).exists)

    def write(self, folder: Path, record: Mapping[str, Any], data: bytes, **values: Any) -> None:
        """Writes the data, then the record of it with these further values."""
        atomic_write_bytes(folder / self.data, data)
        atomic_write_json(folder / self.record, dict(record) | values | {self.hash_key: sha256(data).hexdigest()})

    def read(self, context: Context, folder: Path) -> dict[str, Any]:
        """The record.

        Raises:
            ModelError: a file is damaged, or the data is not that which was written.
        """
        remedy = f"delete the folder {folder} and run again"
        record = read_json(context.processes.visible(folder / self.record), ModelError, remedy, needed=True)
        if record.get(self.hash_key) != sha256_file(folder / self.data):
            raise ModelError(f"{folder / self.data} has changed since it was written; delete {folder} and run again")
        return record
