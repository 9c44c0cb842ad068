"""Which of the models of a run is the one to use for a target language: the run's own answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ... import ConfigError
from ..summary.answer import Answer, answers


def chosen_model(run: str | Path, language: str) -> Path:
    """The folder of a run's model for a target language, as the end of the run names it (`report.answer`).

    Raises:
        ConfigError: the folder is no run, or has no finished model for the language.
    """
    chosen = _answers(Path(run))
    if not chosen:
        raise ConfigError(f"{run}: is not the folder of a run with finished models; a language chooses among those")
    if language not in chosen:
        raise ConfigError(f"{run}: no finished model for {language!r}; there are {_listed(chosen, run)}")
    return chosen[language].folder


def refuse_run(folder: str | os.PathLike[str]) -> None:
    """Raises a ConfigError that lists the models of a run, where one of them is asked for and the run was given."""
    chosen = {} if (Path(folder) / "config.json").exists() else _answers(Path(folder))
    if chosen:
        listed = _listed(chosen, folder)
        raise ConfigError(f"{folder}: is a run with models for {listed}; give one of them, or predict with --language")


def _answers(folder: Path) -> dict[str, Answer]:
    return answers(folder) if (folder / "run.json").exists() else {}


def _listed(chosen: Mapping[str, Answer], run: str | os.PathLike[str]) -> str:
    return ", ".join(f"{language} ({answer.folder.relative_to(run)})" for language, answer in chosen.items())
