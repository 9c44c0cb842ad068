"""The content of ablation.json, as text and Markdown, and as one page with a figure per group (docs/laboratory.md)."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ....tasks import per_word, task_of
from ...report import svg
from ...report.page import page
from ...report.page import table as html_table
from ...report.parts import columns_for
from ...report.svg import GREY, Key, Panel, clean
from ...report.tracking.compare import (
    AVERAGE,
    MARKS,
    Scored,
    Table,
    compare,
    draw,
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


def compare_rows(
    ablation: Ablation, plans: Sequence[RowPlan], home: Path, errors: dict[str, str], *, samples: int
) -> Json:
    """The content of ablation.json, from the rows' run folders in `home`."""
    config, groups, seeds = plans[0].config, ablation.choice.groups, list(ablation.seeds)
    targets = [t.language for t in config.targets]
    places = {plan.row.name: home / plan.row.name for plan in plans}
    scored = {name: read_scores(place, reported_stages(place, seeds)) for name, place in places.items()}
    draws, of_row = draw(scored, targets, samples), compare(scored, plans[0].row.name, targets)
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
        compared = compare(own, group.reference, targets, draws)
        comparisons += [
            {
                "group": group.name,
                "row": name,
                "reference": group.reference,
                "differences": {part: step_values(step) for part, step in compared[name].steps.items()},
                "bootstrap": {part: asdict(drawn) for part, drawn in compared[name].bootstrap.items()},
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
            "bootstrap": {
                "samples": samples,
                "level": 0.95,
                "items": "sentences" if per_word(config.task) else "texts",
            },
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
    """Writes ablation.json, .md and .html into a folder; the tables for a terminal."""
    atomic_write_json(home / "ablation.json", values, indent=1)
    atomic_write_text(home / "ablation.md", markdown(values))
    atomic_write_text(home / "ablation.html", html(values))
    return plain_text(values)


def rows_of(values: Json, group: Json) -> list[Json]:
    """The rows of a group, in order."""
    by_name = {row["name"]: row for row in values["rows"]}
    return [by_name[name] for name in group["rows"]]


def comparison(values: Json, group: Json, name: str) -> Json:
    """How a row compares with its group's reference; empty for the reference."""
    own = (c for c in values["comparisons"] if (c["group"], c["row"]) == (group["name"], name))
    return next(own, {"differences": {}, "bootstrap": {}})


def group_table(values: Json, group: Json) -> Table:
    """A group's rows and what separates them from their reference."""
    targets, rows = values["targets"], rows_of(values, group)
    averaged = [AVERAGE] if len(targets) > 1 else []
    points = {row["name"]: (row["paper"] or {}).get("points", {}) for row in rows}
    paper = [name for name in (*targets, AVERAGE) if any(name in printed for printed in points.values())]
    label = next(r["label"] for r in values["rows"] if r["name"] == group["reference"])
    header = ["row", *targets, *averaged, f"minus {label}", "up", "95 % of items", "p"]
    header += [f"{values['source']} (source)", "seconds", "new", *(f"paper: {name}" for name in paper)]
    lines = []
    for row in rows:
        compared, printed = comparison(values, group, row["name"]), points[row["name"]]
        drawn = compared["bootstrap"].get(AVERAGE)
        line = [_label(row), *(stat_text(row["targets"].get(t)) for t in targets)]
        line += [stat_text(row["average"]) for _ in averaged] + step_text(compared["differences"].get(AVERAGE))
        line += [f"{drawn['low']:+.1f} to {drawn['high']:+.1f}", f"{drawn['p_value']:.3f}"] if drawn else ["-", "-"]
        line += [stat_text(row["source"]), f"{row['seconds']:.0f}", f"{row['seconds_new']:.0f}"]
        lines.append([*line, *(f"{printed[name]:.2f}" if name in printed else "-" for name in paper)])
    return Table(header, lines)


def _label(row: Json) -> str:
    marks = [f" [{mark.replace('_', ' ')}]" for mark in MARKS if row[f"uses_{mark}"]]
    return str(row["label"]) + "".join(marks) + (" [failed]" if row["error"] else "")


def caption(values: Json) -> str:
    """What the numbers are, in a few sentences."""
    seeds = ", ".join(map(str, values["seeds"]))
    drawn = values["bootstrap"]
    return (
        f"{METRIC_NAMES[values['metric']]} of the targets, points; mean ± sample standard deviation over seeds "
        f"{seeds}. Minus: paired difference to the reference, over all pairs of target and seed; up: how many of them "
        f"rose. 95 % of items, p: paired bootstrap, {drawn['samples']} draws of the test {drawn['items']}: both rows "
        "are scored on the same draw, the difference is averaged over seeds, then over targets. It holds the seeds "
        "fixed: whether another seed would agree is what the standard deviation says. Seconds: of all stages that the "
        "row stands on, one seed; new: without those that a row made earlier has."
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


def html(values: Json) -> str:
    """The page: a figure and a table per group, and what to know about them."""
    seeds = f"seed{'s' * (len(values['seeds']) > 1)} {', '.join(map(str, values['seeds']))}"
    facts = [f"{values['source']} → {', '.join(values['targets'])}", seeds, values["created"]]
    parts = [f"<h1>{clean(values['name'])}: ablation</h1>", f'<p class="sub">{clean(" · ".join(facts))}</p>']
    parts += [f'<div class="warning">{clean(line)}</div>' for line in _failures(values)]
    for group in values["groups"]:
        table = group_table(values, group)
        rows = rows_of(values, group)
        css = ["last" if row["name"] == group["reference"] else "" for row in rows]
        meaning = "".join(f"<li><b>{clean(row['label'])}</b>: {clean(row['meaning'])}</li>" for row in rows)
        parts += [f"<h2>{clean(group['title'])}</h2>", f"<figure>{figure(values, group)}</figure>"]
        parts += [f'<div class="dense">{html_table(table.header, table.lines, css=css)}</div>', f"<ul>{meaning}</ul>"]
    notes = "".join(f"<li>{clean(line)}</li>" for line in _remarks(values))
    parts += ["<h2>How to read this</h2>", f"<p>{clean(caption(values))}</p>", f"<ul>{notes}</ul>" if notes else ""]
    return page(f"{values['name']}: ablation", "\n".join(parts))


def figure(values: Json, group: Json) -> str:
    """One panel per target, and one for their average: a dot per seed, the mean, and a line at the reference."""
    rows, targets = rows_of(values, group), values["targets"]
    names = [*([AVERAGE] if len(targets) > 1 else []), *targets]
    columns, width = columns_for(len(names))
    panels = [_panel(values, rows, name, group["reference"], width) for name in names]
    keys = [Key("mean over seeds", 0, "square"), Key("one seed", GREY, "circle"), Key("reference", GREY, "dash")]
    text = "; ".join(f"{row['label']}: {stat_text(row['average'])}" for row in rows)
    return svg.figure(panels, title=group["title"], description=text, columns=columns, keys=keys)


def _panel(values: Json, rows: Sequence[Json], name: str, reference: str, width: float) -> Panel:
    every = [_seeds(values["targets"], row, name) for row in rows]
    low, high = -len(rows) + 0.4, 0.6
    panel = Panel(
        name,
        svg.padded_range([value for seeds in every for value in seeds.values()]),
        (low, high),
        METRIC_NAMES[values["metric"]],
        y_ticks=[(-float(i), row["label"]) for i, row in enumerate(rows)],
        width=width,
        height=66 + 24.0 * len(rows),
        left=14 + 6.4 * max(len(row["label"]) for row in rows),
        grid="x",
    )
    base: Json = next((row for row in values["rows"] if row["name"] == reference), {"average": None, "targets": {}})
    if level := base["average"] if name == AVERAGE else base["targets"].get(name):
        panel.rule((level["mean"], low), (level["mean"], high))
    for i, (row, seeds) in enumerate(zip(rows, every, strict=True)):
        for seed, value in seeds.items():
            panel.point(value, -i, GREY, tip=f"{row['label']}, {name}, seed {seed}: {value:.1f}")
        if seeds:
            mean = sum(seeds.values()) / len(seeds)
            panel.point(mean, -i, 0, shape=1, tip=f"{row['label']}, {name}, mean: {mean:.1f}")
    return panel


def _seeds(targets: Sequence[str], row: Json, name: str) -> dict[int, float]:
    """The score of each seed, on a target or on average over all."""
    own = {(t, int(seed)): value for t in targets for seed, value in row["values"].get(t, {}).items()}
    return per_seed(own, targets if name == AVERAGE else [name])
