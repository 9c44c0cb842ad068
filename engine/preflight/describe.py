"""What a model folder is, and what a bug report needs to say about the machine."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ...model import FolderInfo, read_info
from ..prediction.model_folder import read_record, stored_alpha
from ..storage.run_folder import environment
from ..training.device import choose_device, describe_kernels
from .describe_folder import describe_contents, describe_shape

MARKS = {"T": "target_labels", "P": "parallel_data", "D": "dictionary"}


def describe_model(folder: str | Path) -> dict[str, Any]:
    """Facts about a model folder as JSON values, from its headers and records.

    Layout, sizes, parameters, heads, voters, labels, tokenizer, files with their hashes, what the engine can do with it
    and the problems found (docs/encoders.md); for a stage of a run also its provenance: language pair, seed, alpha,
    inputs, and `marks`: "T" where target labels were used, "P" where parallel data was, "D" where a dictionary was,
    "" where none of them, null where nothing says so.

    Raises:
        ModelError: no folder, or its config.json or a record of it is damaged; what else is wrong is in `problems`.
    """
    root = Path(folder)
    info = read_info(root)
    contents = describe_contents(root, info)
    return {"folder": str(root)} | describe_shape(info) | contents | _task(info) | _origin(root, info)


def _task(info: FolderInfo) -> dict[str, Any]:
    if info.task is None:
        return {"task": None}
    return {
        "task": info.task,
        "labels": None if info.labels is None else list(info.labels),
        "head": info.head,
        "voters": len(info.widths) if info.widths else 1,
        "voter_widths": None if info.widths is None else list(info.widths),
        "pooling": info.pooling if info.task == "classification" else None,
        **({"prompt": info.prompt} if info.prompt else {}),
    }


def _origin(root: Path, info: FolderInfo) -> dict[str, Any]:
    record = read_record(root / "stage.json")
    if not record:
        return {"stage": (info.extra or {}).get("stage"), "marks": None}
    used = {mark: record.get(f"uses_{name}") for mark, name in MARKS.items()}
    alpha, origin = stored_alpha(root)
    keys = (
        "arm",
        "pair",
        "seed",
        "inputs",
        "accepted",
        "removed",
        "steps",
        "tokens",
        "seconds",
        "cpu_seconds",
        "fingerprint",
    )
    return {
        "stage": (info.extra or {}).get("stage") or record.get("stage"),
        "marks": "".join(mark for mark, flag in used.items() if flag),
        "alpha": None if origin == "default" else alpha,
        "max_length": read_record(root / "fingerprint.json").get("max_length"),
        **{key: record[key] for key in keys if record.get(key) is not None},
        "warnings": [w.get("name") for w in record.get("warnings") or ()],
    }


def describe_environment() -> dict[str, Any]:
    """Versions, machine, device and the kernels' path, as JSON values; null where something is not there.

    Raises:
        ConfigError: `XLT_KERNELS` is unknown, or asks for what the default device cannot run.
    """
    device = choose_device("auto")
    found = environment()
    cuda = torch.cuda.is_available()
    return {
        **found["versions"],
        "triton": _version("triton"),
        "platform": found["platform"],
        "machine": found["machine"],
        "device": device.type,
        "cuda_device": found["cuda"],
        "cuda_version": torch.version.cuda,
        "cuda_capability": ".".join(map(str, torch.cuda.get_device_capability())) if cuda else None,
        "cpu_capability": found["cpu_capability"],
        "cpu_count": os.cpu_count(),
        "threads": found["threads"],
        "kernels": {name: describe_kernels(torch.device(name)) for name in dict.fromkeys(("cpu", device.type))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
