"""summary.json: every score of a run in one file.

The fields, and what a stage folder must hold, are described in docs/summary-schema.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ... import DataError
from ...data import OUTSIDE
from ..evaluation.per_example import error_correlations
from ..storage.files import atomic_write_json, read_json
from ..storage.names import SCORES, SHOWN, of_target
from ..storage.stage_files import refuse_changed
from .answer import choose_models
from .stage_folders import failures, read_decision, run_stages
from .stage_table import MARKS, METRIC_NAMES, Json

SCHEMA_VERSION = 2
_OF_DECISION = ("alpha", "accepted", "accepted_entities", "removed")


def build_summary(folder: str | Path) -> Json:
    """The content of summary.json, gathered from `run.json` and the stage folders; writes nothing.

    Raises:
        DataError: the folder is not a run, one of its JSON files is damaged, or what a finished stage shows is not
            what it wrote.
    """
    folder = Path(folder)
    info = read_json(folder / "run.json")
    stages = run_stages(folder)
    if not info and not stages:
        raise DataError(f"{folder}: not a run folder (no run.json and no seed-* folder); give the folder of a run")
    rows: list[Json] = []
    records: dict[str, Json] = {}
    warnings = [dict(w) | {"folder": w.get("folder")} for w in info.get("warnings") or ()]
    for stage in stages:
        place = folder / stage["folder"]
        remedy = f"run the whole recipe again in this folder, which makes good what is damaged, or delete {place}"
        record = records[stage["folder"]] = refuse_changed(place, SHOWN, DataError, remedy)
        warnings += [dict(w) | {"folder": stage["folder"]} for w in record.get("warnings") or ()]
        extra = _decision_fields(folder, stage, stages)
        for score in read_json(place / SCORES, remedy=remedy).get("scores") or ():
            rows.append(_row(stage, record, score, of_target(extra, score["language"])))
    metrics = {r["metric"] for r in rows}
    targets = info.get("targets") or sorted({r["language"] for r in rows if r["role"] == "target"})
    return {
        "schema_version": SCHEMA_VERSION,
        "name": info.get("name") or folder.resolve().name,
        "task": info.get("task"),
        "metric": info.get("metric") or next((m for m in METRIC_NAMES if m in metrics), None),
        "created": info.get("created"),
        "source": info.get("source") or next((r["language"] for r in rows if r["role"] == "source"), None),
        "sources": info.get("sources") or [],
        "targets": targets,
        "seeds": info.get("seeds") or sorted({s["seed"] for s in stages}),
        "versions": info.get("versions") or {},
        "rows": rows,
        "stages": stages,
        "error_correlations": error_correlations(folder, stages, records, targets),
        "models": {
            language: {"stage": answer.stage, "reason": answer.reason}
            for language, answer in choose_models(folder, stages, targets).items()
        },
        "failed": failures(folder),
        "warnings": warnings,
    }


def refuse_damaged(folder: str | Path) -> None:
    """Raises what `build_summary` raises."""
    build_summary(folder)


def _row(stage: Json, record: Json, score: Json, extra: Json) -> Json:
    return {
        "arm": stage["arm"] or stage["stage"],
        **{key: stage[key] for key in ("stage", "label", "order", "round", "pair", "seed")},
        **{key: score.get(key) for key in ("language", "role", "metric", "value", "count")},
        **({"classes": score["classes"]} if "classes" in score else {}),
        **{key: extra[key] for key in _OF_DECISION},
        **{key: bool(record.get(key)) for key in MARKS},
        **{key: stage[key] for key in ("seconds", "cpu_seconds")},
        "model": stage["folder"],
    }


def _decision_fields(folder: Path, stage: Json, stages: Sequence[Json]) -> Json:
    """What a stage trained on: the threshold, the accepted labels and the source samples dropped so far.

    Of a stage for several targets also by target, under "targets".
    """
    empty: Json = dict.fromkeys(_OF_DECISION)
    if stage["kind"] == "cotrain" and (picks := read_json(folder / stage["folder"] / "picks.json")):
        return empty | {"alpha": picks.get("threshold"), "accepted": picks.get("labels")}
    if stage["kind"] != "hard":
        return empty
    rounds: dict[int, Json] = {}
    for s in stages:
        before = (s["seed"], s["pair"]) == (stage["seed"], stage["pair"]) and s["order"] <= stage["order"]
        if before and (decision := read_decision(folder / s["folder"], "")):
            rounds[s["round"]] = decision
    if not rounds:
        return empty
    last = rounds[max(rounds)]
    removed = sum((d.get("source") or {}).get("removed") or 0 for d in rounds.values())

    def learned(decision: Json) -> Json:
        classes = decision.get("classes") or {}
        entities = sum(c["accepted"] for name, c in classes.items() if name != OUTSIDE) if OUTSIDE in classes else None
        accepted = {k: decision.get(k) for k in ("alpha", "accepted")}
        return accepted | {"accepted_entities": entities, "removed": removed}

    return learned(last) | {"targets": {target: learned(of_target(last, target)) for target in last.get("targets", ())}}


def write_summary(folder: str | Path) -> Json:
    """Build summary.json, write it into the run folder, and return its content."""
    atomic_write_json(Path(folder) / "summary.json", build_summary(folder), indent=1)
    return read_json(Path(folder) / "summary.json")
