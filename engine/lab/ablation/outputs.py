"""The content of ablation.json, as text and as Markdown (docs/laboratory.md)."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ....tasks import task_of
from ...report.tracking.compare import (
    AVERAGE,
    MARKS,
    Scored,
    Table,
    compare,
    read_scores,
    reported_stages,
    stat_text,
    stat_values,
    step_text,
    step_values,
)
from ...storage.files import atomic_write_json, atomic_write_text, plain
from ...storage.run_folder import environment
from ...summary.seeds import stat
from ...summary.stage_table import METRIC_NAMES, Json, per_seed
from ..paper.printed import domain_of, notes, printed
from .row_plans import Ablation, RowPlan

SCHEMA_VERSION = 1


def compare_rows(ablation: Ablation, plans: Sequence[RowPlan], home: Path, errors: dict[str, str]) -> Json:
    """The content of ablation.json, from the rows' run folders in `home`."""
    config, groups, seeds = plans[0].config, ablation.choice.groups, list(ablation.seeds)
    targets = [t.language for t in config.targets]
    places = {plan.row.name: home / plan.row.name for plan in plans}
    scored = {name: read_scores(place, reported_stages(place, seeds)) for name, place in places.items()}
    of_row = compare(scored, plans[0].row.name, targets)
    seen: set[tuple[str, str]] = set()
    rows, comparisons = [], []
    for plan in plans:
        row = scored[plan.row.name]
        new = sum(seconds for key, seconds in row.spent.items() if key not in seen)
        seen |= row.spent.keys()
        stats = {part: stat_values(value) for part, value in of_row[plan.row.name].stats.items()}
        times = {"seconds": sum(row.spent.values()) / len(seeds), "seconds_new": new / len(seeds)}
        rows.append(_row(plan, row, stats, targets) | times | {"error": errors.get(plan.row.name)})
    for group in groups:
        own = {name: scored[name] for name in (group.reference, *group.rows)}
        compared = compare(own, group.reference, targets)
        comparisons += [
            {
                "group": group.name,
                "row": name,
                "reference": group.reference,
                "differences": {part: step_values(step) for part, step in compared[name].steps.items()},
            }
            for name in group.rows
            if name != group.reference
        ]
    return plain(  # type: ignore[no-any-return]
        {
            "schema_version": SCHEMA_VERSION,
            "name": config.name,
            "task": config.task,
            "metric": task_of(config.task).metric,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "source": config.source.language,
            "targets": targets,
            "seeds": seeds,
            "versions": environment()["versions"],
            "groups": [asdict(group) for group in groups],
            "left_out": ablation.choice.left_out,
            "rows": rows,
            "comparisons": comparisons,
            "paper_notes": notes(config.name, [p.row.name for p in plans]),
        }
    )


def _row(plan: RowPlan, row: Scored, stats: Json, targets: Sequence[str]) -> Json:
    values = {t: {str(seed): v for (other, seed), v in sorted(row.values.items()) if other == t} for t in targets}
    return {
        **{key: getattr(plan.row, key) for key in ("name", "label", "meaning")},
        "overrides": plan.overrides,
        "folder": f"rows/{plan.row.name}",
        "stages": sorted(set(row.stages.values())),
        "values": values,
        "targets": {t: stats[t] for t in targets if t in stats},
        "average": stats.get(AVERAGE),
        "source": stat_values(stat(per_seed(row.source, targets).values())),
        **{f"uses_{mark}": mark in row.marks for mark in MARKS},
        "paper": printed(plan.config.name, plan.row.name, domain_of(plan.config)),
    }


def write_outputs(home: Path, values: Json) -> str:
    """Writes ablation.json and .md into a folder; the tables for a terminal."""
    atomic_write_json(home / "ablation.json", values, indent=1)
    atomic_write_text(home / "ablation.md", markdown(values))
    return plain_text(values)


def rows_of(values: Json, group: Json) -> list[Json]:
    """The rows of a group, in order."""
    by_name = {row["name"]: row for row in values["rows"]}
    return [by_name[name] for name in group["rows"]]


def differences(values: Json, group: Json, name: str) -> Json:
    """How a row differs from its group's reference; empty for the reference."""
    own = (c["differences"] for c in values["comparisons"] if (c["group"], c["row"]) == (group["name"], name))
    return next(own, {})


def group_table(values: Json, group: Json) -> Table:
    """A group's rows and what separates them from their reference."""
    targets, rows = values["targets"], rows_of(values, group)
    averaged = [AVERAGE] if len(targets) > 1 else []
    points = {row["name"]: (row["paper"] or {}).get("points", {}) for row in rows}
    paper = [name for name in (*targets, AVERAGE) if any(name in printed for printed in points.values())]
    label = next(r["label"] for r in values["rows"] if r["name"] == group["reference"])
    header = ["row", *targets, *averaged, f"minus {label}", "up"]
    header += [f"{values['source']} (source)", "seconds", "new", *(f"paper: {name}" for name in paper)]
    lines = []
    for row in rows:
        step, printed = differences(values, group, row["name"]).get(AVERAGE), points[row["name"]]
        line = [_label(row), *(stat_text(row["targets"].get(t)) for t in targets)]
        line += [stat_text(row["average"]) for _ in averaged] + step_text(step)
        line += [stat_text(row["source"]), f"{row['seconds']:.0f}", f"{row['seconds_new']:.0f}"]
        lines.append([*line, *(f"{printed[name]:.2f}" if name in printed else "-" for name in paper)])
    return Table(header, lines)


def _label(row: Json) -> str:
    marks = [f" [{mark.replace('_', ' ')}]" for mark in MARKS if row[f"uses_{mark}"]]
    return str(row["label"]) + "".join(marks) + (" [failed]" if row["error"] else "")


def caption(values: Json) -> str:
    """What the numbers are, in a few sentences."""
    seeds = ", ".join(map(str, values["seeds"]))
    return (
        f"{METRIC_NAMES[values['metric']]} of the targets, points; mean ± sample standard deviation over seeds "
        f"{seeds}. Minus: paired difference to the reference, over all pairs of target and seed; up: how many of them "
        "rose. Seconds: of all stages that the row stands on, one seed; new: without those that a row made earlier has."
    )


def _failures(values: Json) -> list[str]:
    out = [f"{row['label']} failed: {row['error']}" for row in values["rows"] if row["error"]]
    return out + [f"{name} is left out: it {why}." for name, why in values["left_out"].items()]


def _remarks(values: Json) -> list[str]:
    out = _failures(values)
    if len(values["seeds"]) < 3:
        out.append("With fewer than three seeds a difference cannot be told from luck: read it as an anecdote.")
    return [*out, *values["paper_notes"].values()]


def plain_text(values: Json) -> str:
    """The tables for a terminal."""
    parts = []
    for group in values["groups"]:
        parts += [group["title"], *group_table(values, group).text(), ""]
    notes = [textwrap.fill(text, 110, break_long_words=False) for text in (caption(values), *_remarks(values))]
    return "\n".join([*parts, *notes]) + "\n"


def markdown(values: Json) -> str:
    """The tables and their notes."""
    parts = [f"# {values['name']}: ablation", ""]
    for group in values["groups"]:
        parts += [f"## {group['title']}", "", *group_table(values, group).markdown(), ""]
        parts += [*(f"* {row['label']}: {row['meaning']}" for row in rows_of(values, group)), ""]
    return "\n".join([*parts, caption(values), "", *(f"* {line}" for line in _remarks(values))]).rstrip() + "\n"
