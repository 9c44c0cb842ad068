"""summary.json: every score of a run in one file.

The fields, and what a stage folder must hold, are described in docs/summary-schema.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ... import DataError
from ...data import OUTSIDE
from ..evaluation.error_correlation import error_correlations
from ..storage.files import atomic_write_json, read_json
from .stage_table import METRIC_NAMES, Json

SCHEMA_VERSION = 1
TRANSLATE_TEST, TRANSLATED = "translate-test", " (translated)"
"""Role and suffix of a language, where the zero-shot model is scored on its test texts in the source language."""

_MARKS = ("stage.json", "fingerprint.json", "scores.json", "trace.json", "decision.json", "xlt.json", "checkpoint")


def find_stages(folder: Path) -> list[Json]:
    """The stage folders of a run in pipeline order, as described under `stages` in docs/summary-schema.md.

    Raises:
        DataError: a JSON file is damaged, or a finished stage does not say who it is.
    """
    plan = read_json(folder / "run.json").get("plan") or {}
    stages = []
    for path in sorted([*folder.glob("seed-*/*/"), *folder.glob("seed-*/*/*/")]):
        seed, *between, name = path.relative_to(folder).parts
        number, pair = seed.removeprefix("seed-"), between[0] if between else None
        hidden = any(part.startswith(".") for part in (*between, name))
        if number.isdigit() and not hidden and (_has_marks(path) if pair is None else not _has_marks(path.parent)):
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


def build_summary(folder: str | Path) -> Json:
    """The content of summary.json, gathered from `run.json` and the stage folders; writes nothing.

    Raises:
        DataError: the folder is not a run, or one of its JSON files is damaged.
    """
    folder = Path(folder)
    info = read_json(folder / "run.json")
    stages = find_stages(folder)
    if not info and not stages:
        raise DataError(f"{folder}: not a run folder (no run.json and no seed-* folder); give the folder of a run")
    # Folders of stages that the recipe has no longer stay on disk, and out of the summary.
    planned, seeds = info.get("stages"), info.get("seeds") or ()
    if planned is not None:
        stages = [s for s in stages if s["seed"] not in seeds or s["folder"] in planned]
    rows: list[Json] = []
    records: dict[str, Json] = {}
    warnings = [dict(w) | {"folder": w.get("folder")} for w in info.get("warnings") or ()]
    for stage in stages:
        record = records[stage["folder"]] = read_json(folder / stage["folder"] / "stage.json")
        warnings += [dict(w) | {"folder": stage["folder"]} for w in record.get("warnings") or ()]
        extra = _decision_fields(folder, stage, stages)
        for score in read_json(folder / stage["folder"] / "scores.json").get("scores") or ():
            translated = score.get("role") == TRANSLATE_TEST
            parts: tuple[Json, Json, Json] = stage, record, score
            rows.append(_row(*(_translated(*parts) if translated else parts), extra))
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
        "warnings": warnings,
    }


def _row(stage: Json, record: Json, score: Json, extra: Json) -> Json:
    return {
        "arm": stage["arm"] or stage["stage"],
        **{key: stage[key] for key in ("stage", "label", "order", "round", "pair", "seed")},
        **{key: score.get(key) for key in ("language", "role", "metric", "value", "count")},
        **({"classes": score["classes"]} if "classes" in score else {}),
        **extra,
        **{key: bool(record.get(key)) for key in ("uses_parallel_data", "uses_target_labels", "uses_dictionary")},
        **{key: stage[key] for key in ("seconds", "cpu_seconds")},
        "model": stage["folder"],
    }


def _translated(stage: Json, record: Json, score: Json) -> tuple[Json, Json, Json]:
    """The score of a translate-test is one of an arm of its own, though no stage trained for it."""
    names = dict.fromkeys(("arm", "stage", "label"), TRANSLATE_TEST)
    target = {"language": str(score["language"]).removesuffix(TRANSLATED), "role": "target"}
    return stage | names | {"order": stage["order"] + 1}, record | {"uses_parallel_data": True}, score | target


def _decision_fields(folder: Path, stage: Json, stages: Sequence[Json]) -> Json:
    """What a stage trained on: the threshold, the accepted labels and the source samples dropped so far."""
    empty: Json = {"alpha": None, "accepted": None, "accepted_entities": None, "removed": None}
    if stage["kind"] == "cotrain" and (picks := read_json(folder / stage["folder"] / "picks.json")):
        return empty | {"alpha": picks.get("threshold"), "accepted": picks.get("labels")}
    if stage["kind"] != "hard":
        return empty
    rounds: dict[int, Json] = {}
    for s in stages:
        before = (s["seed"], s["pair"]) == (stage["seed"], stage["pair"]) and s["order"] <= stage["order"]
        if before and (decision := read_json(folder / s["folder"] / "decision.json")):
            rounds[s["round"]] = decision
    if not rounds:
        return empty
    last = rounds[max(rounds)]
    removed = sum((d.get("source") or {}).get("removed") or 0 for d in rounds.values())
    classes = last.get("classes") or {}
    entities = sum(c["accepted"] for name, c in classes.items() if name != OUTSIDE) if OUTSIDE in classes else None
    return {k: last.get(k) for k in ("alpha", "accepted")} | {"accepted_entities": entities, "removed": removed}


def write_summary(folder: str | Path) -> Json:
    """Build summary.json, write it into the run folder, and return its content."""
    atomic_write_json(Path(folder) / "summary.json", build_summary(folder), indent=1)
    return read_json(Path(folder) / "summary.json")
