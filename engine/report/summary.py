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
from .stage_table import METRIC_NAMES, Json, aggregate, stage_table

__all__ = ["aggregate", "build_summary", "find_stages", "stage_table", "write_summary"]

SCHEMA_VERSION = 1
TRANSLATE_TEST, TRANSLATED = "translate-test", " (translated)"
"""Role and suffix of a language, where the zero-shot model is scored on its test texts in the source language."""

IDENTITY = ("arm", "stage", "kind", "order", "seed", "pair", "round", "label", "action")
"""Keys of an entry of `stages` that say who a stage is, from the plan's own record of it."""
_MARKS = ("stage.json", "fingerprint.json", "scores.json", "trace.json", "decision.json", "xlt.json", "checkpoint")


def find_stages(folder: Path) -> list[Json]:
    """The stage folders of a run in pipeline order, as described under `stages` in docs/summary-schema.md.

    Raises:
        DataError: a JSON file is damaged, or a finished stage does not say who it is.
    """
    plan = read_json(folder / "run.json").get("plan") or {}
    stages = []
    for seed_dir in sorted(folder.glob("seed-*")):
        number = seed_dir.name.removeprefix("seed-")
        if not (seed_dir.is_dir() and number.isdigit()):
            continue
        for child in _folders(seed_dir):
            if any((child / mark).exists() for mark in _MARKS):
                stages.append(_stage(folder, child, int(number), None, plan))
                continue
            for stage in _folders(child):
                stages.append(_stage(folder, stage, int(number), child.name, plan))
    return sorted(stages, key=lambda s: (s["order"], s["pair"] or "", s["seed"]))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


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
    result |= {key: identity[key] for key in IDENTITY if key in identity}
    result |= {"folder": path}
    result |= {key: record.get(key) for key in ("seconds", "cpu_seconds", "steps", "tokens")}
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
        own = records[stage["folder"]] = read_json(folder / stage["folder"] / "stage.json")
        warnings += [dict(w) | {"folder": stage["folder"]} for w in own.get("warnings") or ()]
        scores = read_json(folder / stage["folder"] / "scores.json").get("scores") or ()
        extra = _decision_fields(folder, stage, stages)
        for score in scores:
            rows.append(_translated_row(stage, own, score, extra) or _row(stage, own, score, extra))
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


def _row(stage: Json, own: Json, score: Json, extra: Json) -> Json:
    return {
        "arm": stage["arm"] or stage["stage"],
        **{key: stage[key] for key in ("stage", "label", "order", "round", "pair", "seed")},
        **{key: score.get(key) for key in ("language", "role", "metric", "value", "count")},
        **({"classes": score["classes"]} if "classes" in score else {}),
        **extra,
        "uses_parallel_data": bool(own.get("uses_parallel_data", False)),
        "uses_target_labels": bool(own.get("uses_target_labels", False)),
        "uses_dictionary": bool(own.get("uses_dictionary", False)),
        "seconds": stage["seconds"],
        "cpu_seconds": stage["cpu_seconds"],
        "model": stage["folder"],
    }


def _translated_row(stage: Json, own: Json, score: Json, extra: Json) -> Json | None:
    """The row of a translate-test: of an arm of its own, though no stage trained for it. None for other scores."""
    if score.get("role") != TRANSLATE_TEST:
        return None
    given = score | {"language": str(score["language"]).removesuffix(TRANSLATED), "role": "target"}
    names = {"arm": TRANSLATE_TEST, "stage": TRANSLATE_TEST, "label": TRANSLATE_TEST}
    named = stage | names | {"order": stage["order"] + 1}
    return _row(named, own | {"uses_parallel_data": True}, given, extra)


def _decision_fields(folder: Path, stage: Json, stages: Sequence[Json]) -> Json:
    """What a stage trained on: the threshold, the accepted labels and the source samples dropped so far."""
    empty: Json = {"alpha": None, "accepted": None, "accepted_entities": None, "removed": None}
    if stage["kind"] == "cotrain" and (picks := read_json(folder / stage["folder"] / "picks.json")):
        return empty | {"alpha": picks.get("threshold"), "accepted": picks.get("labels")}
    if stage["kind"] != "hard":
        return empty
    same = [s for s in stages if (s["seed"], s["pair"]) == (stage["seed"], stage["pair"])]
    rounds: dict[int, Json] = {}
    for s in same:
        if s["order"] <= stage["order"] and (decision := read_json(folder / s["folder"] / "decision.json")):
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
