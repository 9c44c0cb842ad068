"""Models from and to folders in the Hugging Face layout, plus `xlt.json` for what that layout cannot say.

`views` says which tensor of a checkpoint is which part of a parameter: writing into a view fills the model, reading one
gives what the file holds. A fused matrix appears as its three thirds and a stack of voters as each voter without its
padding. Names are BERT's in this file; `views` gives them as the layout of the model spells them (`layouts.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import ConfigError, ModelError, StorageError
from ..tasks import TASKS, per_word
from ..untrusted import listed
from .encoder import Encoder
from .headers import SHARDS, SINGLE, match, pre_norm_tensors, scan
from .heads import Head, LinearHead, MlpHead, PredictionHead, VoterHeads
from .info import FORMAT, FolderInfo, existing, head_of_layout, load_encoder_config, read_info
from .layers import Embeddings, Layer
from .tasks import MaskedLM, Pooler, TaskModel
from .weights import DTYPES, Link, read, write, write_json, write_shards

WORTH_SHARING = 1 << 20
"""Bytes of weights that did not train, from which `save_model` gives them a file of their own."""
M = TypeVar("M", Encoder, MaskedLM, TaskModel, Pooler)
_LAST = ("classifier.weight", "classifier.out_proj.weight")  # has one row a class


def load_encoder(folder: str | os.PathLike[str]) -> Encoder:
    """The encoder of a model folder, in fp32; heads and pooler that the folder also holds are left out.

    Raises:
        ModelError: as `load_encoder_config`, or tensors are missing, unexpected, mis-shaped, damaged or outside the
            folder; all of them are listed.
    """
    root = existing(folder)
    config = load_encoder_config(root)
    return _filled(lambda: Encoder(config, seed=None), root, others=config.layout.others())


def load_masked_lm(folder: str | os.PathLike[str]) -> MaskedLM:
    """The masked language model of a folder, in fp32; pooler and next-sentence head are left out.

    Raises:
        ModelError: as `load_encoder`; also where the folder has no masked-LM head, or a decoder that is not tied to
            the word embedding.
    """
    root = existing(folder)
    config = load_encoder_config(root)
    others = config.layout.others("masked-lm", "task", "voters")
    return _filled(lambda: MaskedLM(Encoder(config, seed=None), seed=None), root, others=others)


def load_pooler(folder: str | os.PathLike[str]) -> Pooler:
    """The pooler of a folder, for `TaskModel(..., pooling='pooler')`.

    Raises:
        ModelError: as `load_encoder`; also where the folder has no pooler.
    """
    root = existing(folder)
    config = load_encoder_config(root)
    others = (*config.layout.others("pooler"), *config.layout.body)
    return _filled(lambda: Pooler(config, seed=None), root, others=others)


def load_task_model(folder: str | os.PathLike[str]) -> TaskModel:
    """The tagger or classifier of a folder, in fp32.

    Reads folders of `save_model` and those of Hugging Face's ...ForTokenClassification and
    ...ForSequenceClassification of any layout.

    Raises:
        ModelError: as `load_encoder`; also where the folder holds no task model.
    """
    root = existing(folder)
    info = read_info(root)
    if info.task is None or info.pooling is None:
        raise ModelError(f"{root}: holds no tagger or classifier ({info.kind}); fine-tune it first")
    labels = _labels(info, root)
    kept = ("task", "voters", "masked-lm", *(("pooler",) if info.pooling == "pooler" else ()))
    return _filled(lambda: _task_model(info, labels), root, others=info.config.layout.others(*kept))


def load_tagger(folder: str | os.PathLike[str]) -> TaskModel:
    """`load_task_model` for a folder whose task labels words; any other is a ModelError."""
    return _expect(load_task_model(folder), "ner", folder)


def load_classifier(folder: str | os.PathLike[str]) -> TaskModel:
    """`load_task_model` for a folder whose task is 'classification'; any other is a ModelError."""
    return _expect(load_task_model(folder), "classification", folder)


def save_model(
    model: Encoder | MaskedLM | TaskModel,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    extra: dict[str, Any] | None = None,
    link: Link | None = None,
) -> None:
    """Writes `config.json`, `model.safetensors` and `xlt.json` into a new or existing folder.

    transformers opens the folder: an encoder with AutoModel, a masked LM with AutoModelForMaskedLM, a task model with
    its task's class where `head_of_transformers`; any other has no labels in `config.json`. File modes follow the umask
    and every file is flushed to disk; to publish the folder in one step, write into a temporary one and rename it.

    Args:
        dtype: of the stored weights: 'float32', 'float16' or 'bfloat16'.
        extra: kept in `xlt.json` (anything JSON can hold) and returned by `read_info`.
        link: puts a file with a SHA-256 at a path, where there is one, and says so. Weights that do not train, where
            they are `WORTH_SHARING`, are then a file apart from the others, with `model.safetensors.index.json`.

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
    tensors = views(model)
    if not isinstance(model, Encoder):
        tensors = {model.config.layout.file_name(name): value for name, value in tensors.items()}
    config = model.config.to_hf()
    config |= {"architectures": [_architecture(model)], "dtype": dtype}
    own: dict[str, Any] = {"format": FORMAT, "kind": _kind(model)}
    if isinstance(model, TaskModel):
        config |= _head_in_config(model) if head_of_transformers(model) else {}
        head: dict[str, Any] = {"kind": model.head.kind, "dropout": model.head.dropout}
        head |= {"widths": model.head.widths} if isinstance(model.head, VoterHeads) else {}
        own |= {"task": model.task, "labels": model.labels, "pooling": model.pooling, "head": head}
    own["extra"] = extra or {}
    shards = dict(zip(SHARDS, _by_training(model, tensors), strict=True))
    if link and sum(value.numel() for value in shards[SHARDS[0]].values()) * DTYPES[dtype].itemsize >= WORTH_SHARING:
        write_shards(shards, root, DTYPES[dtype], link)
    else:
        write(tensors, root / SINGLE, DTYPES[dtype])
    write_json(root / "config.json", config)
    write_json(root / "xlt.json", own)


