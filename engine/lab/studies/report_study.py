"""The laboratory's parts of the report: other rules for alpha, quality of pseudo-labels, trust without labels."""

from __future__ import annotations

from collections.abc import Sequence

from .... import DataError
from ....data import OUTSIDE
from ...report.page import table
from ...report.parts import Run, mean, percent
from ...report.stage_table import METRIC_NAMES, Json
from ...report.svg import clean
from .finished import FinishedRun
from .run_thresholds import study_thresholds
from .study_text import rule_tables, study_notes, trust_lines, trust_notes
from .trust import read_trust

DRAWS = 100
SHOWN = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Thresholds of the quality table; the nearest of the grid are taken."""


def thresholds_section(run: Run) -> str:
    """What other rules would have chosen; empty where the votes of the decisions were not stored."""
    try:
        studies = study_thresholds(FinishedRun.open(run.folder), draws=DRAWS, recompute=False)
    except DataError:
        return ""  # nothing has ended, or nothing was decided; the rest of the page says so
    if not studies:
        return ""
    parts = ["<h3>What other rules would have chosen</h3>"]
    for title, header, lines in rule_tables(studies):
        css = ["control" if line[0] == "best by gold" else "" for line in lines]
        parts.append(f'<p>{clean(title)}</p><div class="dense">{table(header, lines, css=css)}</div>')
    return "\n".join([*parts, f'<p class="note">{clean(". ".join(study_notes(studies)))}.</p>'])


def quality_section(run: Run) -> str:
    """Pseudo-labels by class, and by threshold, of each target and round; means over seeds."""
    parts = []
    for pair in run.pairs:
        for number in run.rounds:
            found = [d for _, d in run.cell(pair, number)]
            if found and all(d.get("classes") for d in found):
                name = clean(f"{pair}, round {number}")
                parts.append(f"<details><summary>{name}</summary>{_by_class(found)}{_by_threshold(found)}</details>")
    if not parts:
        return ""
    note = (
        "By predicted class: unlabelled items, how many the filter accepts, and on the labelled target file †, which "
        "nothing was chosen by, how many of the accepted are right (precision) and how many of each class are found "
        "(recall). By threshold: what would be kept there, before entities or sentences are put together. ECE: mean "
        "distance of confidence and accuracy."
    )
    return f'<h3>Quality of the pseudo-labels</h3>{"".join(parts)}<p class="note">{clean(note)}</p>'


def _by_class(found: Sequence[Json]) -> str:
    gold = [d["classes_if_gold"] for d in found if d.get("classes_if_gold")]
    total = mean(d["items"] for d in found)
    accepted = mean(d["accepted"] for d in found)
    lines = []
    for name in found[0]["classes"]:
        items, kept = (mean(d["classes"][name][k] for d in found) for k in ("items", "accepted"))
        line = [name, f"{items:,.0f}", percent(items / total if total else None), f"{kept:,.0f}"]
        line += [percent(kept / items if items else None), percent(kept / accepted if accepted else None)]
        if gold:
            right, taken, there = (sum(c[name][k] for c in gold) for k in ("correct", "accepted", "gold"))
            line += [percent(right / taken if taken else None), percent(right / there if there else None)]
        lines.append(line)
    header = ["class", "items", "share", "accepted", "of class", "share of accepted"]
    header += ["precision\u00a0†", "recall\u00a0†"] if gold else []
    errors = [f"{k} {100 * mean(e):.1f}" for k in ("source", "target") if (e := _calibration_errors(found, k))]
    note = f'<p class="note">ECE in points: {clean(", ".join(errors))}</p>' if errors else ""
    return f'<div class="dense">{table(header, lines)}</div>{note}'


def _calibration_errors(found: Sequence[Json], which: str) -> list[float]:
    """The expected calibration error of each decision that has the bins."""
    errors = []
    for d in found:
        if bins := (d.get("calibration") or {}).get(which):
            total = sum(b["count"] for b in bins)
            errors.append(sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / total)
    return errors


def _by_threshold(found: Sequence[Json]) -> str:
    tables = [d["by_threshold"] for d in found if d.get("by_threshold")]
    if not tables:
        return ""
    gold = [d["by_threshold_if_gold"] for d in found if d.get("by_threshold_if_gold")]
    grid = tables[0]["thresholds"]
    places = sorted({min(range(len(grid)), key=lambda i: abs(grid[i] - wanted)) for wanted in SHOWN})
    entities = [n for n in tables[0]["kept"] if n != OUTSIDE]
    items = mean(d["items"] for d in found)
    lines = []
    for i in places:
        kept = mean(sum(t["kept"][n][i] for n in t["kept"]) for t in tables)
        line = [f"{grid[i]:.2f}", percent(kept / items if items else None)]
        line.append(f"{mean(sum(t['kept'][n][i] for n in entities) for t in tables):,.0f}")
        if gold:
            for names in (list(gold[0]["kept"]), entities):
                right, taken = (sum(t[k][n][i] for t in gold for n in names) for k in ("correct", "kept"))
                line.append(percent(right / taken if taken else None))
        lines.append(line)
    kind = "entity labels" if len(entities) < len(tables[0]["kept"]) else "labels"
    header = ["threshold", "kept", f"{kind} kept"]
    header += ["precision\u00a0†", f"precision of {kind}\u00a0†"] if gold else []
    return f'<div class="dense">{table(header, lines)}</div>'


def trust_section(run: Run) -> str:
    """The estimates that `xlt-engine trust` has left in the run; empty without them."""
    report = read_trust(run.folder)
    if report is None:
        return ""
    header, lines = trust_lines(report)
    metric = METRIC_NAMES.get(report.metric, report.metric)
    boxes = [f'<div class="warning"><b>{clean(w.name)}</b><div>{clean(w.message)}</div></div>' for w in report.warnings]
    ends = "".join(f"<li>{clean(line)}</li>" for line in trust_notes(report))
    title = f"<h2>Trust without target labels</h2><p>{clean(metric)} in points.</p>"
    return f"{title}{''.join(boxes)}{table(header, lines)}<ul>{ends}</ul>"
