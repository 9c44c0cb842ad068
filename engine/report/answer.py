"""Which model of a run to take for each target. No label of the target is read: a student is judged beside its teacher.

The last finished stage of self-training is the answer, unless its student has collapsed; then its teacher is, and so
on backwards to the model that the first round learned from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..storage.files import atomic_write_json, read_json, storage_errors
from ..storage.names import FINISHED, of_target, serves
from .stage_folders import run_stages
from .stage_table import SIDE_ARMS, Json

MIN_RATE = 0.1
"""A student names at least this much of what the teachers before it named (words as entities, in tagging)."""
MIN_AGREEMENT = 0.2
"""And says the same as its teacher on at least this share of what that one named."""
ONE_CLASS = 0.99
"""One class among so many of a student's labels is a collapse, where a teacher had ..."""
SEVERAL_CLASSES = 0.9
"""... no class with more than this share."""
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


def answers(run_folder: str | Path) -> dict[str, Answer]:
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
    sound, reason, seen, fell = chain[0], "", list[Json](), False
    for student in chain:
        stage, figures = student
        seen += [figures] if figures else []
        why = collapse(seen, fell) if figures else ""
        fell = bool(why)
        if fell:
            reason = reason or f"; {stage['label']} has collapsed: {why}"
        else:
            sound, reason = student, ""
    return sound[0], _merit(*sound) + reason


def _merit(stage: Json, figures: Json) -> str:
    if stage["arm"] != "selftrain":
        return f"{stage['label']}, what self-training starts from"
    agreement = figures.get("agreement")
    if agreement is None:
        return f"{stage['label']}, the last student"
    return (
        f"{stage['label']}, the last sound student: agrees with its teacher on {agreement:.0%} of what that one names"
    )


def collapse(figures: Sequence[Json], teacher_fell: bool) -> str:
    """How a student has collapsed, in words; empty where it has not.

    Args:
        figures: `against_teacher` of the students up to this one, at least one, in the order in which they learned.
        teacher_fell: whether its teacher had collapsed, with which it need not agree.
    """
    own, named = figures[-1], max(f["teacher_rate"] or 0.0 for f in figures)
    if (own["rate"] or 0.0) < MIN_RATE * named:
        return f"names {own['rate']:.1%} of the target's items, a teacher before it {named:.1%}"
    mixed = min(f["teacher_largest"] or 1.0 for f in figures)
    if (own["largest"] or 0.0) >= ONE_CLASS and mixed < SEVERAL_CLASSES:
        return f"one class has {own['largest']:.1%} of its labels, of a teacher's {mixed:.1%}"
    if own["agreement"] is not None and own["agreement"] < MIN_AGREEMENT and not teacher_fell:
        return f"agrees with its teacher on {own['agreement']:.1%} of what that one names"
    return ""


def link_models(folder: Path, chosen: Mapping[str, Answer]) -> None:
    """`models/<language>`, a relative link to each answer; `models/<language>.json` where links cannot be made.

    Raises:
        StorageError: the disk refuses.
    """
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
