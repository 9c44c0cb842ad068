"""ablation.json: the scores of all rows, and how each compares with its group's reference (docs/laboratory.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...evaluation.per_example import load_items
from ...report.seeds import Stat, compare, draw_seed, over_targets, scores_on_draws, stat
from ...report.stage_table import per_seed, step_between
from ...runs.stage_cache import finished_record
from ...storage.files import plain, read_json
from ...storage.run_folder import environment
from ..paper.values import AVERAGE, domain_of, notes, printed
from .rows import Group
from .survey import Ablation, RowPlan

Json = dict[str, Any]
SCHEMA_VERSION = 1
Cell = tuple[str, int]
"""Target and seed."""


@dataclass
class Scored:
    """The reported scores of one row.

    Attributes:
        values: (target, seed) -> points; `source` likewise, of the same models on the source.
        items: (target, seed) -> test items, where they are kept.
        tests: (target, seed) -> hash of the test set.
        stages: ids of the reported stages.
        spent: stage key -> seconds, of all that the reported stages stand on.
        marks: what was used, of "parallel data" and "target labels".
    """

    values: dict[Cell, float] = field(default_factory=dict)
    source: dict[Cell, float] = field(default_factory=dict)
    items: dict[Cell, NDArray[Any]] = field(default_factory=dict)
    tests: dict[Cell, str] = field(default_factory=dict)
    stages: set[str] = field(default_factory=set)
    spent: dict[tuple[str, str], float] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)


def read_row(plan: RowPlan, folder: Path, metric: str, targets: Sequence[str], seeds: Sequence[int]) -> Scored:
    """What a row's run folder has by now; stages that are not finished, or outdated, are left out."""
    found = Scored()
    for target in targets:
        for seed in seeds:
            stage, cell = plan.scored(target, seed), (target, seed)
            record = finished_record(folder / stage, plan.tables[stage])
            if record is None:
                continue
            found.stages.add(stage)
            for score in read_json(folder / stage / "scores.json").get("scores") or ():
                if score["metric"] == metric and score["language"] == target:
                    found.values[cell] = score["value"]
                elif score["metric"] == metric and score["role"] == "source":
                    found.source[cell] = score["value"]
            if (items := load_items(folder / stage).get(target)) is not None:
                found.items[cell] = items
            found.tests[cell] = str((record.get("scored_on") or {}).get(target))
            _look_back(plan, folder, stage, found)
    return found


def _look_back(plan: RowPlan, folder: Path, stage: str, found: Scored) -> None:
    """Seconds and marks of all that a stage stands on."""
    for other in plan.lineage(stage):
        record = read_json(folder / other / "stage.json")
        found.spent[plan.key(other)] = float(record.get("seconds") or 0.0)
        found.marks |= {mark for mark in ("parallel_data", "target_labels") if record.get(f"uses_{mark}")}


def build(
    ablation: Ablation,
    plans: Sequence[RowPlan],
    folder_of: Callable[[str], Path],
    errors: dict[str, str],
    *,
    samples: int,
) -> Json:
    """The content of ablation.json, from the rows' run folders."""
    config = plans[0].config
    targets, seeds = [t.language for t in config.targets], list(ablation.seeds)
    metric = "entity_f1" if config.task == "ner" else "accuracy"
    scored = {p.row.name: read_row(p, folder_of(p.row.name), metric, targets, seeds) for p in plans}
    draws = _draws(scored, targets, samples)
    seen: set[tuple[str, str]] = set()
    rows = []
    for plan in plans:
        own = scored[plan.row.name]
        new = sum(seconds for key, seconds in own.spent.items() if key not in seen)
        seen |= own.spent.keys()
        rows.append(_row(plan, own, targets, new / len(seeds), len(seeds), errors.get(plan.row.name)))
    comparisons = [
        _comparison(group, name, scored, targets, draws)
        for group in ablation.choice.groups
        for name in group.rows
        if name != group.reference
    ]
    return plain(  # type: ignore[no-any-return]
        {
            "schema_version": SCHEMA_VERSION,
            "name": config.title,
            "task": config.task,
            "metric": metric,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "source": config.source.language,
            "targets": targets,
            "seeds": seeds,
            "versions": environment()["versions"],
            "bootstrap": {"samples": samples, "level": 0.95, "items": "sentences" if config.task == "ner" else "texts"},
            "groups": [asdict(group) for group in ablation.choice.groups],
            "left_out": ablation.choice.left_out,
            "rows": rows,
            "comparisons": comparisons,
            "paper_notes": notes(config.name, [p.row.name for p in plans]),
        }
    )


