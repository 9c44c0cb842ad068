"""The folder of a made world: it appears at once, with a record of its configuration and of every file's hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import DataError, StorageError
from ..store.store import content_hash

RECORD = "world.json"


def lines_of(sentences: Iterable[Sequence[str]]) -> str:
    """Sentences, each its words, as a text file: one a line, spaces between the words."""
    return "".join(f"{' '.join(words)}\n" for words in sentences)


def conll_of(sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> str:
    """Words with their tags as a column file."""
    return "".join("".join(f"{w}\t{t}\n" for w, t in zip(*one, strict=True)) + "\n" for one in sentences)


def write_world(folder: Path, contents: Mapping[str, str], record: Mapping[str, object]) -> None:
    """Files by name, then the record with their SHA-256 and its own."""
    hashes = {}
    for name, text in contents.items():
        data = text.encode("utf-8")
        hashes[name] = hashlib.sha256(data).hexdigest()
        (folder / name).write_bytes(data)
    whole = json.loads(json.dumps({**record, "files": hashes}))
    (folder / RECORD).write_text(json.dumps(whole | {"sha256": content_hash(whole)}, indent=1) + "\n", encoding="utf-8")


def create_world(folder: Path, contents: Mapping[str, str], record: Mapping[str, object], what: str) -> None:
    """Writes a folder beside `folder`, and renames it; all or nothing.

    Raises:
        DataError: the folder holds files that are no world.
        StorageError: writing failed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: holds files but no {RECORD}; give the {what} an empty or a new folder")
    part = folder.with_name(f".{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        try:
            write_world(part, contents, record)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if not (folder / RECORD).exists():
            raise StorageError(f"{folder}: the {what} could not be written: {error}") from error


def read_world(folder: Path, version: int, config: Mapping[str, Any] | None, what: str) -> dict[str, Any]:
    """The record of a world that lies in `folder`, its files compared with their hashes; any configuration with None.

    Raises:
        DataError: no such record, another version or configuration, or a file that was changed.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found, made_with, hashes = record["version"], record["config"], dict(record["files"])
        same = found == version and (config is None or made_with == dict(config))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}:1: not the record of a {what} ({error}); delete the folder to make it again"
        ) from error
    if record.get("sha256") not in (None, content_hash(record)):
        raise DataError(f"{path}:1: changed since it was written; delete {folder} to make it again")
    if not same:
        raise DataError(f"{path}:1: the folder holds the {what} of another configuration; give this one its own folder")
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise DataError(f"{file}:1: missing, or changed since it was made; delete {folder} to make it again")
    return dict(record)
