"""Safetensors files of a model folder: headers first, then the tensors that are wanted; never a pickle."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import ModelError, StorageError
from ..untrusted import clip, inside, listed, read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_MOST_TENSORS, _MOST_AXES = 1 << 16, 8  # of a file, of a tensor
_AGAIN = "copy or download the file again"
_TO_SAFETENSORS = (
    "pickle files are not opened because they can run code; convert it to safetensors where you trust it "
    "(transformers: model.save_pretrained(folder))"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file, as its header describes it."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether the tensor can be a weight."""
        return self.dtype in ("F64", "F32", "F16", "BF16")

    def __str__(self) -> str:
        return f"{clip(self.name)} {list(self.shape)} in {self.file}"


def scan(folder: Path) -> list[Stored]:
    """The tensors of a model folder, from the headers only.

    Raises:
        ModelError: no safetensors file, a broken header or index, or a file outside the folder.
    """
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return read_header(inside(folder, SINGLE))
    if (folder / INDEX).exists():
        return _scan_shards(folder)
    pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for p in folder.glob(pattern)]
    if pickles:
        raise ModelError(f"{folder}: holds {min(pickles)} but no {SINGLE}; {_TO_SAFETENSORS}")
    raise ModelError(f"{folder}: no {SINGLE} and no {INDEX}; is this a model folder?")


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
            raise ModelError(f"{file}: cannot be read ({clip(str(error))}); {_AGAIN}") from error


def read_header(file: Path) -> list[Stored]:
    """The tensors of one safetensors file; the library checks that they fill it exactly.

    Raises:
        ModelError: the file is truncated, or its header is not valid.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            names = list(handle.keys())
            if len(names) > _MOST_TENSORS:
                raise ModelError(f"{file}: {len(names):,} tensors, and {_MOST_TENSORS:,} are read at most; {_AGAIN}")
            parts = {name: handle.get_slice(name) for name in names}
            stored = [Stored(file, n, str(part.get_dtype()), tuple(part.get_shape())) for n, part in parts.items()]
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: cannot be read ({clip(str(error))}); {_AGAIN}") from error
    if deep := [tensor.name for tensor in stored if len(tensor.shape) > _MOST_AXES]:
        raise ModelError(f"{file}: {clip(deep[0])} has more than {_MOST_AXES} axes; {_AGAIN}")
    return stored


def write(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Writes one safetensors file, flushed to disk; the bytes are a function of the values and the dtype.

    Raises:
        ModelError: a finite weight does not fit `dtype`.
        StorageError: the disk is full, read-only or failing.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, value in tensors.items():
        stop = offset + value.numel() * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(value.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    write_file(path, _chunks(tensors, text, dtype))


def write_file(path: Path, chunks: Iterable[Any]) -> None:
    """Writes a new file in place of `path` and flushes it to disk; the mode follows the umask.

    Raises:
        StorageError: the disk is full, read-only or failing.
    """
    try:
        path.unlink(missing_ok=True)  # never write through a link to another checkpoint
        with open(path, "xb") as handle:
            for chunk in chunks:
                handle.write(chunk)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        advice = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the disk and its rights"
        raise StorageError(f"{path}: cannot be written ({error.strerror}); {advice}") from error


def _chunks(tensors: Mapping[str, Tensor], header: bytes, dtype: torch.dtype) -> Iterator[Any]:
    yield len(header).to_bytes(8, "little") + header
    for name, value in tensors.items():
        cast = value.detach().to("cpu", dtype).contiguous()
        if dtype != value.dtype and not bool(cast.isfinite().all()) and bool(value.isfinite().all()):
            raise ModelError(f"{name} does not fit {_CODES[dtype]}; save the model as bfloat16 or float32")
        yield cast.view(torch.uint8).numpy()


def _scan_shards(folder: Path) -> list[Stored]:
    index, mapping = folder / INDEX, read_object(folder, INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
        raise ModelError(f"{index}: 'weight_map' is not a table of names and files; {_AGAIN}")
    tensors = [stored for shard in sorted(set(mapping.values())) for stored in read_header(inside(folder, shard))]
    stored = {(t.name, t.file.name) for t in tensors}
    named = {(name, Path(shard).name) for name, shard in mapping.items()}
    problems = [f"{clip(name)} is not in {shard}" for name, shard in sorted(named - stored)]
    problems += [f"{clip(name)} of {shard} is not in the index" for name, shard in sorted(stored - named)]
    if problems:
        raise ModelError(f"{index}: does not fit its files: {listed(problems, sign='; ')}; {_AGAIN}")
    return tensors
