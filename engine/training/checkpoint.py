"""Checkpoints: a folder `step-00001234` that is complete and verified, or not there.

`manifest.json` is written last and sealed, as what a stage leaves is: it has the step, the fingerprint of what the run
depends on, and the hashes of the other files. A changed byte in any file makes the checkpoint invalid, and the newest
valid one is used. There is no link to "the latest", no file time and no pickle in this.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
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
    new_folder,
    plain,
    read_json,
    require_free_space,
    sha256_file,
    storage_errors,
    write_file,
    write_sealed_json,
)
from ..storage.stage_files import sealed_damage

TENSORS, META, MANIFEST = "tensors.safetensors", "meta.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What `load_latest` found.

    Attributes:
        notes: what the caller should tell the user: extra files, other versions or threads than now.
    """

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path
    notes: tuple[str, ...] = ()


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    fingerprint: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Publish a checkpoint and prune all but the `keep` newest steps up to this one.

    Steps above this one belong to a course that was abandoned and are pruned too. `meta` must be a JSON value with
    string keys and finite numbers; tuples come back as lists.

    Returns: the new folder.

    Raises:
        StorageError: nothing was pruned, and older checkpoints are as they were.
    """
    assert step >= 0, "steps count from 0"
    assert keep >= 1, "the new checkpoint stays"
    with storage_errors(folder, "create"):
        fault("checkpoint.begin")
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    require_free_space(folder, needed + 1_000_000, "a checkpoint")
    final = folder / _name(step)
    with new_folder(final, replace=True) as temporary, storage_errors(final, needed=needed):
        _write(temporary, {"step": step, "fingerprint": fingerprint or {}}, tensors, meta)
    _prune(folder, step, keep)
    return final


def load_latest(
    folder: Path,
    *,
    fingerprint: Mapping[str, Any] | None = None,
    on_skip: Callable[[Path, str], None] = lambda path, problem: None,
) -> Checkpoint | None:
    """The newest valid checkpoint, None if there is none; `on_skip` hears of each invalid one, also then.

    Raises:
        ModelError: the newest valid checkpoint was made under another fingerprint (not compared when None).
        StorageError: the disk fails on reading.
    """
    for _, path in sorted(_steps(folder), reverse=True):
        if (problem := checkpoint_problem(path)) is not None:
            on_skip(path, problem)
            continue
        manifest = read_json(path / MANIFEST)
        if fingerprint is not None and (changes := _differences(manifest["fingerprint"], plain(fingerprint))):
            raise ModelError(
                f"{path} was saved under other settings: {changes}; set them back, or start this stage afresh "
                "with `--resume never`"
            )
        return Checkpoint(
            step=manifest["step"],
            tensors=safetensors.torch.load_file(path / TENSORS),
            meta=json.loads((path / META).read_bytes()),
            path=path,
            notes=tuple(_notes(path, manifest)),
        )
    return None


def checkpoint_problem(path: Path) -> str | None:
    """Why the checkpoint at `path` is not valid; None if every byte of it is as it was saved.

    Raises:
        StorageError: the disk fails on reading.
    """
    if path.is_symlink() or not path.is_dir():
        return "not a folder of its own"
    for name in (MANIFEST, META, TENSORS):
        if (path / name).is_symlink():
            return f"{name} is a symbolic link"
    with storage_errors(path / TENSORS, "read"):
        fault("checkpoint.read")
    for name, problem in sealed_damage(path, MANIFEST).items():
        return f"{name} {problem}"
    step = read_json(path / MANIFEST)["step"]
    return None if _name(step) == path.name else f"{MANIFEST} is that of step {step}"


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _steps(folder: Path) -> list[tuple[int, Path]]:
    with storage_errors(folder, "read"):
        names = os.listdir(folder) if folder.is_dir() else []
    return [(int(name[5:]), folder / name) for name in names if re.fullmatch(r"step-\d{8,}", name)]


def _write(folder: Path, head: dict[str, Any], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """The files; what puts them in their place synchronises them."""
    safetensors.torch.save_file(_own_memory(tensors), folder / TENSORS)
    fault("checkpoint.tensors")
    write_file(folder / META, [json.dumps(meta, ensure_ascii=False, allow_nan=False).encode()])
    fault("checkpoint.meta")
    hashes = {name: sha256_file(folder / name) for name in (TENSORS, META)}
    fault("checkpoint.hashed")
    write_sealed_json(folder / MANIFEST, {**head, "hashes": hashes, "versions": _versions()})
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


def _notes(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    extra = sorted(set(os.listdir(path)) - {TENSORS, META, MANIFEST})
    notes = [f"{path / name} does not belong to the checkpoint and is ignored" for name in extra]
    changes = _differences(manifest["versions"], _versions())
    if changes:
        notes.append(f"{path.name} was saved under other conditions ({changes}): results may differ in the last bits")
    return notes


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two records, in words."""
    known = [{key: json.dumps(value, ensure_ascii=False) for key, value in values.items()} for values in (old, new)]
    shown = {key: [values.get(key, "absent") for values in known] for key in sorted(old.keys() | new.keys())}
    return ", ".join(f"{key} {before} -> {after}" for key, (before, after) in shown.items() if before != after)


def _prune(folder: Path, step: int, keep: int) -> None:
    """Only after the new checkpoint reads back: its hashes were taken from the file after it was on the disk."""
    read_json(folder / _name(step) / MANIFEST, ModelError, "nothing was pruned", needed=True)
    older = sorted((number for number, _ in _steps(folder) if number < step), reverse=True)
    kept = {step, *older[: keep - 1]}
    with storage_errors(folder, "clean"):
        fault("checkpoint.prune")
        for number, path in sorted(_steps(folder)):
            if number not in kept:
                delete(path)
        fault("checkpoint.pruned")
