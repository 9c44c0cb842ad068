"""The files of a token store: their names, the version of their format, and the hashes that identify content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import DataError
from ...tasks import TASKS as _LABELLED
from ..tokenizer.wrapper import Tokenizer

FORMAT_VERSION = 1
TASKS = (*_LABELLED, "text")
MANIFEST = "store.json"
IDS = "ids.jsonl"
IGNORE = -100
"""The label of an item that has no target, of an unlabelled example, and of what is not accepted or picked."""


def file_hash(path: str | Path) -> str:
    """sha256 of a file's bytes, in hexadecimal; of a folder (`save_to_disk`), of those of its files in order."""
    if Path(path).is_dir():
        inside = [file_hash(file) for file in sorted(Path(path).iterdir()) if file.is_file()]
        return hashlib.sha256("".join(inside).encode()).hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error


def store_key(files: Sequence[str | Path], tokenizer: Tokenizer, settings: Mapping[str, Any]) -> str:
    """The name of the folder for a store: a hash of everything that decides its content.

    Args:
        files: the input files; their bytes count, their names and times do not.
        tokenizer: counts by its fingerprint.
        settings: whatever else decides the content (task, labels, maximum length, reader options, a cap and its seed);
            JSON values.

    Returns:
        32 hexadecimal digits.

    Raises:
        DataError: a file cannot be read.
    """
    parts = [FORMAT_VERSION, [file_hash(path) for path in files], tokenizer.fingerprint, dict(settings)]
    encoded = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(encoded.encode()).hexdigest()[:32]


def content_hash(manifest: Mapping[str, Any]) -> str:
    """sha256 over a manifest without its own hash: the settings, and the names, sizes and hashes of the files."""
    parts = {name: value for name, value in manifest.items() if name != "sha256"}
    encoded = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(encoded.encode()).hexdigest()
