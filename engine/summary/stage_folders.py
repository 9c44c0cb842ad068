"""The stages that lie in a run folder, and those that failed."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from ... import DataError
from ..storage.files import read_json
from ..storage.names import FAILED, FINISHED, IF_GOLD, SCORES, of_target
from ..storage.stage_files import paths_below, weights_hash
from .stage_table import Json

_MARKS = ("stage.json", "fingerprint.json", "scores.json", "trace.json", "decision.json", "xlt.json", "checkpoint")
_IF_GOLD = ("target_curve", "precision_if_gold", "classes_if_gold", "by_threshold_if_gold")


def find_stages(folder: Path) -> list[Json]:
    """The stage folders of a run in pipeline order, as described under `stages` in docs/summary-schema.md.

    Raises:
        DataError: a JSON file is damaged, or a finished stage does not say who it is.
    """
    plan = read_json(folder / "run.json").get("plan") or {}
    stages = []
    for path in (path for seed in sorted(folder.glob("seed-*")) for path in paths_below(seed) if path.is_dir()):
        seed, *between, name = path.relative_to(folder).parts
        number, pair = seed.removeprefix("seed-"), between[0] if between else None
        deep = len(between) > 1
        if number.isdigit() and not deep and (_has_marks(path) if pair is None else not _has_marks(path.parent)):
            stages.append(_stage(folder, path, int(number), pair, plan))
    return sorted(stages, key=lambda s: (s["order"], s["pair"] or "", s["seed"]))


def _has_marks(folder: Path) -> bool:
    """Whether a folder below that of a seed is a stage, not a target's."""
    return any((folder / mark).exists() for mark in _MARKS)


def _stage(run: Path, folder: Path, seed: int, pair: str | None, plan: Json) -> Json:
    """What the plan of the run says of a stage, else what the stage itself does, which may be of an earlier plan."""
    name, path = folder.name, folder.relative_to(run).as_posix()
    record, finished = read_json(folder / "stage.json"), (folder / "stage.json").exists()
    identity = plan.get(path) or record
    if finished and "order" not in identity:
        raise DataError(
            f"{folder / 'stage.json'}:1: no `order`, as an earlier version wrote it; run the recipe again in this "
            "folder, which trains nothing anew and writes down who each stage is"
        )
    result: Json = {"arm": None, "stage": name, "kind": name, "order": 1000, "seed": seed, "pair": pair, "round": 0}
    result |= {"label": identity.get("stage", name)}
    result |= {"action": identity.get("label", result["label"])}
    result |= {key: identity[key] for key in result if key in identity}
    result |= {"folder": path} | {key: record.get(key) for key in ("seconds", "cpu_seconds", "steps", "tokens")}
    return result | {"finished": finished}


def run_stages(folder: Path) -> list[Json]:
    """The stages of the run's recipe, as `find_stages` has them.

    What the recipe has no longer stays on disk and is left out, as is what an earlier run made of a stage that this one
    could not come to, since one before it failed.
    """
    info = read_json(folder / "run.json")
    planned, seeds = info.get("stages"), info.get("seeds") or ()
    stale = {stage for failure in failures(folder) for stage in failure["left_out"]}
    stages = [s for s in find_stages(folder) if s["folder"] not in stale]
    return [s for s in stages if planned is None or s["seed"] not in seeds or s["folder"] in planned]


def read_decision(folder: Path, target: str) -> Json:
    """What a stage's folder says of its decision on a target's text, and on its test file of now; empty without one.

    The one way to read `decision.json` for looking at: what depends on a test file is renewed with the scores, and
    stands beside them. What a decision of before has of it is left out.
    """
    record = of_target(read_json(folder / "decision.json"), target)
    if not record:
        return {}
    known = (read_json(folder / SCORES).get(IF_GOLD) or {}).get(target) or dict.fromkeys(_IF_GOLD)
    bins = (record.get("calibration") or {}) | {"target": known.get("calibration")}
    return record | known | {"calibration": bins}


def made_from(folder: Path) -> dict[str, str]:
    """Finished stage -> digest of what it is now: its fingerprint, its weights, and what it was scored on.

    What is worked out from a run's stages keeps this, and is of the run for as long as nothing in it differs.
    """
    records = {s["folder"]: read_json(folder / s["folder"] / FINISHED) for s in run_stages(folder) if s["finished"]}
    parts = {stage: [r.get("fingerprint"), weights_hash(r), r.get("scored_on")] for stage, r in records.items()}
    return {s: sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16] for s, part in parts.items()}


def failures(folder: Path) -> list[Json]:
    """The stages that failed while the run went on: `folder`, `reason`, `exit_code`, `left_out` (what needed it)."""
    return list(read_json(folder / FAILED).get("failed") or ())
