"""What a stage left beside its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ... import ModelError
from ..storage.files import atomic_write_bytes, read_json, sha256_file, write_sealed_json

DEFAULT_ALPHA = 0.9


def stored_alpha(folder: Path | None) -> tuple[float, str]:
    """The alpha that the stage in `folder` decided with, and the file that says so; 0.9 and "default" otherwise."""
    for name in () if folder is None else ("stage.json", "decision.json"):
        value = read_record(Path(folder or "") / name).get("alpha")
        if isinstance(value, int | float):
            return float(value), name
    return DEFAULT_ALPHA, "default"


def read_record(path: Path) -> dict[str, Any]:
    """What a stage left in a JSON file beside its model, empty where there is none; a damaged one is a ModelError."""
    return read_json(path, ModelError, "copy the model folder again")


def keep_record(source: Path, folder: Path) -> None:
    """Copies what `predict` and `evaluate` read of a stage, with hashes of the files of `folder`."""
    for name in ("fingerprint.json", "decision.json"):
        if (source / name).exists():
            atomic_write_bytes(folder / name, (source / name).read_bytes())
    if record := read_record(source / "stage.json"):
        record["hashes"] = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        write_sealed_json(folder / "stage.json", record)
