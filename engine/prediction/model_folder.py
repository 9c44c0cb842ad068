"""Task models as a user names them: from a folder with its tokenizer, and what a stage left there beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from ... import ConfigError, ModelError
from ...data import Tokenizer
from ...model import TaskModel, load_task_model, read_info
from ..storage.files import read_json
from ..training.device import choose_device

DEFAULT_ALPHA = 0.9
ModelLike = TaskModel | str | os.PathLike[str]
Split = Literal["punctuation", "whitespace"]


def open_model(
    model: ModelLike, tokenizer: Tokenizer | None = None, *, device: str = "auto"
) -> tuple[TaskModel, Tokenizer]:
    """A task model and its tokenizer, from a folder or as they are given, checked to fit.

    Raises:
        ConfigError: a model in memory without a tokenizer, or no such device.
        ModelError: a damaged folder, or a tokenizer with more ids than the model has embeddings.
    """
    if isinstance(model, TaskModel):
        if tokenizer is None:
            raise ConfigError("a model in memory needs tokenizer=...; give it, or the model's folder")
        name = "the model"
    else:
        name = os.fspath(model)
        target = choose_device(device)
        model = load_task_model(model).to(target)
        tokenizer = tokenizer or Tokenizer.from_folder(name)
    if misfit := tokenizer.misfit(model.config.vocab_size):
        raise ModelError(f"{name}: {misfit}")
    return model, tokenizer


def check_length(model: TaskModel, max_length: int | None) -> int:
    """The maximum length in tokens: as given, else all positions of the encoder.

    Raises:
        ConfigError: the encoder has fewer positions, or no room beside the special tokens is left.
    """
    positions = model.config.max_length
    if max_length is None:
        return positions
    if not 3 < max_length <= positions:
        raise ConfigError(
            f"max_length = {max_length}, but it must lie between 4 and the encoder's {positions} positions"
        )
    return max_length


def trained_length(folder: Path) -> int | None:
    """The maximum length that a stage folder was trained with; None for other model folders."""
    value = read_record(folder / "fingerprint.json").get("max_length")
    return value if isinstance(value, int) else None


def trained_split(folder: Path) -> Split:
    """How the recipe of a stage folder cut plain text into words; around punctuation for other model folders."""
    extra = read_info(folder).extra or {}
    return "whitespace" if extra.get("split") == "whitespace" else "punctuation"


def stored_alpha(folder: Path | None) -> tuple[float, str]:
    """The alpha that the stage in `folder` decided with, and the file that says so; 0.9 and "default" otherwise.

    Raises:
        ModelError: the file is damaged.
    """
    for name in ("stage.json", "decision.json") if folder is not None else ():
        assert folder is not None
        value = read_record(folder / name).get("alpha")
        if isinstance(value, int | float):
            return float(value), name
    return DEFAULT_ALPHA, "default"


def stored_prediction(folder: Path | None) -> str:
    """How the stage in `folder` was scored: "mean", "vote" or "first"; "mean" for other model folders.

    Raises:
        ModelError: the file is damaged.
    """
    value = None if folder is None else read_record(folder / "stage.json").get("prediction")
    return value if value in ("vote", "first") else "mean"


def read_record(path: Path) -> dict[str, Any]:
    """What a stage left in a JSON file beside its model; empty where there is none.

    Raises:
        ModelError: the file is damaged.
    """
    return read_json(path, ModelError, "copy the model folder again")
