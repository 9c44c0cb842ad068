"""Which model of a run to take for each target. No label of the target is read: a student is judged beside its teacher.

The last finished stage of self-training is the answer, unless its student has collapsed (`evaluation/collapse.py`);
then its teacher is, and so on backwards to the model that the first round learned from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import ConfigError
from ..evaluation.collapse import collapses
from ..storage.files import atomic_write_json, read_json, storage_errors
from ..storage.names import FINISHED, of_target, serves
from .stage_folders import run_stages
from .stage_table import SIDE_ARMS, Json

MODELS = "models"


@dataclass(frozen=True)
class Answer:
    """The model for a target.

    Attributes:
        stage: its id, such as "seed-0/de/hard2".
        folder: where it lies.
        reason: why this one, for a person.
    """

    stage: str
    folder: Path
    reason: str


def answers(run_folder: str | os.PathLike[str]) -> dict[str, Answer]:
    """The model for each target of a run; none for a target without a finished stage that labels its text.

    Raises:
        DataError: one of the run's JSON files is damaged.
    """
    folder = Path(run_folder)
    return choose_models(folder, run_stages(folder), read_json(folder / "run.json").get("targets") or [])


def choose_models(folder: Path, stages: Sequence[Json], targets: Sequence[str]) -> dict[str, Answer]:
    """As `answers`, from the stages of the run (`run_stages`)."""
    chosen: dict[str, Answer] = {}
    for target in targets:
        trail = [
            s for s in stages if s["finished"] and s["arm"] not in (None, *SIDE_ARMS) and serves(s["pair"], target)
        ]
        seeds = sorted({s["seed"] for s in trail})
        ends = [_sound(folder, [s for s in trail if s["seed"] == seed], target) for seed in seeds]
        if not ends:
            continue
        stage, reason = max(ends, key=lambda end: end[0]["order"])  # the first of equal ones
        if len(seeds) > 1:
            reason += f". Of {len(seeds)} seeds the first that came as far: only labels could tell them apart"
        chosen[target] = Answer(stage["folder"], folder / stage["folder"], reason)
    return chosen


def _sound(folder: Path, trail: Sequence[Json], target: str) -> tuple[Json, str]:
    """The last stage of one seed and target that has not collapsed, and why it is the one."""
    by_id = {stage["folder"]: stage for stage in trail}
    chain: list[tuple[Json, Json]] = []
    stage: Json | None = trail[-1]
    while stage is not None:
        record = read_json(folder / stage["folder"] / FINISHED)
        chain.insert(0, (stage, of_target(record.get("against_teacher") or {}, target)))
        stage = by_id.get((record.get("inputs") or {}).get("teacher", ""))
    found = collapses(chain[0][0]["label"], [figures for _, figures in chain[1:]])
    if found[0]:
        first = chain[0][0]
        return first, f"no model is sound, and no student is handed out; {first['label']}: {found[0]}"
    last = max(i for i, why in enumerate(found) if not why)
    fallen = found[last + 1 :]
    reason = f"; {chain[last + 1][0]['label']} has collapsed: {fallen[0]}" if fallen else ""
    return chain[last][0], _merit(*chain[last]) + reason


def _merit(stage: Json, figures: Json) -> str:
    if stage["arm"] != "selftrain":
        return f"{stage['label']}, what self-training starts from"
    beside = figures.get("last_sound")
    agreement, whom = (figures, "its teacher") if beside is None else (beside, beside["stage"].rpartition("/")[2])
    if agreement.get("agreement") is None:
        return f"{stage['label']}, the last student"
    share = f"{agreement['agreement']:.0%} of what that one names"
    return f"{stage['label']}, the last sound student: agrees with {whom} on {share}"


def link_models(folder: Path, chosen: Mapping[str, Answer]) -> None:
    """`models/<language>`, a relative link to each answer; `models/<language>.json` where links cannot be made."""
    place = folder / MODELS
    with storage_errors(place):
        place.mkdir(exist_ok=True)
        for old in place.iterdir():
            if old.is_symlink() or old.suffix == ".json":
                old.unlink()
    for language, answer in chosen.items():
        path = os.path.relpath(answer.folder, place)
        try:
            (place / language).symlink_to(path, target_is_directory=True)
        except OSError:
            atomic_write_json(place / f"{language}.json", {"model": path})


def command(folder: str | Path, language: str, answer: Answer) -> str:
    """The command that labels text with the answer."""
    link = Path(folder) / MODELS / language
    return f"xlt-engine predict {link if link.is_symlink() else answer.folder} new.txt"


def chosen_model(run: str | Path, language: str) -> Path:
    """The folder of a run's model for a target language, as the end of the run names it (`answers`).

    Raises:
        ConfigError: the folder is no run, or has no finished model for the language.
    """
    chosen = answers(run)
    if not chosen:
        raise ConfigError(f"{run}: is not the folder of a run with finished models; a language chooses among those")
    if language not in chosen:
        raise ConfigError(f"{run}: no finished model for {language!r}; there are {_listed(chosen, run)}")
    return chosen[language].folder


def refuse_run(folder: str | os.PathLike[str]) -> None:
    """Raises a ConfigError that lists the models of a run, where one of them is asked for and the run was given."""
    chosen = {} if (Path(folder) / "config.json").exists() else answers(folder)
    if chosen:
        listed = _listed(chosen, folder)
        raise ConfigError(f"{folder}: is a run with models for {listed}; give one of them, or predict with --language")


def _listed(chosen: Mapping[str, Answer], run: str | os.PathLike[str]) -> str:
    return ", ".join(f"{language} ({answer.folder.relative_to(run)})" for language, answer in chosen.items())
