"""An ablation for people: tables as text, Markdown and CSV, and one page with a figure per group."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...report import svg
from ...report.page import page
from ...report.page import table as html_table
from ...report.parts import columns_for
from ...report.seeds import Stat, Step
from ...report.stage_table import METRIC_NAMES
from ...report.svg import GREY, Key, Panel, clean
from ...report.text_table import text_table
from ...storage.files import atomic_write_json, atomic_write_text
from ..paper.values import AVERAGE

Json = dict[str, Any]


def write_outputs(home: Path, values: Json) -> str:
    """Writes ablation.json, .md, .csv and .html into a folder; the tables for a terminal."""
    atomic_write_json(home / "ablation.json", values, indent=1)
    atomic_write_text(home / "ablation.md", markdown(values))
    atomic_write_text(home / "ablation.csv", csv_text(values))
    atomic_write_text(home / "ablation.html", html(values))
    return plain_text(values)


def rows_of(values: Json, group: Json) -> list[Json]:
    """The rows of a group, in order."""
    by_name = {row["name"]: row for row in values["rows"]}
    return [by_name[name] for name in group["rows"]]


def comparison(values: Json, group: Json, name: str) -> Json:
    """How a row compares with its group's reference; empty for the reference."""
    found = (c for c in values["comparisons"] if (c["group"], c["row"]) == (group["name"], name))
    return next(found, {"differences": {}, "bootstrap": {}})


def cells(values: Json, group: Json) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a group's table."""
    targets, reference = values["targets"], group["reference"]
    rows = rows_of(values, group)
    paper = [name for name in (*targets, AVERAGE) if any(name in (r["paper"] or {}).get("points", {}) for r in rows)]
    label = next(r["label"] for r in values["rows"] if r["name"] == reference)
    header = ["row", *targets, *([AVERAGE] if len(targets) > 1 else []), f"minus {label}", "up", "95 % of items", "p"]
    header += [f"{values['source']} (source)", "seconds", "new", *(f"paper: {name}" for name in paper)]
    lines = []
    for row in rows:
        own = comparison(values, group, row["name"])
        step, drawn = own["differences"].get(AVERAGE), own["bootstrap"].get(AVERAGE)
        line = [_label(row), *(_stat(row["targets"].get(t)) for t in targets)]
        line += [_stat(row["average"])] if len(targets) > 1 else []
        line += [_step(step), f"{step['up']}/{step['n']}" if step else "-"]
        line += [f"{drawn['low']:+.1f} to {drawn['high']:+.1f}", f"{drawn['p_value']:.3f}"] if drawn else ["-", "-"]
        line += [_stat(row["source"]), f"{row['seconds']:.0f}", f"{row['seconds_new']:.0f}"]
        printed = (row["paper"] or {}).get("points", {})
        line += [f"{printed[name]:.2f}" if name in printed else "-" for name in paper]
        lines.append(line)
    return header, lines


def _label(row: Json) -> str:
    marks = [mark for mark in ("parallel_data", "target_labels") if row[f"uses_{mark}"]]
    shown = "".join(f" [{mark.replace('_', ' ')}]" for mark in marks)
    return str(row["label"]) + shown + (" [failed]" if row["error"] else "")


def _stat(found: Json | None) -> str:
    return "-" if found is None else str(Stat(found["mean"], found["std"], found["n"]))


def _step(found: Json | None) -> str:
    return "-" if found is None else str(Step(Stat(found["mean"], found["std"], found["n"]), found["up"], ""))


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
        header, lines = cells(values, group)
        rule = ["---", *("---:" for _ in header[1:])]
        parts += [f"## {group['title']}", ""]
        parts += ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in [header, rule, *lines]]
        parts += ["", *(f"* {row['label']}: {row['meaning']}" for row in rows_of(values, group)), ""]
    return "\n".join([*parts, caption(values), "", *(f"* {line}" for line in _remarks(values))]).rstrip() + "\n"


_CSV = (
    "group",
    "row",
    "label",
    "stages",
    "target",
    "mean",
    "std",
    "n",
    "reference",
    "difference",
    "difference_std",
    "pairs",
    "up",
    "low",
    "high",
    "p",
    "seconds",
    "seconds_new",
    "parallel_data",
    "target_labels",
    "paper",
    "error",
)


def csv_text(values: Json) -> str:
    """One line per group, row and target, and one for the average; numbers unrounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV, lineterminator="\n")
    writer.writeheader()
    for group in values["groups"]:
        for row in rows_of(values, group):
            own = comparison(values, group, row["name"])
            for target in (*values["targets"], AVERAGE):
                stat = (row["average"] if target == AVERAGE else row["targets"].get(target)) or {}
                step, drawn = own["differences"].get(target) or {}, own["bootstrap"].get(target) or {}
                writer.writerow(
                    {"group": group["name"], "row": row["name"], "label": row["label"], "target": target}
                    | {"stages": " ".join(row["stages"]), "reference": group["reference"], "error": row["error"]}
                    | {name: stat.get(name) for name in ("mean", "std", "n")}
                    | {"difference": step.get("mean"), "difference_std": step.get("std")}
                    | {"pairs": step.get("n"), "up": step.get("up"), "p": drawn.get("p_value")}
                    | {name: drawn.get(name) for name in ("low", "high")}
                    | {name: row[name] for name in ("seconds", "seconds_new")}
                    | {name: row[f"uses_{name}"] for name in ("parallel_data", "target_labels")}
                    | {"paper": ((row["paper"] or {}).get("points") or {}).get(target)}
                )
    return out.getvalue()


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
    text = "; ".join(f"{row['label']}: {_stat(row['average'])}" for row in rows)
    return svg.figure(panels, title=group["title"], description=text, columns=columns, keys=keys)


def _panel(values: Json, rows: Sequence[Json], name: str, reference: str, width: float) -> Panel:
    every = [list(_seeds(values, row, name).values()) for row in rows]
    points = [p for row in every for p in row]
    ticks = [(-float(i), row["label"]) for i, row in enumerate(rows)]
    left = 14 + 6.4 * max(len(row["label"]) for row in rows)
    panel = Panel(
        name,
        svg.padded_range(points),
        (-len(rows) + 0.4, 0.6),
        METRIC_NAMES[values["metric"]],
        "",
        None,
        ticks,
        width,
        66 + 24.0 * len(rows),
        left,
        grid="x",
    )
    base = next((r for r in values["rows"] if r["name"] == reference), None)
    own = None if base is None else base["average"] if name == AVERAGE else base["targets"].get(name)
    if own:
        panel.rule((own["mean"], -len(rows) + 0.4), (own["mean"], 0.6))
    for i, (row, found) in enumerate(zip(rows, every, strict=True)):
        for seed, value in _seeds(values, row, name).items():
            panel.point(value, -i, GREY, tip=f"{row['label']}, {name}, seed {seed}: {value:.1f}")
        if found:
            mean = sum(found) / len(found)
            panel.point(mean, -i, 0, shape=1, tip=f"{row['label']}, {name}, mean: {mean:.1f}")
    return panel


def _seeds(values: Json, row: Json, name: str) -> dict[str, float]:
    """The score of each seed, on a target or on average over all."""
    if name != AVERAGE:
        return row["values"].get(name, {})  # type: ignore[no-any-return]
    per_target = [row["values"].get(t, {}) for t in values["targets"]]
    full = [s for s in per_target[0] if all(s in cells for cells in per_target)]
    return {s: sum(cells[s] for cells in per_target) / len(per_target) for s in full}
