"""Models from and to folders in the Hugging Face layout, plus `xlt.json` for what that layout cannot say."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import ConfigError, ModelError, StorageError
from ..untrusted import listed, quoted, read_object
from . import names
from .cloze import ClozeHead, ClozeModel
from .config import LIMITS, EncoderConfig
from .encoder import Encoder
from .fill import filled
from .heads import Head, LinearHead, MlpHead, VoterHeads
from .tasks import POOLINGS, TASKS, MaskedLM, Pooler, TaskModel
from .weights import DTYPES, SINGLE, scan, write, write_file

FORMAT = 1
MOST_VOTERS = 64
_MOST_PIECES = 4096  # of the words of a cloze head
_HEADS = ("linear", "mlp", "voters", "cloze")
_TASK_CLASSES = {"ForTokenClassification": "ner", "ForSequenceClassification": "classification"}
_LAST = ("classifier.weight", "classifier.out_proj.weight")  # has one row a class


@dataclass(frozen=True, slots=True)
class FolderInfo:
    """What a model folder says about itself; `task` to `pooling` are None unless `kind` is 'task'.

    `kind` is 'encoder', 'masked-lm' or 'task'; `labels` is None where the folder names none; `pieces` are those of a
    cloze head; `prompt` is '' where texts are read as they are; `extra` is what the writer of the folder passed to
    `save_model`.
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
    pieces: tuple[tuple[int, ...], ...] | None = None
    prompt: str = ""


def load_encoder_config(folder: str | os.PathLike[str]) -> EncoderConfig:
    """The encoder configuration of a model folder; no weights are read.

    Raises:
        ModelError: no folder, no valid `config.json`, or a model that this encoder does not compute.
    """
    root = _root(folder)
    return EncoderConfig.from_hf(read_object(root, "config.json"), file=str(root / "config.json"))


def load_encoder(folder: str | os.PathLike[str]) -> Encoder:
    """The encoder of a model folder, in fp32; heads and pooler that the folder also holds are left out.

    Raises:
        ModelError: as `load_encoder_config`, or tensors are missing, unexpected, mis-shaped, damaged or outside the
            folder; all of them are listed.
    """
    root = _root(folder)
    config = load_encoder_config(root)
    return filled(lambda: Encoder(config, seed=None), root, others=config.layout.others())


def load_masked_lm(folder: str | os.PathLike[str]) -> MaskedLM:
    """The masked language model of a folder, in fp32; pooler and next-sentence head are left out.

    Raises:
        ModelError: as `load_encoder`; also where the folder has no masked-LM head, or a decoder that is not tied to
            the word embedding.
    """
    root = _root(folder)
    config = load_encoder_config(root)
    others = config.layout.others("masked-lm", "task", "voters")
    return filled(lambda: MaskedLM(Encoder(config, seed=None), seed=None), root, others=others)


def load_pooler(folder: str | os.PathLike[str]) -> Pooler:
    """The pooler of a folder, for `TaskModel(..., pooling='pooler')`.

    Raises:
        ModelError: as `load_encoder`; also where the folder has no pooler.
    """
    root = _root(folder)
    config = load_encoder_config(root)
    others = (*config.layout.others("pooler"), *config.layout.body)
    return filled(lambda: Pooler(config, seed=None), root, others=others)


def load_task_model(folder: str | os.PathLike[str]) -> TaskModel:
    """The tagger or classifier of a folder, in fp32.

    Reads folders of `save_model` and those of Hugging Face's ...ForTokenClassification and
    ...ForSequenceClassification of any layout.

    Raises:
        ModelError: as `load_encoder`; also where the folder holds no task model.
    """
    root = _root(folder)
    info = read_info(root)
    if info.task is None or info.pooling is None:
        raise ModelError(f"{root}: holds no tagger or classifier ({info.kind}); fine-tune it first")
    labels = _labels(info, root)
    kept = ("task", "voters", "masked-lm", *(("pooler",) if info.pooling == "pooler" else ()))
    return filled(lambda: _task_model(info, labels), root, others=info.config.layout.others(*kept))


def load_tagger(folder: str | os.PathLike[str]) -> TaskModel:
    """`load_task_model` for a folder whose task is 'ner'; any other is a ModelError."""
    return _expect(load_task_model(folder), "ner", folder)


