"""What a stage decides before it trains, as two files: the data, and a record of it that is written last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load

from ... import ModelError
from ..storage.files import atomic_write_bytes, read_json, storage_errors, write_sealed_json
from ..storage.stage_files import damage

if TYPE_CHECKING:
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
        """Whether the stage in `folder` has decided, the same for all processes; what is damaged is decided again."""

        def problem() -> str:
            try:
                self.verified(folder)
            except ModelError as error:
                return str(error).partition("; ")[0]
            return ""

        if not context.processes.rank_zero_only((folder / self.record).exists):
            return False
        if found := context.processes.rank_zero_only(problem):
            context.warn(damage(f"{found}; it is made anew", {self.record: found}))
        return not found

    def write(self, folder: Path, record: Mapping[str, Any], data: bytes, **values: Any) -> None:
        """Writes the data, then the record of it with these further values."""
        atomic_write_bytes(folder / self.data, data)
        write_sealed_json(folder / self.record, dict(record) | values | {self.hash_key: sha256(data).hexdigest()})

    def read(self, context: Context, folder: Path) -> tuple[dict[str, Any], bytes]:
        """As `verified`, once this process sees the record."""
        context.processes.visible(folder / self.record)
        return self.verified(folder)

    def verified(self, folder: Path) -> tuple[dict[str, Any], bytes]:
        """The record, and the data.

        Raises:
            ModelError: a file is missing or damaged, or the data is not that which was written.
        """
        remedy = f"run the recipe again; if this comes again, delete {folder}"
        record, path = read_json(folder / self.record, ModelError, remedy, needed=True), folder / self.data
        if not path.is_file():
            raise ModelError(f"{path}: is missing; {remedy}")
        with storage_errors(path, "read"):
            data = path.read_bytes()
        if record.get(self.hash_key) != sha256(data).hexdigest():
            raise ModelError(f"{path}: has changed since it was written; {remedy}")
        return record, data

    def arrays(self, folder: Path) -> dict[str, np.ndarray]:
        """The data as arrays, where it is a safetensors file; errors as of `verified`."""
        return load(self.verified(folder)[1])


DECISION = DecisionFiles("decision.json", "decision.safetensors")
"""That of a hard stage: what is accepted, and why."""


@dataclass(frozen=True)
class LabelledVotes:
    """The votes on the labelled items that alpha is chosen on, `[n]` each.

    Attributes:
        confidence: the lowest among the voters; `agree` whether they agree, `correct` whether their label is right.
        example: the example of each item.
    """

    confidence: np.ndarray
    agree: np.ndarray
    correct: np.ndarray
    example: np.ndarray

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> LabelledVotes:
        """What `decision.safetensors` holds of them, as `as_arrays` gave it."""
        kinds = {"agree": np.bool_, "correct": np.bool_, "example": np.int64}
        return cls(arrays["alpha.confidence"], **{n: arrays[f"alpha.{n}"].astype(kind) for n, kind in kinds.items()})

    def as_arrays(self) -> dict[str, np.ndarray]:
        """For `decision.safetensors`."""
        kinds = {"confidence": self.confidence.dtype, "agree": np.uint8, "correct": np.uint8, "example": np.int32}
        return {f"alpha.{name}": getattr(self, name).astype(kind) for name, kind in kinds.items()}


def of_one_target(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a decision, of the target's with the text of one target alone.

    Args:
        record: as `storage.names.of_target` has it for the target.
    """
    items, examples = (slice(*record.get(name, (None,))) for name in ("items_at", "examples_at"))
    places = {name: examples if name == "target.pool" else items for name in arrays if name.startswith("target.")}
    return {name: values[places.get(name, slice(None))] for name, values in arrays.items()}
