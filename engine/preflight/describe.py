"""`info`: what a model folder holds and what does not fit in it, from headers and records, without torch; and `env`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from ... import ModelError
from ...data import Tokenizer
from ...model import EncoderConfig, FolderInfo, read_info
from ...model.headers import Stored, match, scan, shapes_of
from ...model.layout import POSITION_IDS
from ...untrusted import MOST_NAMES
from ..prediction.stage_record import read_record, stored_alpha
from ..storage.files import sha256_file
from ..storage.run_folder import environment
from ..summary.answer import refuse_run

MARKS = {"T": "target_labels", "D": "dictionary"}
_RECORDED = ("arm", "pair", "seed", "inputs", "accepted", "removed", "steps", "tokens", "seconds", "cpu_seconds")
_READ = ("config.json", "xlt.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_T = TypeVar("_T")


def describe_model(folder: str | Path) -> dict[str, Any]:
    """Facts about a model folder as JSON values, from its headers and records.

    Layout, sizes, parameters, heads, voters, labels, tokenizer, files with their hashes, what the engine can do with it
    and the problems it has (docs/encoders.md); for a stage of a run also its provenance: language pair, seed, alpha,
    inputs, and `marks`: "T" where target labels were used, "D" where a dictionary was, "" where neither, null where
    nothing says so.

    Raises:
        ConfigError: the folder is that of a run.
        ModelError: no folder, or its config.json or a record of it is damaged; what else is wrong is in `problems`.
    """
    root = Path(folder)
    refuse_run(root)
    info = read_info(root)
    problems: list[str] = []
    tensors = _attempt(lambda: scan(root), problems) or []
    tokenizer = None
    if any((root / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        tokenizer = _attempt(lambda: Tokenizer.from_folder(root), problems)
    layout = info.config.layout
    bare = {layout.bare(s.name) for s in tensors} - ({layout.decoder} if _tied(info.config) else set())
    # How the first of a head's tensors begins tells it apart: ModernBERT has the others in classifiers, too.
    heads = [kind for kind, starts in layout.heads.items() if any(name.startswith(starts[0]) for name in bare)]
    if tensors:
        problems += _tensor_problems(info, tensors, heads)
    if tokenizer is not None:
        problems += _tokenizer_problems(info, tokenizer)
    files = [root / name for name in (*_READ, *sorted({s.file.name for s in tensors}))]
    return {
        "folder": str(root),
        **_shape(info),
        **_weights(info, tensors),
        **_vocabulary(tokenizer),
        "heads_present": heads,
        "files": {p.name: {"bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in files if p.is_file()},
        "uses": _uses(info, heads, tokenizer),
        "problems": problems,
        **_task(info),
        **_origin(root, info),
    }


def _tied(config: EncoderConfig) -> bool:
    """Whether the masked-LM decoder is the word embedding."""
    return config.pre_norm is None or config.pre_norm.tied


def _attempt(call: Callable[[], _T], problems: list[str]) -> _T | None:
    try:
        return call()
    except ModelError as error:
        problems.append(str(error))
        return None


def _shape(info: FolderInfo) -> dict[str, Any]:
    """Layout and sizes; `max_tokens` is the longest sequence, special tokens included."""
    config = info.config
    return {
        "kind": info.kind,
        "architecture": config.layout.title,
        "layout": config.model_type,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "max_positions": config.max_positions,
        "max_tokens": config.max_length,
        "segments": config.num_segments,
        "windows": None if config.pre_norm is None else list(config.pre_norm.windows),
        "embedding_rows": config.vocab_size,
        "dropout": config.dropout,
    }


def _weights(info: FolderInfo, tensors: list[Stored]) -> dict[str, Any]:
    """Counts over the stored tensors; a second copy of the word embedding does not count."""
    layout = info.config.layout
    sizes = {layout.bare(s.name): math.prod(s.shape) for s in tensors}
    sizes = {name: n for name, n in sizes.items() if name != POSITION_IDS}
    if _tied(info.config):
        sizes.pop(layout.decoder, None)
    return {
        "parameters": sum(sizes.values()),
        "embedding_parameters": sum(n for name, n in sizes.items() if name.startswith(layout.body[0])),
        "dtypes": sorted({s.dtype for s in tensors}),
    }


def _vocabulary(tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        return {"vocabulary": None, "tokenizer": None}
    ids = {role: int(getattr(tokenizer, f"{role}_id")) for role in ("cls", "sep", "pad", "unk", "mask")}
    return {
        "vocabulary": tokenizer.vocab_size,
        "vocabulary_kind": tokenizer.kind,
        "special_tokens": {role: {"token": tokenizer.token(i), "id": i} for role, i in ids.items()},
        "separators_in_a_pair": tokenizer.separators,
        "tokenizer": tokenizer.fingerprint,
    }


def _tensor_problems(info: FolderInfo, tensors: list[Stored], heads: list[str]) -> list[str]:
    """What a loader would say about the encoder, and about the heads that the folder has."""
    layout, problems = info.config.layout, dict[str, None]()
    parts = {"encoder": layout.others()}
    if "masked-lm" in heads:
        parts["masked-lm"] = layout.others("masked-lm")
    if "pooler" in heads:
        parts["pooler"] = (*layout.others("pooler"), *layout.body)
    for part, others in parts.items():
        fit = match(layout, shapes_of(info.config, part), tensors, others, tied=part == "masked-lm")
        problems |= dict.fromkeys(fit.problems)
    if info.kind == "task" and not set(heads) & {"task", "voters"}:
        problems[f"missing: the {info.head} head that config.json and xlt.json speak of"] = None
    more = [f"and {len(problems) - MOST_NAMES:,} more"] if len(problems) > MOST_NAMES else []
    return [*list(problems)[:MOST_NAMES], *more]


def _tokenizer_problems(info: FolderInfo, tokenizer: Tokenizer) -> list[str]:
    """Signs that tokenizer and weights come from different checkpoints."""
    config = info.config
    problems = [misfit] if (misfit := tokenizer.misfit(config.vocab_size)) else []
    if config.layout.positions_after_pad and config.pad_token_id != tokenizer.pad_id:
        problems.append(f"config.json has pad_token_id {config.pad_token_id}, the tokenizer's is {tokenizer.pad_id}")
    return problems


def _uses(info: FolderInfo, heads: list[str], tokenizer: Tokenizer | None) -> list[str]:
    """What the commands can do with the folder, in sentences."""
    if tokenizer is None:
        return ["none without its tokenizer: copy tokenizer.json or vocab.txt into the folder"]
    if info.kind == "task":
        return [f"predict and evaluate: {info.task}, {info.head} head"]
    if "masked-lm" in heads:
        uses = ["model.path of a recipe, all stages"]
    else:
        uses = ["model.path of a recipe with btf.on = false: task fitting needs a masked-LM head"]
    if "pooler" in heads:
        uses.append('pooling = "pooler" for classification')
    if info.config.num_segments < 2 or not tokenizer.segments:
        uses.append("pairs of texts: told apart by separators alone, both are in one segment")
    return uses


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
    }


def _origin(root: Path, info: FolderInfo) -> dict[str, Any]:
    record = read_record(root / "stage.json")
    stage = (info.extra or {}).get("stage")
    if not record:
        return {"stage": stage, "marks": None}
    alpha, origin = stored_alpha(root)
    return {
        "stage": stage or record.get("stage"),
        "marks": "".join(mark for mark, name in MARKS.items() if record.get(f"uses_{name}")),
        "alpha": None if origin == "default" else alpha,
        "max_length": read_record(root / "fingerprint.json").get("max_length"),
        **{key: record[key] for key in (*_RECORDED, "fingerprint") if record.get(key) is not None},
        "warnings": [w.get("name") for w in record.get("warnings") or ()],
    }


def describe_environment() -> dict[str, Any]:
    """Versions, machine, device and the kernels' path, as JSON values; null for what this machine has not.

    Raises:
        ConfigError: `XLT_KERNELS` or `XLT_PRODUCTS` is unknown, or asks for what cannot run here.
    """
    import torch

    from ..training.device import choose_device, choose_precision, describe_kernels, describe_products

    device = choose_device("auto")
    facts = environment()
    cuda = torch.cuda.is_available()
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return {
        **facts["versions"],
        "triton": metadata.version("triton") if "triton" in installed else None,
        "platform": facts["platform"],
        "machine": facts["machine"],
        "device": device.type,
        "precision": choose_precision("auto"),
        "cuda_device": facts["cuda"],
        "cuda_version": torch.version.cuda,
        "cuda_capability": ".".join(map(str, torch.cuda.get_device_capability())) if cuda else None,
        "cpu_capability": facts["cpu_capability"],
        "cpu_count": os.cpu_count(),
        "threads": facts["threads"],
        "kernels": {name: describe_kernels(torch.device(name)) for name in dict.fromkeys(("cpu", device.type))},
        "products": describe_products(),
    }
