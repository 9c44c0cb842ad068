"""Checkpoints: a folder `step-00001234` that is complete and verified, or not there.

`manifest.json` is written last and holds the size and SHA-256 of the other files, the step, the fingerprint of what
the run depends on, and its own hash: a changed byte in any file makes the checkpoint invalid, and the newest valid
one is used. There is no link to "the latest", no file time and no pickle in this.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ... import ModelError
from ..storage.faults import fault
from ..storage.files import (
    delete,
    file_mode,
    publish_folder,
    require_free_space,
    sha256_file,
    storage_errors,
    sync_file,
    temporary_folder,
    write_file,
)

FORMAT = 1
TENSORS, META, MANIFEST = "tensors.safetensors", "meta.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What `load_latest` found.

    Attributes:
        skipped: newer checkpoints that are not valid, with the reason.
        notes: what the caller should tell the user: extra files, other versions or threads than now.
    """

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path
    skipped: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()


class _Invalid(Exception):
    """Why a checkpoint cannot be used."""


def save_checkpoint(
    folder: str | os.PathLike[str],
    *,
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    fingerprint: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Publish a checkpoint and prune all but the `keep` newest steps up to this one.

    Steps above this one belong to a course that was abandoned and are pruned too. `meta` and `fingerprint` must be
    JSON values with string keys and finite numbers; tuples come back as lists.

    Returns: the new folder.

    Raises:
        StorageError: nothing was pruned, and older checkpoints are as they were.
    """
    assert step >= 0, "steps count from 0"
    assert keep >= 1, "the new checkpoint stays"
    folder = Path(folder)
    with storage_errors(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
        fault("checkpoint.begin")
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    require_free_space(folder, needed + 1_000_000, "a checkpoint")
    final = folder / _name(step)
    temporary = temporary_folder(folder, str(step))
    try:
        with storage_errors(final, needed=needed):
            _write(temporary, step=step, tensors=tensors, meta=meta, fingerprint=fingerprint or {})
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    publish_folder(temporary, final, replace=True)
    _prune(folder, step, keep)
    return final


def load_latest(
    folder: str | os.PathLike[str],
    *,
    fingerprint: Mapping[str, Any] | None = None,
    on_skip: Callable[[Path, str], None] | None = None,
) -> Checkpoint | None:
    """The newest valid checkpoint, None if there is none; `on_skip` hears of each invalid one, also then.

    Raises:
        ModelError: the newest valid checkpoint was made under another fingerprint (not compared when None).
        StorageError: the disk fails on reading.
    """
    folder = Path(folder)
    skipped: list[tuple[Path, str]] = []
    for _, path in sorted(_steps(folder), reverse=True):
        try:
            manifest = _verify_manifest(path)
            _verify_files(path, manifest)
            if fingerprint is not None:
                _compare_fingerprint(path, manifest["fingerprint"], fingerprint)
            return Checkpoint(
                step=manifest["step"],
                tensors=safetensors.torch.load_file(path / TENSORS),
                meta=json.loads((path / META).read_bytes()),
                path=path,
                skipped=tuple(skipped),
                notes=tuple(_notes(path, manifest)),
            )
        except _Invalid as reason:
            skipped.append((path, str(reason)))
            if on_skip is not None:
                on_skip(path, str(reason))
    return None


def checkpoint_problem(path: str | os.PathLike[str]) -> str | None:
    """Why the checkpoint at `path` is not valid; None if every byte of it is as it was saved."""
    try:
        _verify_files(Path(path), _verify_manifest(Path(path)))
    except _Invalid as reason:
        return str(reason)
    return None


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _steps(folder: Path) -> list[tuple[int, Path]]:
    with storage_errors(folder, "read"):
        names = os.listdir(folder) if folder.is_dir() else []
    return [(int(name[5:]), folder / name) for name in names if re.fullmatch(r"step-\d{8,}", name)]


def _write(
    folder: Path, *, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> None:
    mode = file_mode(folder)
    separate = _own_memory(tensors)
    safetensors.torch.save_file(separate, folder / TENSORS)
    fault("checkpoint.tensors")
    sync_file(folder / TENSORS, mode)
    fault("checkpoint.tensors-synced")
    write_file(folder / META, [_dump(meta)])
    fault("checkpoint.meta")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "step": step,
        "files": {
            name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
            for name in (TENSORS, META)
        },
        "tensors": {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(separate.items())},
        "fingerprint": dict(fingerprint),
        "versions": _versions(),
    }
    manifest["sha256"] = hashlib.sha256(_dump(manifest)).hexdigest()
    fault("checkpoint.hashed")
    write_file(folder / MANIFEST, [_dump(manifest)])
    fault("checkpoint.manifest")


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors in main memory, none sharing its storage with another, as safetensors wants them."""
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        address = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if address in seen else value
        seen.add(address)
    return separate


def _versions() -> dict[str, Any]:
    threads = torch.get_num_threads()
    return {"torch": torch.__version__, "safetensors": safetensors.__version__, "threads": threads}


def _dump(value: Mapping[str, Any]) -> bytes:
    """The one spelling of a JSON value; reading compares with it, so that no changed byte goes unseen."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _verify_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all there with their sizes; contents are not read."""
    if path.is_symlink() or not path.is_dir():
        raise _Invalid("not a folder of its own")
    data = _read(path / MANIFEST)
    try:
        manifest: dict[str, Any] = json.loads(data)
        body = {key: value for key, value in manifest.items() if key != "sha256"}
        intact = _dump(manifest) == data and hashlib.sha256(_dump(body)).hexdigest() == manifest["sha256"]
    except (ValueError, RecursionError, AttributeError, KeyError):
        intact = False
    if not intact:
        raise _Invalid(f"{MANIFEST} has changed since it was written")
    if manifest["format"] != FORMAT:
        raise _Invalid(f"format {manifest['format']}, this version reads {FORMAT}")
    if _name(manifest["step"]) != path.name:
        raise _Invalid(f"{MANIFEST} is that of step {manifest['step']}")
    return manifest


def _verify_files(path: Path, manifest: Mapping[str, Any]) -> None:
    for name, expected in manifest["files"].items():
        file = path / name
        if file.is_symlink():
            raise _Invalid(f"{name} is a symbolic link")
        with storage_errors(file, "read"):
            fault("checkpoint.read")
            try:
                size, digest = file.stat().st_size, sha256_file(file)
            except FileNotFoundError:
                raise _Invalid(f"{name} is missing") from None
        if size != expected["size"]:
            raise _Invalid(f"{name} has {size} bytes instead of {expected['size']}")
        if digest != expected["sha256"]:
            raise _Invalid(f"{name} has changed since it was written (SHA-256)")


def _read(path: Path) -> bytes:
    if path.is_symlink():
        raise _Invalid(f"{path.name} is a symbolic link")
    with storage_errors(path, "read"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise _Invalid(f"{path.name} is missing") from None


def _notes(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    extra = sorted(set(os.listdir(path)) - {TENSORS, META, MANIFEST})
    notes = [f"{path / name} does not belong to the checkpoint and is ignored" for name in extra]
    changes = _differences(manifest["versions"], _versions())
    if changes:
        notes.append(f"{path.name} was saved under other conditions ({changes}): results may differ in the last bits")
    return notes


def _compare_fingerprint(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    changes = _differences(old, json.loads(_dump(new)))
    if changes:
        raise ModelError(
            f"{path} was saved under other settings: {changes}; set them back, or start this stage afresh "
            "with `--resume never`"
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = sorted(before.keys() | after.keys())
    show = {key: (before.get(key, "absent"), after.get(key, "absent")) for key in keys}
    return ", ".join(f"{key} {a} -> {b}" for key, (a, b) in show.items() if a != b)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Only after the new checkpoint reads back: its hashes were taken from the file after it was on the disk."""
    try:
        _verify_manifest(folder / _name(step))
    except _Invalid as reason:
        raise ModelError(f"{folder / _name(step)} does not read back: {reason}; nothing was pruned") from None
    older = sorted((number for number, _ in _steps(folder) if number < step), reverse=True)
    kept = {step, *older[: keep - 1]}
    with storage_errors(folder, "clean"):
        fault("checkpoint.prune")
        for number, path in sorted(_steps(folder)):
            if number not in kept:
                delete(path)
        fault("checkpoint.pruned")