def _by_training(model: nn.Module, tensors: Views) -> tuple[Views, Views]:
    """The tensors of parameters that do not train, and the others."""
    fixed = {p.untyped_storage().data_ptr() for p in model.parameters() if not p.requires_grad}
    parts: tuple[Views, Views] = {}, {}
    for name, value in tensors.items():
        parts[value.untyped_storage().data_ptr() not in fixed][name] = value
    return parts


def _kind(model: Encoder | MaskedLM | TaskModel) -> str:
    if isinstance(model, TaskModel):
        return "task"
    return "masked-lm" if isinstance(model, MaskedLM) else "encoder"


def _architecture(model: Encoder | MaskedLM | TaskModel) -> str:
    layout, kind = model.config.layout, "Model"  # a head that transformers does not have would be read wrongly
    if isinstance(model, MaskedLM):
        kind = "ForMaskedLM"
    elif isinstance(model, TaskModel) and head_of_transformers(model):
        kind = TASKS[model.task].classes
    return layout.classes + kind


def head_of_transformers(model: TaskModel) -> bool:
    """Whether the layout's class for the task has this head, and so reads the folder of `save_model`."""
    kind, pooling = head_of_layout(model.config, model.task)
    poolings = (model.task == "classification" and model.config.layout.poolings) or (pooling,)
    return model.head.kind == kind and model.pooling in poolings


def _head_in_config(model: TaskModel) -> dict[str, Any]:
    """What the layout's class for the task reads of its head in `config.json`."""
    labels = dict(enumerate(model.labels))
    config: dict[str, Any] = {"id2label": {str(i): label for i, label in labels.items()}}
    config["label2id"] = {label: i for i, label in labels.items()}
    if model.task == "classification" and (poolings := model.config.layout.poolings):
        config["classifier_pooling"] = poolings[model.pooling]
    if model.task in model.config.layout.head_dropout:
        config[model.config.layout.head_dropout[model.task][0]] = model.head.dropout
    return config


def _task_model(info: FolderInfo, labels: tuple[str, ...]) -> TaskModel:
    encoder, head = Encoder(info.config, seed=None), _make_head(info, len(labels))
    pooler = Pooler(info.config, seed=None) if info.pooling == "pooler" else None
    return TaskModel(encoder, head, str(info.task), labels, pooling=str(info.pooling), pooler=pooler)


def _make_head(info: FolderInfo, classes: int) -> Head:
    hidden, dropout = info.config.hidden_size, info.config.dropout if info.dropout is None else info.dropout
    if info.head == "voters":
        return VoterHeads(hidden, classes, info.widths, dropout, seed=None)
    if info.head == "prediction":
        return PredictionHead(info.config, classes, dropout, seed=None)
    return (MlpHead if info.head == "mlp" else LinearHead)(hidden, classes, dropout, seed=None)


def _labels(info: FolderInfo, root: Path) -> tuple[str, ...]:
    if info.labels is not None:
        return info.labels
    rows = [stored.shape[0] for stored in scan(root) if stored.name in _LAST and stored.shape]
    if not rows:
        raise ModelError(f"{root}: no labels in config.json and no tensor {' or '.join(_LAST)}")
    return tuple(f"LABEL_{i}" for i in range(rows[0]))  # the names that Hugging Face gives in this case


def _expect(model: TaskModel, task: str, folder: str | os.PathLike[str]) -> TaskModel:
    if per_word(model.task) != per_word(task):
        raise ModelError(f"{os.fspath(folder)}: holds a model for {model.task}, not for {task}")
    return model