def _row(plan: RowPlan, own: Scored, targets: Sequence[str], new: float, seeds: int, error: str | None) -> Json:
    per_target = {t: found for t in targets if (found := stat(v for k, v in sorted(own.values.items()) if k[0] == t))}
    return {
        "name": plan.row.name,
        "label": plan.row.label,
        "meaning": plan.row.meaning,
        "overrides": plan.overrides,
        "folder": f"rows/{plan.row.name}",
        "stages": sorted(own.stages),
        "values": {t: {str(s): v for (other, s), v in sorted(own.values.items()) if other == t} for t in targets},
        "targets": {t: _stat(s) for t, s in per_target.items()},
        "average": _stat(stat(per_seed(own.values, targets).values())),
        "source": _stat(stat(per_seed(own.source, targets).values())),
        "seconds": sum(own.spent.values()) / seeds,
        "seconds_new": new,
        "uses_parallel_data": "parallel_data" in own.marks,
        "uses_target_labels": "target_labels" in own.marks,
        "paper": printed(plan.config.name, plan.row.name, domain_of(plan.config)),
        "error": error,
    }


def _stat(found: Stat | None) -> Json | None:
    return None if found is None else {"mean": found.mean, "std": found.std, "n": found.n}


Draws = dict[str, dict[tuple[str, int], NDArray[Any]]]


def _draws(scored: dict[str, Scored], targets: Sequence[str], samples: int) -> Draws:
    """Target -> (row, seed) -> the score on every draw, for the models that were scored on the same test set."""
    found: Draws = {}
    for target in targets:
        tests = [s.tests[c] for s in scored.values() for c in s.items if c[0] == target]
        same = max(tests, key=tests.count, default="")
        items = {
            (name, cell[1]): rows
            for name, own in scored.items()
            for cell, rows in own.items.items()
            if cell[0] == target and own.tests[cell] == same and len(rows)
        }
        found[target] = scores_on_draws(items, samples=samples, seed=draw_seed(target)) if items else {}
    return found


def _comparison(group: Group, name: str, scored: dict[str, Scored], targets: Sequence[str], draws: Draws) -> Json:
    """A row against its group's reference: paired over targets and seeds, and over test items."""
    row, reference = scored[name], scored[group.reference]
    parts = {}
    for target in targets:
        seeds = [s for r, s in draws[target] if r == name and (group.reference, s) in draws[target]]
        if seeds:
            cells = [(target, seed) for seed in seeds]
            own, other = ([draws[target][r, s] for s in seeds] for r in (name, group.reference))
            parts[target] = compare([row.items[c] for c in cells], [reference.items[c] for c in cells], own, other)
    bootstrap = {target: asdict(over_targets([part])) for target, part in parts.items()}
    if len(parts) == len(targets):
        bootstrap[AVERAGE] = asdict(over_targets(list(parts.values())))
    steps = {t: step_between(row.values, reference.values, group.reference, t) for t in targets}
    steps[AVERAGE] = step_between(row.values, reference.values, group.reference)
    return {
        "group": group.name,
        "row": name,
        "reference": group.reference,
        "differences": {t: {**(_stat(s.stat) or {}), "up": s.up} for t, s in steps.items() if s},
        "bootstrap": bootstrap,
    }