def load_classifier(folder: str | os.PathLike[str]) -> TaskModel:
    """`load_task_model` for a folder whose task is 'classification'; any other is a ModelError."""
    return _expect(load_task_model(folder), "classification", folder)


def read_info(folder: str | os.PathLike[str]) -> FolderInfo:
    """What `config.json` and, where there is one, `xlt.json` say; no weights are read.

    Raises:
        ModelError: a file is missing or not valid, or the two disagree about the labels.
    """
    root = _root(folder)
    values = read_object(root, "config.json")
    config = EncoderConfig.from_hf(values, file=str(root / "config.json"))
    labels = _hf_labels(values, root / "config.json")
    if (root / "xlt.json").exists():
        return _own_info(config, labels, root)
    named = values.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    kind = architecture.removeprefix(config.layout.classes)
    if kind in _TASK_CLASSES:
        task = _TASK_CLASSES[kind]
        dropout = _head_dropout(config, values, task, root / "config.json")
        return FolderInfo(config, "task", task, labels, *_head_of_layout(config, task), dropout=dropout)
    return FolderInfo(config, "masked-lm" if kind in ("ForMaskedLM", "ForPreTraining") else "encoder")


def save_model(
    model: Encoder | MaskedLM | TaskModel,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes `config.json`, `model.safetensors` and `xlt.json` into a new or existing folder.

    transformers opens the folder: an encoder with AutoModel, a masked LM with AutoModelForMaskedLM, a task model with
    its task's class where `head_of_transformers`; any other has no labels in `config.json`. File modes follow the umask
    and every file is flushed to disk; to publish the folder in one step, write into a temporary one and rename it.

    Args:
        dtype: of the stored weights: 'float32', 'float16' or 'bfloat16'.
        extra: kept in `xlt.json` (anything JSON can hold) and returned by `read_info`.

    Raises:
        ConfigError: unknown `dtype`.
        ModelError: a weight does not fit `dtype`.
        StorageError: the folder cannot be written.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{root}: cannot be made ({error.strerror}); check the path and its rights") from error
    tensors = names.views(model)
    if not isinstance(model, Encoder):
        tensors = {model.config.layout.file_name(name): value for name, value in tensors.items()}
    config = model.config.to_hf()
    config |= {"architectures": [_architecture(model)], "dtype": dtype}
    own: dict[str, Any] = {"format": FORMAT, "kind": _kind(model)}
    if isinstance(model, TaskModel):
        config |= _head_in_config(model) if head_of_transformers(model) else {}
        head: dict[str, Any] = {"kind": model.head.kind, "dropout": model.head.dropout}
        head |= {"widths": model.head.widths} if isinstance(model.head, VoterHeads) else {}
        head |= {"pieces": model.head.pieces} if isinstance(model.head, ClozeHead) else {}
        own |= {"task": model.task, "labels": model.labels, "pooling": model.pooling, "head": head}
        own |= {"prompt": model.prompt} if model.prompt else {}
    own["extra"] = extra or {}
    write(tensors, root / SINGLE, DTYPES[dtype])
    for name, values in (("config.json", config), ("xlt.json", own)):
        text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        write_file(root / name, [(text + "\n").encode("utf-8")])


def _kind(model: Encoder | MaskedLM | TaskModel) -> str:
    if isinstance(model, TaskModel):
        return "task"
    return "masked-lm" if isinstance(model, MaskedLM) else "encoder"


def _architecture(model: Encoder | MaskedLM | TaskModel) -> str:
    layout, kind = model.config.layout, "Model"  # a head that transformers does not have would be read wrongly
    if isinstance(model, MaskedLM):
        kind = "ForMaskedLM"
    elif isinstance(model, TaskModel):
        if isinstance(model.head, ClozeHead):
            kind = "ForMaskedLM"  # which is what it is, beside the words of its classes
        elif head_of_transformers(model):
            kind = next(name for name, task in _TASK_CLASSES.items() if task == model.task)
    return layout.classes + kind


def head_of_transformers(model: TaskModel) -> bool:
    """Whether the layout's class for the task has this head, and so reads the folder of `save_model`."""
    return not model.prompt and (model.head.kind, model.pooling) == _head_of_layout(model.config, model.task)


def _head_of_layout(config: EncoderConfig, task: str) -> tuple[str, str]:
    """Kind and pooling of the head that the layout's classes have for a task."""
    return ("linear", "cls") if task == "ner" else config.layout.classifier


def _head_in_config(model: TaskModel) -> dict[str, Any]:
    """What the layout's class for the task reads of its head in `config.json`."""
    labels = dict(enumerate(model.labels))
    config: dict[str, Any] = {"id2label": {str(i): label for i, label in labels.items()}}
    config["label2id"] = {label: i for i, label in labels.items()}
    if model.task in model.config.layout.head_dropout:
        config[model.config.layout.head_dropout[model.task][0]] = model.head.dropout
    return config


def _head_dropout(config: EncoderConfig, values: Mapping[str, Any], task: str, file: Path) -> float:
    """The dropout of a head of transformers."""
    key, default = config.layout.head_dropout.get(task, ("", None))
    dropout = values.get(key, default)
    if dropout is None:
        return config.dropout
    if not _probability(dropout):
        raise ModelError(f"{file}: {key} is {quoted(dropout)}, expected one in [0, 1)")
    return float(dropout)


def _task_model(info: FolderInfo, labels: tuple[str, ...]) -> TaskModel:
    encoder, head = Encoder(info.config, seed=None), _make_head(info, len(labels))
    pooler = Pooler(info.config, seed=None) if info.pooling == "pooler" else None
    kind = ClozeModel if isinstance(head, ClozeHead) else TaskModel
    task, pooling = str(info.task), str(info.pooling)
    return kind(encoder, head, task, labels, pooling=pooling, pooler=pooler, prompt=info.prompt)


def _make_head(info: FolderInfo, classes: int) -> Head:
    hidden, dropout = info.config.hidden_size, info.config.dropout if info.dropout is None else info.dropout
    if info.head == "voters":
        return VoterHeads(hidden, classes, info.widths, dropout, seed=None)
    if info.pieces is not None:
        return ClozeHead(info.config, info.pieces, seed=None)
    return (MlpHead if info.head == "mlp" else LinearHead)(hidden, classes, dropout, seed=None)


def _labels(info: FolderInfo, root: Path) -> tuple[str, ...]:
    if info.labels is not None:
        return info.labels
    rows = [stored.shape[0] for stored in scan(root) if stored.name in _LAST and stored.shape]
    if not rows:
        raise ModelError(f"{root}: no labels in config.json and no tensor {' or '.join(_LAST)}")
    return tuple(f"LABEL_{i}" for i in range(rows[0]))  # the names that Hugging Face gives in this case


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
    widths, dropout, prompt = head.get("widths"), head.get("dropout"), own.get("prompt", "")
    pieces = _pieces(head.get("pieces"), config.vocab_size)
    strings = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    sized = (head.get("kind") == "voters") == (
        isinstance(widths, list)
        and 0 < len(widths) <= MOST_VOTERS
        and all(type(w) is int and 0 < w <= LIMITS["intermediate_size"] for w in widths)
    )
    for key, good in (
        ("kind", own.get("kind") == "task"),
        ("task", own.get("task") in TASKS),
        ("pooling", own.get("pooling") in POOLINGS),
        ("labels", strings),
        ("head.kind", head.get("kind") in _HEADS),
        ("head.dropout", _probability(dropout)),
        ("head.widths", sized),
        ("head.pieces", (head.get("kind") == "cloze") == (pieces is not None and len(pieces) == len(labels or ()))),
        ("prompt", isinstance(prompt, str) and (bool(prompt) or head.get("kind") != "cloze")),
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
        pieces=pieces,
        prompt=prompt,
    )


def _pieces(value: Any, rows: int) -> tuple[tuple[int, ...], ...] | None:
    """The pieces of a cloze head; None where there are none, and () where they are not valid."""
    if value is None:
        return None
    good = isinstance(value, list) and all(
        isinstance(own, list) and own and all(type(i) is int and 0 <= i < rows for i in own) for own in value
    )
    good = good and sum(map(len, value)) <= _MOST_PIECES
    return tuple(tuple(own) for own in value) if good else ()


def _probability(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1


def _expect(model: TaskModel, task: str, folder: str | os.PathLike[str]) -> TaskModel:
    if model.task != task:
        raise ModelError(f"{os.fspath(folder)}: holds a model for {model.task}, not for {task}")
    return model


def _root(folder: str | os.PathLike[str]) -> Path:
    root = Path(folder)
    if not root.is_dir():
        raise ModelError(f"{root}: no such model folder")
    return root
