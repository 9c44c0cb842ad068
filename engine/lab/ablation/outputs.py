"""An ablation for people: tables as text and Markdown, and one page with a figure per group."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from ...report import svg
from ...report.page import page
from ...report.page import table as html_table
from ...report.parts import columns_for
from ...report.stage_table import METRIC_NAMES, per_seed
from ...report.svg import GREY, Key, Panel, clean
from ...report.text_table import text_table
from ...storage.files import atomic_write_json, atomic_write_text
from ..paper.printed import AVERAGE
from ..score_tables import Json, markdown_table, stat_text, step_text
from .comparisons import MARKS


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


def cells(values: Json, group: Json) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a group's table."""
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
    return header, lines


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
        header, lines = cells(values, group)
        parts += [group["title"], *text_table([header, *lines], rule="columns"), ""]
    notes = [textwrap.fill(text, 110, break_long_words=False) for text in (caption(values), *_remarks(values))]
    return "\n".join([*parts, *notes]) + "\n"


def markdown(values: Json) -> str:
    """The tables and their notes."""
    parts = [f"# {values['name']}: ablation", ""]
    for group in values["groups"]:
        parts += [f"## {group['title']}", "", *markdown_table(*cells(values, group)), ""]
        parts += [*(f"* {row['label']}: {row['meaning']}" for row in rows_of(values, group)), ""]
    return "\n".join([*parts, caption(values), "", *(f"* {line}" for line in _remarks(values))]).rstrip() + "\n"


def html(values: Json) -> str:
    """The page: a figure and a table per group, and what to know about them."""
    seeds = f"seed{'s' * (len(values['seeds']) > 1)} {', '.join(map(str, values['seeds']))}"
    facts = [f"{values['source']} → {', '.join(values['targets'])}", seeds, values["created"]]
    parts = [f"<h1>{clean(values['name'])}: ablation</h1>", f'<p class="sub">{clean(" · ".join(facts))}</p>']
    parts += [f'<div class="warning">{clean(line)}</div>' for line in _failures(values)]
    for group in values["groups"]:
        header, lines = cells(values, group)
        rows = rows_of(values, group)
        css = ["last" if row["name"] == group["reference"] else "" for row in rows]
        meaning = "".join(f"<li><b>{clean(row['label'])}</b>: {clean(row['meaning'])}</li>" for row in rows)
        parts += [f"<h2>{clean(group['title'])}</h2>", f"<figure>{figure(values, group)}</figure>"]
        parts += [f'<div class="dense">{html_table(header, lines, css=css)}</div>', f"<ul>{meaning}</ul>"]
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