def _filled(make: Callable[[], M], root: Path, *, others: tuple[str, ...]) -> M:
    """The model that `make` lays out, with the tensors of a folder.

    It is laid out without memory first and compared with the headers of the files, so that a configuration which asks
    for more than the files hold takes no room.

    Raises:
        ModelError: tensors are missing, unexpected, of another shape, or unequal copies; the first 20 are listed.
    """
    tensors = scan(root)
    with torch.device("meta"):
        plan = make()
    shapes = {name: tuple(view.shape) for name, view in views(plan).items()}
    matched = match(plan.config.layout, shapes, tensors, others, tied=isinstance(plan, MaskedLM))
    if matched.problems:
        problems = listed(matched.problems, sign="\n  ")
        raise ModelError(f"{root}: the tensors do not fit config.json:\n  {problems}")
    model = make()
    targets, layout = views(model), model.config.layout
    for stored, value in read(matched.found.values()):
        targets[layout.bare(stored.name)].copy_(value)
    for stored, value in read(stored for stored, _ in matched.copies):
        first = next(name for other, name in matched.copies if other is stored)
        if not torch.equal(value.to(torch.float32), targets[first]):
            raise ModelError(
                f"{stored} differs from {matched.found[first]}; only a decoder tied to the embedding is supported"
            )
    return model


_POOLER = {"pooler.dense": "dense"}
_LAYER = {
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
}
_TRANSFORM = {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.LayerNorm": "norm"}
_WORD, _DECODER_BIAS = "embeddings.word_embeddings.weight", "cls.predictions.bias"
_HEADS = {
    "linear": {"classifier": ""},
    "prediction": {"head.dense": "dense", "head.norm": "norm", "classifier": ""},
    "mlp": {"classifier.dense": "dense", "classifier.out_proj": ""},
}

Views = dict[str, Tensor]


def views(model: Encoder | MaskedLM | TaskModel | Pooler) -> Views:
    """Every tensor of the model under its name in a checkpoint of its layout, without the prefix."""
    if isinstance(model, Pooler):
        found = _pairs(model, _POOLER)
    elif isinstance(model, Encoder):
        found = _encoder(model)
    elif isinstance(model, MaskedLM):
        found = _masked_lm(model)
    else:
        found = {**_encoder(model.encoder), **_head(model.head)}
        if model.pooler is not None:
            found |= _pairs(model.pooler, _POOLER)
    return {model.config.layout.rename(name): value.detach() for name, value in found.items()}


def _pairs(module: nn.Module, names: Mapping[str, str]) -> Views:
    """Weight and bias of each part: name in a checkpoint -> how the module's two parameters begin."""
    kinds = ("weight", "bias")
    both = {
        f"{name}.{kind}": getattr(module, f"{part}_{kind}" if part else kind)
        for name, part in names.items()
        for kind in kinds
    }
    return {name: value for name, value in both.items() if value is not None}


def _pre_norm(model: Encoder | MaskedLM) -> Views:
    masked_lm = isinstance(model, MaskedLM)
    found: Views = {}
    for path, names, rows, _ in pre_norm_tensors(model.config, masked_lm=masked_lm):
        inside = "encoder." if masked_lm and path.startswith(("embeddings.", "layers.", "final.")) else ""
        found |= zip(names, torch.split(model.get_parameter(inside + path), list(rows)), strict=True)
    return found


def _masked_lm(model: MaskedLM) -> Views:
    if model.config.pre_norm is not None:
        return _pre_norm(model)
    assert model.decoder_bias is not None
    return {**_encoder(model.encoder), **_pairs(model, _TRANSFORM), _DECODER_BIAS: model.decoder_bias}


def _encoder(encoder: Encoder) -> Views:
    if encoder.config.pre_norm is not None:
        return _pre_norm(encoder)
    emb = encoder.embeddings
    assert isinstance(emb, Embeddings)
    found: Views = {_WORD: emb.word, "embeddings.position_embeddings.weight": emb.position}
    if encoder.config.num_segments:
        found["embeddings.token_type_embeddings.weight"] = emb.segment
    found |= _pairs(emb, {"embeddings.LayerNorm": "norm"})
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        thirds = zip(layer.qkv_weight.chunk(3), layer.qkv_bias.chunk(3), strict=True)
        own: Views = {}
        for name, (weight, bias) in zip(("query", "key", "value"), thirds, strict=True):
            own |= {f"attention.self.{name}.weight": weight, f"attention.self.{name}.bias": bias}
        own |= _pairs(layer, _LAYER)
        found |= {f"encoder.layer.{index}.{name}": value for name, value in own.items()}
    return found


def _head(head: Head) -> Views:
    if not isinstance(head, VoterHeads):
        return _pairs(head, _HEADS[head.kind])
    found: Views = {}
    for i, width in enumerate(head.widths):
        found |= {
            f"voters.{i}.dense_in.weight": head.in_weight[i, :width],
            f"voters.{i}.dense_in.bias": head.in_bias[i, :width],
            f"voters.{i}.dense_out.weight": head.out_weight[i, :, :width],
            f"voters.{i}.dense_out.bias": head.out_bias[i],
            f"voters.{i}.classifier.weight": head.weight[i],
            f"voters.{i}.classifier.bias": head.bias[i],
        }
    return found
