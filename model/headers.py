"""What a model folder holds, from the headers of its files alone: no weights are read, and torch is not loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .. import ModelError
from ..untrusted import clip, inside, listed, read_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
"""What a stage did not train, and what it did."""
AGAIN = "copy or download the file again"
_MOST_TENSORS, _MOST_AXES = 1 << 16, 8  # of a file, of a tensor
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


def read_header(file: Path) -> list[Stored]:
    """The tensors of one safetensors file; the library checks that they fill it exactly.

    Raises:
        ModelError: the file is truncated, or its header is not valid.
    """
    try:
        with safe_open(file, framework="np") as handle:
            names = list(handle.keys())
            if len(names) > _MOST_TENSORS:
                raise ModelError(f"{file}: {len(names):,} tensors, and {_MOST_TENSORS:,} are read at most; {AGAIN}")
            parts = {name: handle.get_slice(name) for name in names}
            stored = [Stored(file, n, str(part.get_dtype()), tuple(part.get_shape())) for n, part in parts.items()]
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: cannot be read ({clip(str(error))}); {AGAIN}") from error
    if deep := [tensor.name for tensor in stored if len(tensor.shape) > _MOST_AXES]:
        raise ModelError(f"{file}: {clip(deep[0])} has more than {_MOST_AXES} axes; {AGAIN}")
    return stored


def _scan_shards(folder: Path) -> list[Stored]:
    index, mapping = folder / INDEX, read_object(folder, INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
        raise ModelError(f"{index}: 'weight_map' is not a table of names and files; {AGAIN}")
    tensors = [stored for shard in sorted(set(mapping.values())) for stored in read_header(inside(folder, shard))]
    stored = {(t.name, t.file.name) for t in tensors}
    named = {(name, Path(shard).name) for name, shard in mapping.items()}
    problems = [f"{clip(name)} is not in {shard}" for name, shard in sorted(named - stored)]
    problems += [f"{clip(name)} of {shard} is not in the index" for name, shard in sorted(stored - named)]
    if problems:
        raise ModelError(f"{index}: does not fit its files: {listed(problems, sign='; ')}; {AGAIN}")
    return tensors
