"""Task models as a user names them: from a folder with its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from ... import ConfigError, ModelError
from ...data import Tokenizer
from ...model import TaskModel, load_task_model, read_info
from ..storage.stage_files import refuse_changed
from ..summary.answer import refuse_run
from ..training.device import Precision, choose_device, choose_precision
from ..training.precision import DTYPES, compute_in
from .stage_record import read_record
from .words import Split

ModelLike = TaskModel | str | os.PathLike[str]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class OpenModel:
    """A task model with what it takes to read text with it.

    Attributes:
        max_length: in tokens: as asked for, else that of the stage in the folder, else all positions of the encoder.
        prediction: how the stage in the folder was scored: "mean" or "valid"; else "mean".
        split: how the recipe of a stage folder cut plain text into words; else around punctuation.
        names: of columns and fields, and `label_map`, as the recipe of a stage folder has them; else empty.
        folder: None for a model in memory.
    """

    model: TaskModel
    tokenizer: Tokenizer
    max_length: int
    prediction: str = "mean"
    split: Split = "punctuation"
    names: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def open_model(
    model: ModelLike,
    tokenizer: Tokenizer | None = None,
    *,
    max_length: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> OpenModel:
    """A task model and its tokenizer, from a folder or as they are given, checked to fit.

    Only a model from a folder is moved to `device` and computes in `precision`: "auto" is fp32 on a CPU, and on a GPU
    what the stage in the folder was trained and scored in, else 16 bits.

    Raises:
        ConfigError: a run's folder, a model in memory without a tokenizer, no such device, or a length that the model
            cannot read.
        ModelError: a damaged folder, a stage of a run that is not what it wrote, or a tokenizer with more ids than the
            model has embeddings.
    """
    about: dict[str, Any] = {}
    if not isinstance(model, TaskModel):
        refuse_run(model)
        folder, place = Path(model), choose_device(device)
        record = refuse_changed(folder)
        model = load_task_model(folder).to(place)
        trained = read_record(folder / "fingerprint.json")
        compute_in(model, precision_of(precision, trained.get("precision"), place.type))
        tokenizer = tokenizer or Tokenizer.from_folder(folder)
        extra = read_info(folder).extra or {}
        about = {"folder": folder, "split": extra.get("split") or "punctuation"}
        about["names"] = _names(extra.get("reader") or {}, model.labels)
        about |= {"prediction": "valid"} if record.get("prediction") == "valid" else {}
        if max_length is None:
            max_length = trained.get("max_length")
    if tokenizer is None:
        raise ConfigError("a model in memory needs tokenizer=...; give it, or the model's folder")
    if misfit := tokenizer.misfit(model.config.vocab_size):
        raise ModelError(f"{about.get('folder', 'the model')}: {misfit}")
    positions = model.config.max_length
    max_length = positions if max_length is None else max_length
    if not 3 < max_length <= positions:
        what = f"max_length = {max_length}, but it must lie between 4 and the encoder's {positions} positions"
        raise ConfigError(what)
    return OpenModel(model, tokenizer, max_length, **about)


def precision_of(asked: Precision, trained: object, device: str) -> Precision:
    """What "auto" is: on a GPU what the stage was trained and scored in, where the folder says so."""
    if asked == "auto" and device == "cuda" and trained in DTYPES:
        return cast(Precision, trained)
    return choose_precision(asked, device)


def _names(reader: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """The reader's settings of a stage folder; a label map reads the names that `predict` writes, too."""
    mapped = {old: new or None for old, new in reader.get("label_map", {}).items()}
    return reader | ({"label_map": {label: label for label in labels} | mapped} if mapped else {})
