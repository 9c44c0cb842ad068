"""ablation.json: the scores of all rows, and how each compares with its group's reference (docs/laboratory.md)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ....tasks import per_word, task_of
from ...evaluation.per_example import load_items
from ...report.seeds import compare, draw_seed, over_targets, scores_on_draws, stat
from ...report.stage_table import Cells, per_seed, step_between
from ...runs.stage_state import finished_record
from ...storage.files import plain, read_json
from ...storage.run_folder import environment
from ..paper.printed import AVERAGE, domain_of, notes, printed
from ..score_tables import Json, stat_values, step_values
from .row_plans import Ablation, Key, RowPlan
from .rows import Group

SCHEMA_VERSION = 1
MARKS = ("parallel_data", "target_labels")
Draws = dict[str, dict[tuple[str, int], NDArray[Any]]]
"""Target -> (row, seed) -> the score on every draw of the test items."""


@dataclass
class Scored:
    """The reported scores of one row.

    Attributes:
        values: (target, seed) -> points; `source` likewise, of the same models on the source.
        items: (target, seed) -> test items, where they are kept.
        tests: (target, seed) -> hash of the test set.
        stages: ids of the reported stages.
        spent: stage -> seconds, of all that the reported stages stand on.
        marks: those of `MARKS` that were used.
    """

    values: Cells = field(default_factory=dict)
    source: Cells = field(default_factory=dict)
    items: dict[tuple[str, int], NDArray[Any]] = field(default_factory=dict)
    tests: dict[tuple[str, int], str] = field(default_factory=dict)
    stages: set[str] = field(default_factory=set)
    spent: dict[Key, float] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)


def read_row(plan: RowPlan, folder: Path, metric: str, targets: Sequence[str], seeds: Sequence[int]) -> Scored:
    """What a row's run folder has by now; stages that are not finished, or outdated, are left out."""
    row = Scored()
    for cell in ((target, seed) for target in targets for seed in seeds):
        stage = plan.scored(*cell)
        record = finished_record(folder / stage, plan.fingerprints[stage])
        if record is None:
            continue
        row.stages.add(stage)
        for score in read_json(folder / stage / "scores.json").get("scores") or ():
            if score["metric"] == metric and score["language"] == cell[0]:
                row.values[cell] = score["value"]
            elif score["metric"] == metric and score["role"] == "source":
                row.source[cell] = score["value"]
        if (items := load_items(folder / stage).get(cell[0])) is not None:
            row.items[cell] = items
        row.tests[cell] = str((record.get("scored_on") or {}).get(cell[0]))
        for other in plan.lineage(stage):
            record = read_json(folder / other / "stage.json")
            row.spent[plan.key(other)] = float(record.get("seconds") or 0.0)
            row.marks |= {mark for mark in MARKS if record.get(f"uses_{mark}")}
    return row


def compare_rows(
    ablation: Ablation, plans: Sequence[RowPlan], home: Path, errors: dict[str, str], *, samples: int
) -> Json:
    """The content of ablation.json, from the rows' run folders in `home`."""
    config = plans[0].config
    targets, seeds = [t.language for t in config.targets], list(ablation.seeds)
    metric = task_of(config.task).metric
    scored = {p.row.name: read_row(p, home / p.row.name, metric, targets, seeds) for p in plans}
    draws = _draws(scored, targets, samples)
    seen: set[Key] = set()
    rows = []
    for plan in plans:
        row = scored[plan.row.name]
        new = sum(seconds for key, seconds in row.spent.items() if key not in seen)
        seen |= row.spent.keys()
        rows.append(_row(plan, row, targets, new / len(seeds), len(seeds), errors.get(plan.row.name)))
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
            "bootstrap": {
                "samples": samples,
                "level": 0.95,
                "items": "sentences" if per_word(config.task) else "texts",
            },
            "groups": [asdict(group) for group in ablation.choice.groups],
            "left_out": ablation.choice.left_out,
            "rows": rows,
            "comparisons": comparisons,
            "paper_notes": notes(config.name, [p.row.name for p in plans]),
        }
    )


def _row(plan: RowPlan, row: Scored, targets: Sequence[str], new: float, seeds: int, error: str | None) -> Json:
    of_target = {t: {seed: v for (other, seed), v in sorted(row.values.items()) if other == t} for t in targets}
    return {
        "name": plan.row.name,
        "label": plan.row.label,
        "meaning": plan.row.meaning,
        "overrides": plan.overrides,
        "folder": f"rows/{plan.row.name}",
        "stages": sorted(row.stages),
        "values": {t: {str(seed): v for seed, v in values.items()} for t, values in of_target.items()},
        "targets": {t: stat_values(stat(values.values())) for t, values in of_target.items() if values},
        "average": stat_values(stat(per_seed(row.values, targets).values())),
        "source": stat_values(stat(per_seed(row.source, targets).values())),
        "seconds": sum(row.spent.values()) / seeds,
        "seconds_new": new,
        **{f"uses_{mark}": mark in row.marks for mark in MARKS},
        "paper": printed(plan.config.name, plan.row.name, domain_of(plan.config)),
        "error": error,
    }


def _draws(scored: dict[str, Scored], targets: Sequence[str], samples: int) -> Draws:
    """Only of models that were scored on the same test set, the one that most have."""
    draws: Draws = {}
    for target in targets:
        tests = [s.tests[c] for s in scored.values() for c in s.items if c[0] == target]
        same = max(tests, key=tests.count, default="")
        items = {
            (name, cell[1]): rows
            for name, row in scored.items()
            for cell, rows in row.items.items()
            if cell[0] == target and row.tests[cell] == same and len(rows)
        }
        draws[target] = scores_on_draws(items, samples=samples, seed=draw_seed(target)) if items else {}
    return draws


def _comparison(group: Group, name: str, scored: dict[str, Scored], targets: Sequence[str], draws: Draws) -> Json:
    """A row against its group's reference: paired over targets and seeds, and over test items."""
    row, reference = scored[name], scored[group.reference]
    parts = {}
    for target in targets:
        seeds = [s for r, s in draws[target] if r == name and (group.reference, s) in draws[target]]
        if seeds:
            items = [[s.items[target, seed] for seed in seeds] for s in (row, reference)]
            drawn = [[draws[target][r, seed] for seed in seeds] for r in (name, group.reference)]
            parts[target] = compare(*items, *drawn)
    bootstrap = {target: asdict(over_targets([part])) for target, part in parts.items()}
    if len(parts) == len(targets):
        bootstrap[AVERAGE] = asdict(over_targets(list(parts.values())))
    steps = {t: step_between(row.values, reference.values, group.reference, t) for t in targets}
    steps[AVERAGE] = step_between(row.values, reference.values, group.reference)
    return {
        "group": group.name,
        "row": name,
        "reference": group.reference,
        "differences": {t: step_values(step) for t, step in steps.items() if step},
        "bootstrap": bootstrap,
    }
