"""What a model folder says of itself in `config.json` and `xlt.json`; no weights are read, torch is not loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import ModelError
from ..tasks import TASKS, per_word
from ..untrusted import listed, quoted, read_object
from .config import LIMITS, EncoderConfig

FORMAT = 1
POOLINGS = ("cls", "pooler", "mean", "late")
MOST_VOTERS = 64
_HEADS = ("linear", "mlp", "prediction", "voters")
_MARKS_ENTITIES = re.compile(r"O|[BILUESM]-.*|LABEL_\d+")  # LABEL_0 and so on are not names


@dataclass(frozen=True, slots=True)
class FolderInfo:
    """What a model folder says about itself; `task` to `pooling` are None unless `kind` is 'task'.

    `kind` is 'encoder', 'masked-lm' or 'task'; `labels` is None where the folder names none; `extra` is what the
    writer of the folder passed to `save_model`.
    """

    config: EncoderConfig
    kind: str
    task: str | None = None
    labels: tuple[str, ...] | None = None
    head: str | None = None
    pooling: str | None = None
    widths: tuple[int, ...] | None = None
    dropout: float | None = None
    extra: Mapping[str, Any] | None = None


def load_encoder_config(folder: str | os.PathLike[str]) -> EncoderConfig:
    """The encoder configuration of a model folder; no weights are read.

    Raises:
        ModelError: no folder, no valid `config.json`, or a model that this encoder does not compute.
    """
    root = existing(folder)
    return EncoderConfig.from_hf(read_object(root, "config.json"), file=str(root / "config.json"))


def read_info(folder: str | os.PathLike[str]) -> FolderInfo:
    """What `config.json` and, where there is one, `xlt.json` say; no weights are read.

    Raises:
        ModelError: a file is missing or not valid, or the two disagree about the labels.
    """
    root = existing(folder)
    values = read_object(root, "config.json")
    config = EncoderConfig.from_hf(values, file=str(root / "config.json"))
    labels = _hf_labels(values, root / "config.json")
    if (root / "xlt.json").exists():
        return _own_info(config, labels, root)
    named = values.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    kind = architecture.removeprefix(config.layout.classes)
    if task := _task_of_class(kind, labels):
        dropout = _head_dropout(config, values, task, root / "config.json")
        head, pooling = head_of_layout(config, task)
        if task == "classification" and (names := config.layout.poolings):
            named = values.get("classifier_pooling", names[pooling])
            pooling = next((ours for ours, theirs in names.items() if theirs == named), "")
            if not pooling:
                what = f"no head here is that of {architecture} with pooling {quoted(named)}"
                raise ModelError(f"{root / 'config.json'}: {what}; fine-tune its encoder with a head of this engine")
        return FolderInfo(config, "task", task, labels, head, pooling, dropout=dropout)
    return FolderInfo(config, "masked-lm" if kind in ("ForMaskedLM", "ForPreTraining") else "encoder")


def _task_of_class(kind: str, labels: tuple[str, ...] | None) -> str:
    """The task of a class of transformers; empty where it is for none.

    A tagger is for plain tags where it names its labels and none of them marks an entity, in whatever scheme.
    """
    tasks = [task for task in TASKS.values() if task.classes == kind]
    marks = not labels or any(_MARKS_ENTITIES.fullmatch(label) for label in labels)
    return next((task.name for task in tasks if task.spans == marks or not task.per_word), "")


def head_of_layout(config: EncoderConfig, task: str) -> tuple[str, str]:
    """Kind and pooling of the head that the layout's classes have for a task."""
    return (config.layout.tagger, "cls") if per_word(task) else config.layout.classifier


def _head_dropout(config: EncoderConfig, values: Mapping[str, Any], task: str, file: Path) -> float:
    """The dropout of a head of transformers."""
    key, default = config.layout.head_dropout.get(task, ("", None))
    dropout = values.get(key, default)
    if dropout is None:
        return config.dropout
    if not _probability(dropout):
        raise ModelError(f"{file}: {key} is {quoted(dropout)}, expected one in [0, 1)")
    return float(dropout)


def _hf_labels(values: Mapping[str, Any], file: Path) -> tuple[str, ...] | None:
    table = values.get("id2label")
    if table is None:
        return None
    if not isinstance(table, dict) or not all(isinstance(label, str) for label in table.values()):
        raise ModelError(f"{file}: id2label is not a table of label names")
    if set(table) != {str(i) for i in range(len(table))}:
        raise ModelError(f"{file}: the ids of id2label are not 0 to {len(table) - 1}")
    return tuple(table[str(i)] for i in range(len(table)))


def _own_info(config: EncoderConfig, hf_labels: tuple[str, ...] | None, root: Path) -> FolderInfo:
    file = root / "xlt.json"
    own = read_object(root, "xlt.json")
    if own.get("format") != FORMAT:
        raise ModelError(f"{file}: format {quoted(own.get('format'))}, this version reads {FORMAT}; update xlt-engine")
    extra = own.get("extra")
    if own.get("kind") in ("encoder", "masked-lm"):
        return FolderInfo(config, own["kind"], extra=extra)
    head, labels = own.get("head"), own.get("labels")
    head = head if isinstance(head, dict) else {}
    widths, dropout = head.get("widths"), head.get("dropout")
    strings = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    sized = (head.get("kind") == "voters") == (
        isinstance(widths, list)
        and 0 < len(widths) <= MOST_VOTERS
        and all(type(w) is int and 0 < w <= LIMITS["intermediate_size"] for w in widths)
    )
    if head.get("kind") == "cloze" or "prompt" in own:
        raise ModelError(f"{file}: it reads texts in a prompt, which the engine did up to commit 1558c56; use that one")
    for key, good in (
        ("kind", own.get("kind") == "task"),
        ("task", str(own.get("task")) in TASKS),
        ("pooling", own.get("pooling") in POOLINGS),
        ("labels", strings),
        ("head.kind", head.get("kind") in _HEADS),
        ("head.dropout", _probability(dropout)),
        ("head.widths", sized),
    ):
        if not good:
            limit = f" (up to {MOST_VOTERS} widths, each up to {LIMITS['intermediate_size']:,})" * (
                key == "head.widths"
            )
            raise ModelError(f"{file}: {key} is missing or not valid{limit}; save the model again")
    if hf_labels is not None and hf_labels != tuple(own["labels"]):
        both = f"its labels, {listed(own['labels'])}, are not those of config.json, {listed(hf_labels)}"
        raise ModelError(f"{file}: {both}; save the model again")
    return FolderInfo(
        config,
        "task",
        task=own["task"],
        labels=tuple(own["labels"]),
        head=head["kind"],
        widths=tuple(widths) if widths else None,
        dropout=dropout,
        pooling=own["pooling"],
        extra=extra,
    )


def _probability(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def existing(folder: str | os.PathLike[str]) -> Path:
    """The folder as a path; a ModelError where there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise ModelError(
            f"{root}: no such model folder; a model of the Hugging Face hub is fetched by "
            "xlt-engine info ORG/NAME --download"
        )
    return root
