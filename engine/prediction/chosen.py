"""Which of the models of a run is the one to use for a target language."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import ConfigError
from ..storage.files import read_json
from ..storage.names import FINISHED

_SELF_TRAINED = ("soft", "hard")


def chosen_model(run: str | Path, language: str) -> Path:
    """The folder of a run's model for a target language.

    The last finished self-trained stage of the language; in a run without one the last model that was made for it, or
    else for all languages. Of several seeds the lowest.

    Raises:
        ConfigError: the folder is no run, or has no finished model for the language.
    """
    chosen = _chosen(Path(run))
    if not chosen:
        raise ConfigError(f"{run}: is not the folder of a run with finished models; a language chooses among those")
    if language not in chosen:
        raise ConfigError(f"{run}: no finished model for {language!r}; there are {_listed(chosen, run)}")
    return chosen[language]


def refuse_run(folder: str | os.PathLike[str]) -> None:
    """Raises a ConfigError that lists the models of a run, where one of them is asked for and the run was given."""
    chosen = {} if (Path(folder) / "config.json").exists() else _chosen(Path(folder))
    if chosen:
        listed = _listed(chosen, folder)
        raise ConfigError(f"{folder}: is a run with models for {listed}; give one of them, or predict with --language")


def _listed(chosen: Mapping[str, Path], run: str | os.PathLike[str]) -> str:
    return ", ".join(f"{language} ({model.relative_to(run)})" for language, model in chosen.items())


def _chosen(run: Path) -> dict[str, Path]:
    """Target language -> the model to use."""
    models = _models(run)
    languages = dict.fromkeys(str(record["pair"]) for record in models.values() if record.get("pair"))
    languages |= dict.fromkeys(read_json(run / "summary.json", None).get("targets") or ())
    chosen = {}
    for language in languages:
        usable = [folder for folder, record in models.items() if record.get("pair") in (language, None)]
        if usable:
            chosen[language] = max(usable, key=lambda folder: _rank(models[folder]))
    return chosen


def _models(run: Path) -> dict[Path, dict[str, Any]]:
    """The folders of the finished stages that have a model for the task, with what each says of itself."""
    records = {path.parent: read_json(path, None) for path in sorted(run.glob(f"seed-*/**/{FINISHED}"))}
    return {folder: record for folder, record in records.items() if record.get("arm")}


def _rank(record: dict[str, Any]) -> tuple[bool, bool, int, int]:
    last = record.get("kind") in _SELF_TRAINED, bool(record.get("pair")), int(record.get("order") or 0)
    return *last, -int(record.get("seed") or 0)
