"""What the scores of a stage are made of, test item by test item: for comparing two models on the same items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ... import DataError
from ..storage.files import atomic_write_bytes
from .metrics import f1_of_counts

ITEMS = "items.safetensors"
"""In the folder of a scored stage. It decides nothing, and stages made before there was one stay as they are."""
Items = dict[str, NDArray[Any]]
"""Language -> uint16 `[n, 3]`, entities of each sentence (gold, predicted, correct); or uint8 `[n]`, right or wrong."""


def save_items(folder: Path, items: Items) -> None:
    """Writes the items of a stage beside its scores."""
    atomic_write_bytes(folder / ITEMS, save({name: np.ascontiguousarray(rows) for name, rows in items.items()}))


def load_items(folder: Path) -> Items:
    """The items of a stage; empty where it was made before they were kept.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return load((folder / ITEMS).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / ITEMS}: cannot be read ({error}); delete the stage and run it again") from error


def points(items: NDArray[Any]) -> float:
    """The score of some items: entity F1 of their summed counts, or accuracy; 0 to 100."""
    return f1_of_counts(items) if items.ndim == 2 else 100.0 * float(items.mean())
