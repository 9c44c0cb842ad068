"""Soft labels on disk: what a teacher says of every item of a pool, once per round, with a checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .files import storage_errors

MISSING = "it is not there"


def packed_soft_labels(targets: np.ndarray, teacher: str) -> bytes:
    """The content of the file.

    Args:
        targets: float32 [items, C].
        teacher: id of the stage whose model it was.
    """
    # One entry alone: the library writes several in an order of its own.
    return save({"targets": targets}, {"sha256": _checksum(targets, teacher)})


def soft_label_problem(path: Path, items: int, teacher: str) -> str | None:
    """Why the file cannot be used: `MISSING`, or how it is damaged; None where it is as it was written.

    Raises:
        StorageError: the disk fails on reading.
    """
    if not path.exists():
        return MISSING
    try:
        targets, checksum = _read(path)
    except SafetensorError as error:
        return f"it cannot be read ({error})"
    if targets is None or checksum != _checksum(targets, teacher):
        return "it has changed since it was written, or has no checksum"
    return None if len(targets) == items else f"it has {len(targets)} items instead of {items}"


def read_soft_labels(path: Path) -> np.ndarray:
    """float32 [items, C] of a file in which `soft_label_problem` found nothing."""
    targets, _ = _read(path)
    assert targets is not None
    return targets


def _read(path: Path) -> tuple[np.ndarray | None, str]:
    with storage_errors(path, "read"), safe_open(path, framework="numpy") as file:
        if "targets" not in file.keys():  # noqa: SIM118
            return None, ""
        targets: np.ndarray = file.get_tensor("targets")
        return targets, (file.metadata() or {}).get("sha256", "")


def _checksum(targets: np.ndarray, teacher: str) -> str:
    digest = hashlib.sha256(f"{teacher} {targets.dtype} {targets.shape} ".encode())
    digest.update(np.ascontiguousarray(targets).tobytes())
    return digest.hexdigest()
