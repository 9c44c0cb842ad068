"""Quality of the pseudo-labels: by class, and by threshold."""

from __future__ import annotations

from collections.abc import Sequence

from ....data import OUTSIDE
from ..page import folded, note, table
from ..parts import Run, mean, percent
from ..stage_table import Json

SHOWN = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Thresholds of the quality table; the nearest of the grid are taken."""


def quality_section(run: Run) -> str:
    """Pseudo-labels by class, and by threshold, of each target and round; means over seeds."""
    parts = []
    for pair in run.pairs:
        for number in run.rounds:
            found = [d for _, d in run.cell(pair, number)]
            if found and all(d.get("classes") for d in found):
                parts.append(folded(f"{pair}, round {number}", _by_class(found) + _by_threshold(found)))
    if not parts:
        return ""
    text = (
        "By predicted class: unlabelled items, how many the filter accepts, and on the labelled target file †, which "
        "nothing was chosen by, how many of the accepted are right (precision) and how many of each class are found "
        "(recall). By threshold: what would be kept there, before entities or sentences are put together. ECE: mean "
        "distance of confidence and accuracy."
    )
    return f"<h3>Quality of the pseudo-labels</h3>{''.join(parts)}{note(text)}"


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
    return table(header, lines, dense=True) + (note(f"ECE in points: {', '.join(errors)}") if errors else "")


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
    return table(header, lines, dense=True)
