"""Safetensors files of a model folder, distrusted: every header is checked before a tensor is read.

The library accepts duplicate names, any number of tensors and headers up to 100 MB; this parser does not. A file is
never opened as a pickle.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import ModelError, StorageError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_HEADER_BYTES, MAX_TENSORS = 16 * 1024 * 1024, 10_000
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_OTHER_BYTES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_ITEM_BYTES = _FLOAT_BYTES | _OTHER_BYTES
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
        return self.dtype in _FLOAT_BYTES

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} in {self.file}"


def scan(folder: Path) -> list[Stored]:
    """The tensors of a model folder, from the headers only.

    Raises:
        ModelError: no safetensors file, a broken header or index, or a file outside the folder.
    """
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return list(read_header(inside(folder, SINGLE)).values())
    if (folder / INDEX).exists():
        return _scan_shards(folder)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
    if pickles:
        raise ModelError(f"{folder}: holds {pickles[0]} but no {SINGLE}; {_TO_SAFETENSORS}")
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
            raise ModelError(f"{file}: cannot be read ({error}); {_AGAIN}") from error


def read_header(file: Path) -> dict[str, Stored]:
    """The checked header of one safetensors file.

    Raises:
        ModelError: the file is truncated or has bytes too many, its header is larger than 16 MB, not valid, names a
            tensor twice or more than 10,000 tensors, or offsets leave holes or overlap.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or (length <= MAX_HEADER_BYTES and 8 + length > size):
                raise ModelError(f"{file}: truncated, {size} bytes end inside the header; {_AGAIN}")
            if length > MAX_HEADER_BYTES:
                raise ModelError(f"{file}: header of {length} bytes, at most {MAX_HEADER_BYTES} are accepted; {_AGAIN}")
            header = parse_json(handle.read(length), file)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from error
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ModelError(f"{file}: {len(header)} tensors, at most {MAX_TENSORS} are accepted")
    found: dict[str, Stored] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        found[name], span = _entry(file, name, entry)
        spans.append(span)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise ModelError(f"{file}: tensors overlap or leave a hole at byte {min(begin, end)}; {_AGAIN}")
        end = stop
    if size != 8 + length + end:
        what = "truncated" if size < 8 + length + end else "too long"
        raise ModelError(f"{file}: {what}, {size} bytes where the header describes {8 + length + end}; {_AGAIN}")
    return found


def parse_json(text: bytes, file: Path) -> dict[str, Any]:
    """A JSON object in which no key appears twice.

    Raises:
        ModelError: anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ModelError(f"{file}: the name {twice!r} appears twice; {_AGAIN}")
        return values

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not valid JSON ({error}); {_AGAIN}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file}: not a JSON object; {_AGAIN}")
    return value


def inside(folder: Path, name: str) -> Path:
    """The path of a file of the folder.

    A link may lead to another place of the same folder, or to the `blobs` of the Hugging Face cache entry that the
    folder is a snapshot of.

    Raises:
        ModelError: the name or the link leads elsewhere, or there is no such file.
    """
    path, root = folder / name, folder.resolve()
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ModelError(f"{folder}: the file name {name!r} leads out of the folder; refused")
    if not path.exists():
        raise ModelError(f"{path}: no such file; {_AGAIN}")
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise ModelError(f"{path}: links to {path.resolve()}, outside the folder; refused, copy the file instead")
    return path


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


def _entry(file: Path, name: str, entry: Any) -> tuple[Stored, tuple[int, int]]:
    def whole(values: Any) -> bool:
        return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**48 for v in values)

    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(dtype, str) and whole(shape) and whole(span) and len(span) == 2):
        raise ModelError(f"{file}: the header entry of {name!r} is not valid; {_AGAIN}")
    if dtype not in _ITEM_BYTES:
        raise ModelError(f"{file}: {name} has dtype {dtype}, expected one of {', '.join(_FLOAT_BYTES)}")
    if span[1] - span[0] != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise ModelError(f"{file}: the offsets of {name} do not fit its shape {shape} and dtype {dtype}; {_AGAIN}")
    return Stored(file, name, dtype, tuple(shape)), (span[0], span[1])


def _scan_shards(folder: Path) -> list[Stored]:
    index = inside(folder, INDEX)
    mapping = parse_json(index.read_bytes(), index).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
        raise ModelError(f"{index}: 'weight_map' is not a table of names and files; {_AGAIN}")
    found: list[Stored] = []
    problems: list[str] = []
    for shard in sorted(set(mapping.values())):
        header = read_header(inside(folder, shard))
        listed = {name for name, file in mapping.items() if file == shard}
        problems += [f"{name} is not in {shard}" for name in sorted(listed - header.keys())]
        problems += [f"{name} of {shard} is not in the index" for name in sorted(header.keys() - listed)]
        found += header.values()
    if problems:
        raise ModelError(f"{index}: does not fit its files: " + "; ".join(problems) + f"; {_AGAIN}")
    return found
