"""What has become of a run's finished stages since they were made: found before anything reads them, and made good.

Scores that are damaged are made again from the model; a stage with any other damage is made anew, from its inputs, to
the same bits, so that what learned from it stays. Where the bits are others after all, as on another machine, the
stages that learned from the old ones are made anew, too: each knows the weights of its inputs (`inputs_sha256`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..plan import Stage
from ..stages.context import Context
from ..storage.files import delete, read_json, write_sealed_json
from ..storage.names import FINISHED, OF_SCORING, STAMP
from ..storage.run_folder import RunDir
from ..storage.run_warning import RunWarning
from ..storage.stage_files import damage, paths_below, stage_damage, weights_hash

INPUTS = "inputs_sha256"
"""In `stage.json`: the hash of the weights of each stage that this one was made from."""
_COURSE = ("begin", "end", "reuse")
"""Events of a stage's beginning and end."""


def set_damage_aside(context: Context, plan: Sequence[Stage]) -> dict[str, dict[str, Any]]:
    """Compares every file of the plan's finished stages with the hash of when it was made; what is damaged goes.

    Returns: stage id -> the warning to give when the stage's turn comes.

    Raises:
        ModelError: a stage must be made anew, and the model that it starts from cannot be loaded; nothing goes.
    """
    warnings, ended = dict[str, RunWarning](), ended_stages(context.run_dir)
    for stage in plan:
        context.poll()
        folder = context.folder(stage.id)
        problems = stage_damage(folder) if stage.id in ended else {}
        if not problems:
            continue
        text = ", ".join(f"{name} {problem}" for name, problem in sorted(problems.items()))
        warnings[stage.id] = damage("stage-damaged", f"{stage.id}: {text}; {remedy(problems)}", problems)
        context.run_dir.event("damaged", stage=stage.id, files=problems)
        if problems.keys() <= {*OF_SCORING}:
            _forget_scores(folder)
        elif problems.keys() != {STAMP}:
            context.of_stage(stage).check_base(stage)
            delete(folder)
    return {stage: warning.as_dict() for stage, warning in warnings.items()}


def _forget_scores(folder: Path) -> None:
    """Leaves a stage that was never scored, which `begin_stage` then does."""
    record = read_json(folder / FINISHED)
    hashes = {name: value for name, value in record["hashes"].items() if name not in OF_SCORING}
    for name in OF_SCORING:  # first: killed in between, the next start finds them missing
        delete(folder / name)
    write_sealed_json(folder / FINISHED, record | {"hashes": hashes, "scored_on": {}})


def remedy(problems: Iterable[str]) -> str:
    """What a run does about these files of a stage."""
    if set(problems) <= {*OF_SCORING}:
        return "the stage is scored again"
    return "it is written again" if set(problems) == {STAMP} else "the stage is made anew"


def ended_stages(home: RunDir) -> list[str]:
    """The ids of stages that have ended: their `stage.json` is there, or the log says that it was."""
    events = [event for event in home.events() if isinstance(event, dict) and event.get("kind") in _COURSE]
    last = {str(event.get("stage")): event["kind"] for event in events}
    logged = [stage for stage, kind in last.items() if kind != "begin" and (home.path / stage).is_dir()]
    there = [path.parent.relative_to(home.path).as_posix() for path in paths_below(home.path, FINISHED)]
    return sorted(stage for stage in {*logged, *there} if stage.startswith("seed-") and "/." not in stage)


def other_inputs(home: Path, record: Mapping[str, Any]) -> list[str]:
    """The inputs of a finished stage whose weights are not those that it was made from; of its `stage.json`."""
    before = {} if "reused_from" in record else record.get(INPUTS) or {}
    now = weights_of(home, list(before))
    return sorted(name for name in now if before[name] != now[name])


def weights_of(home: Path, stages: Sequence[str]) -> dict[str, str]:
    """Stage id -> the hash of its weights, of stages that are finished."""
    records = {stage: read_json(home / stage / FINISHED, None) for stage in stages}
    return {stage: value for stage, record in records.items() if (value := weights_hash(record))}
