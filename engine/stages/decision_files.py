"""What stages have decided, as arrays of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ..storage.stage_files import DECIDED, refuse_changed

DECISION, SOFT_LABELS = "decision.json", "soft_labels.json"
"""Records of a hard stage, what is accepted and why, and of a soft one."""


def decided_arrays(folder: Path, name: str = DECISION) -> dict[str, np.ndarray]:
    """The arrays that a finished stage decided on.

    Args:
        name: of their record, a key of `DECIDED`.

    Raises:
        ModelError: the record or the arrays are not those that were written.
    """
    refuse_changed(folder, (name, DECIDED[name]), remedy=f"run the recipe again; if this comes again, delete {folder}")
    return load_file(folder / DECIDED[name])


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
