"""What the files of a model folder hold: layout, sizes, heads, vocabulary, hashes, and what does not fit together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ... import ModelError
from ...data import Tokenizer
from ...model import Encoder, FolderInfo, MaskedLM, Pooler
from ...model.fill import AnyModel, match
from ...model.layouts import POSITION_IDS
from ...model.weights import Stored, scan
from ..storage.files import sha256_file

_READ = ("config.json", "xlt.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_T = TypeVar("_T")

PAPER_LAYERS = 3
"""The lowest layers that arXiv 2310.04726 freezes, with the embeddings, in every stage."""


def describe_shape(info: FolderInfo) -> dict[str, Any]:
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
        "embedding_rows": config.vocab_size,
        "dropout": config.dropout,
    }


def describe_contents(root: Path, info: FolderInfo) -> dict[str, Any]:
    """Weights, vocabulary and files of a folder, what the engine can do with it, and all problems found.

    Counts and names come from headers; for the hashes every file is read once.
    """
    problems: list[str] = []
    tensors = _attempt(lambda: scan(root), problems) or []
    tokenizer = None
    if any((root / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        tokenizer = _attempt(lambda: Tokenizer.from_folder(root), problems)
    heads = _heads(info, tensors)
    if tensors:
        problems += _misfits(info, tensors, heads)
    if tokenizer is not None:
        problems += _strangers(info, tokenizer)
    weights = _weights(info, tensors)
    return {
        **weights,
        **_tokenizer(tokenizer),
        "heads_present": heads,
        "files": _files(root, weights["weight_files"]),
        "uses": _uses(info, heads, tokenizer),
        "problems": problems,
    }


def _attempt(call: Callable[[], _T], problems: list[str]) -> _T | None:
    try:
        return call()
    except ModelError as error:
        problems.append(str(error))
        return None


def _weights(info: FolderInfo, tensors: list[Stored]) -> dict[str, Any]:
    """Counts over the stored tensors; a second copy of the word embedding does not count."""
    layout = info.config.layout
    sizes = {layout.bare(s.name): math.prod(s.shape) for s in tensors}
    sizes = {name: n for name, n in sizes.items() if name not in (POSITION_IDS, layout.decoder)}
    with torch.device("meta"):
        encoder = Encoder(info.config, seed=None)
        embeddings = sum(p.numel() for p in encoder.embeddings.parameters())
        encoder.freeze(True, min(PAPER_LAYERS, info.config.num_layers))
        frozen = sum(p.numel() for p in encoder.frozen_parameters().values())
    unused = layout.others("masked-lm", "task", "voters", *(["pooler"] if info.pooling == "pooler" else []))
    total = sum(sizes.values())
    trained = sum(n for name, n in sizes.items() if not name.startswith(unused))
    return {
        "parameters": total,
        "embedding_parameters": embeddings,
        "trainable_with_paper_freezing": max(0, trained - frozen),
        "dtypes": sorted({s.dtype for s in tensors}),
        "weight_files": sorted({s.file.name for s in tensors}),
    }


def _tokenizer(tokenizer: Tokenizer | None) -> dict[str, Any]:
    if tokenizer is None:
        return {"vocabulary": None, "tokenizer": None}
    roles = ("cls", "sep", "pad", "unk", "mask")
    ids = {role: int(getattr(tokenizer, f"{role}_id")) for role in roles}
    return {
        "vocabulary": tokenizer.vocab_size,
        "vocabulary_kind": tokenizer.kind,
        "special_tokens": {role: {"token": tokenizer.token(i), "id": i} for role, i in ids.items()},
        "separators_in_a_pair": tokenizer.separators,
        "tokenizer": tokenizer.fingerprint,
    }


def _heads(info: FolderInfo, tensors: list[Stored]) -> list[str]:
    """The kinds of head that the folder has tensors of."""
    layout = info.config.layout
    bare = {layout.bare(s.name) for s in tensors} - {layout.decoder}
    return [kind for kind, starts in layout.heads.items() if any(name.startswith(starts) for name in bare)]


def _misfits(info: FolderInfo, tensors: list[Stored], heads: list[str]) -> list[str]:
    """What a loader would say about the encoder, and about the heads that are there."""
    layout, found = info.config.layout, []
    with torch.device("meta"):
        encoder = Encoder(info.config, seed=None)
        wanted: list[tuple[AnyModel, tuple[str, ...]]] = [(encoder, layout.others())]
        if "masked-lm" in heads:
            wanted.append((MaskedLM(encoder, seed=None), layout.others("masked-lm")))
        if "pooler" in heads:
            wanted.append((Pooler(info.config, seed=None), (*layout.others("pooler"), *layout.body)))
        for model, others in wanted:
            found += [p for p in match(model, tensors, others).problems if p not in found]
        own = {"masked-lm"} if info.head == "cloze" else {"task", "voters"}
        if info.kind == "task" and not own & set(heads):
            found.append(f"missing: the {info.head} head that config.json and xlt.json speak of")
    return found


def _strangers(info: FolderInfo, tokenizer: Tokenizer) -> list[str]:
    """Signs that tokenizer and weights come from different checkpoints."""
    config, found = info.config, []
    if misfit := tokenizer.misfit(config.vocab_size):
        found.append(misfit)
    if config.layout.positions_after_pad and config.pad_token_id != tokenizer.pad_id:
        found.append(f"config.json has pad_token_id {config.pad_token_id}, the tokenizer's is {tokenizer.pad_id}")
    return found


def _files(root: Path, weights: list[str]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of the files that the engine reads."""
    files = [root / name for name in (*_READ, *weights) if (root / name).is_file()]
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in files}


def _uses(info: FolderInfo, heads: list[str], tokenizer: Tokenizer | None) -> list[str]:
    """What the commands can do with the folder, in sentences."""
    if info.kind == "task":
        what = f"predict and evaluate: {info.task}, {info.head} head"
        return [what if tokenizer is not None else f"{what}; needs its tokenizer beside it"]
    if tokenizer is None:
        return ["none without its tokenizer: copy tokenizer.json or vocab.txt into the folder"]
    found = [
        "model.path of a recipe, all stages"
        if "masked-lm" in heads
        else "model.path of a recipe with btf.on = false: without a masked-LM head there is no bilingual task fitting"
    ]
    if "pooler" in heads:
        found.append('pooling = "pooler" for classification')
    if info.config.num_segments < 2 or not tokenizer.segments:
        found.append("pairs of texts: told apart by separators alone, both are in one segment")
    found.append(f"max_length up to {info.config.max_length}")
    return found
