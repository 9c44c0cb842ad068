"""The files of a stage against the hashes that its `stage.json` has of them."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ... import ModelError, XltError
from .faults import fault
from .files import atomic_write_bytes, delete, link_files, read_json, sha256_file, storage_errors, write_sealed_json
from .names import FINISHED, INDEX, MODEL, WEIGHTS
from .run_warning import RunWarning

DECIDED = {
    "decision.json": "decision.safetensors",
    "dictionary.json": "dictionary.tsv",
    "picks.json": "picks.safetensors",
    "soft_labels.json": "soft_labels.safetensors",
}
"""What stages decide before they train: a record, and the file that it has the hash of."""


def changed_files(folder: Path, record: Mapping[str, Any], names: Iterable[str] | None = None) -> dict[str, str]:
    """File name -> what has become of it; empty where every byte is as it was written.

    Args:
        record: of the folder, with the hashes of files.
        names: the files to look at, of those that the record has a hash of; all when absent.

    Raises:
        StorageError: the disk fails on reading.
    """
    hashes = record.get("hashes")
    hashes = hashes if isinstance(hashes, dict) else {}
    chosen = list(hashes) if names is None else [name for name in names if name in hashes]
    problems = {name: _problem(folder / name, hashes[name]) for name in chosen if Path(name).name == name}
    return {name: problem for name, problem in problems.items() if problem}


def _problem(path: Path, expected: object) -> str:
    if not path.is_file():
        return "is missing"
    with storage_errors(path, "read"):
        if sha256_file(path) == expected:
            return ""
        return "has changed since it was written" if path.stat().st_size else "is empty"


def paths_below(folder: Path, pattern: str = "*") -> list[Path]:
    """Files and folders below one whose names match, sorted; no link is followed.

    What begins with a dot (being written or deleted) is left out, and what vanishes meanwhile, which a walk of
    `pathlib` fails on before Python 3.13: another process may be at work there.
    """
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [*folders, *(name for name in files if not name.startswith("."))]
        found += [Path(parent, name) for name in fnmatch.filter(names, pattern)]
    return sorted(found)


def weights_hash(record: Mapping[str, Any]) -> str | None:
    """The hash of a stage's weights, of its `stage.json`: of their file, or of the index with the hashes of several."""
    hashes = record.get("hashes") or {}
    return hashes.get(WEIGHTS) or hashes.get(INDEX)


def link_equal(path: Path, sha256: str, runs: Iterable[Path]) -> bool:
    """Makes `path` the file of that name and hash of a stage of these runs; False where none has it undamaged."""
    for sealed in (path for run in runs for path in paths_below(run, FINISHED)):
        equal = sealed.with_name(path.name)
        if (read_json(sealed, None).get("hashes") or {}).get(path.name) != sha256 or _problem(equal, sha256):
            continue
        delete(path)
        link_files([equal], path.parent)
        fault("model.linked")
        return True
    return False


def sealed_damage(folder: Path, name: str = FINISHED) -> dict[str, str]:
    """The same of a record and all files that it has hashes of; the record alone where that is damaged."""
    record = read_json(folder / name, None)
    if isinstance(record.get("hashes"), dict):
        return changed_files(folder, record)
    return {name: "has no hashes" if record else "is damaged" if (folder / name).exists() else "is missing"}


def write_decided(folder: Path, name: str, record: Mapping[str, Any], data: bytes) -> None:
    """Writes what an unfinished stage has decided: the data, then the record of that name, a key of `DECIDED`."""
    atomic_write_bytes(folder / DECIDED[name], data)
    write_sealed_json(folder / name, {**record, "hashes": {DECIDED[name]: sha256(data).hexdigest()}})


def decided_damage(folder: Path) -> dict[str, str]:
    """File name -> what has become of it, of what an unfinished stage has decided."""
    there = (name for name in DECIDED if (folder / name).exists())
    return {file: problem for name in there for file, problem in sealed_damage(folder, name).items()}


def listed(folder: Path, problems: Mapping[str, str]) -> str:
    """The problems in words."""
    return "; ".join(f"{folder / name} {problem}" for name, problem in sorted(problems.items()))


def refuse_changed(
    folder: Path,
    names: Iterable[str] = MODEL,
    refusal: type[XltError] = ModelError,
    remedy: str = "copy the folder again, run its recipe again, or delete its stage.json to take the files as they are",
) -> dict[str, Any]:
    """The `stage.json` of a folder, empty without one, whose files are then what the stage wrote.

    Raises:
        XltError: `refusal`; one of the files has changed or is missing, or `stage.json` has.
        StorageError: the disk fails on reading.
    """
    record = read_json(folder / FINISHED, refusal, remedy)
    if problems := changed_files(folder, record, names):
        raise refusal(f"{listed(folder, problems)}; {remedy}")
    return record


def damage(text: str, problems: Mapping[str, str]) -> RunWarning:
    """The warning `damaged`: something on the disk is not as it was written, and is made again."""
    return RunWarning("damaged", f"{text}. Look at the disk", {"files": dict(problems)})
