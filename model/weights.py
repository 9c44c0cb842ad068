"""The tensors of a model folder, read and written as safetensors; never a pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .. import ModelError
from ..engine.storage import files as storage
from ..untrusted import clip
from .headers import AGAIN, INDEX, SINGLE, Stored

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Link = Callable[[Path, str], bool]
"""Puts a file with this SHA-256 at a path, if there is one; says whether it did."""

_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def read(tensors: Iterable[Stored]) -> Iterator[tuple[Stored, Tensor]]:
    """The values of scanned tensors, file by file and one at a time."""
    by_file: dict[Path, list[Stored]] = {}
    for stored in tensors:
        by_file.setdefault(stored.file, []).append(stored)
    for file, members in by_file.items():
        try:
            with safe_open(file, framework="pt") as handle:
                for stored in members:
                    yield stored, handle.get_tensor(stored.name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: cannot be read ({clip(str(error))}); {AGAIN}") from error


def write(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Writes one safetensors file, flushed to disk; the bytes are a function of the values and the dtype.

    Raises:
        ModelError: a finite weight does not fit `dtype`.
        StorageError: the disk is full, read-only or failing.
    """
    write_file(path, _chunks(tensors, dtype))


def write_shards(shards: Mapping[str, Mapping[str, Tensor]], folder: Path, dtype: torch.dtype, link: Link) -> None:
    """As `write`, several files and then their index, which has their hashes, too; none that `link` has already."""
    hashes = dict[str, str]()
    (folder / SINGLE).unlink(missing_ok=True)  # it would be read instead
    for name, tensors in shards.items():
        digest = hashlib.sha256()
        for chunk in _chunks(tensors, dtype):
            digest.update(chunk)
        hashes[name] = digest.hexdigest()
        if not link(folder / name, hashes[name]):
            write(tensors, folder / name, dtype)
    size = sum(value.numel() for tensors in shards.values() for value in tensors.values()) * dtype.itemsize
    names = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    write_json(folder / INDEX, {"metadata": {"total_size": size, "sha256": hashes}, "weight_map": names})


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes an object, keys sorted, as `write_file`."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_file(path, [(text + "\n").encode("utf-8")])


def _header(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in tensors.items():
        stop = offset + value.numel() * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(value.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_file(path: Path, chunks: Iterable[Any]) -> None:
    """Writes a new file in place of `path`, never through a link to another checkpoint.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    with storage.storage_errors(path):
        path.unlink(missing_ok=True)
        storage.write_file(path, chunks)


def _chunks(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[Any]:
    yield _header(tensors, dtype)
    for name, value in tensors.items():
        cast = value.detach().to("cpu", dtype).contiguous()
        if dtype != value.dtype and not bool(cast.isfinite().all()) and bool(value.isfinite().all()):
            raise ModelError(f"{name} does not fit {_CODES[dtype]}; save the model as bfloat16 or float32")
        yield cast.view(torch.uint8).numpy()


def frozen_hash(model: nn.Module) -> str:
    """Hash over the weights that do not train."""
    return tensors_hash({n: p for n, p in model.named_parameters() if not p.requires_grad})


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash over names and bytes of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
