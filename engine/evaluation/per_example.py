"""What the scores of a stage are made of, test item by test item: to compare two models on them, and to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ... import DataError
from ...data import OUTSIDE
from ..storage.files import atomic_write_bytes
from ..storage.names import ITEMS

if TYPE_CHECKING:
    from ...data import TokenStore


Items = dict[str, NDArray[Any]]
"""Language -> uint16 `[n, 3]`, entities of each sentence (gold, predicted, correct); or uint8 `[n]`, right or wrong."""


def save_items(folder: Path, items: Items, name: str = ITEMS) -> None:
    """Writes what is known of the test items of a stage beside its scores."""
    atomic_write_bytes(folder / name, save({name: np.ascontiguousarray(rows) for name, rows in items.items()}))


def load_items(folder: Path, name: str = ITEMS) -> Items:
    """What `save_items` wrote; empty where the stage was made before it was kept.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return load((folder / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / name}: cannot be read ({error}); delete the stage and run it again") from error


def predicted_tags(labels: tuple[str, ...], store: TokenStore, example: int, predicted: np.ndarray) -> list[str]:
    """The tag of every word of an example; `O` where the word has no token, or the store cut it."""
    tags = [OUTSIDE] * int(store.num_words[example])
    start = int(store.item_offsets[example])
    for offset, word in enumerate(store.items(example)[1]):
        tags[int(word)] = labels[int(predicted[start + offset])]
    return tags
