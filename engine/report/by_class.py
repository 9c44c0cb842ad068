"""The scores of each entity type, or class: F1 after every stage, precision and recall after the last."""

from __future__ import annotations

from collections.abc import Sequence

from .page import table
from .parts import Run
from .seeds import Stat, stat
from .stage_table import Json
from .svg import clean

Key = tuple[int, str, str]


def class_section(run: Run) -> str:
    """A folded table for each language that was scored; empty without one."""
    rows = [r for r in run.summary["rows"] if r.get("classes") and r["metric"] == run.result.metric]
    found = [_table(run, language, rows) for language in dict.fromkeys([*run.result.targets, *_sources(run)])]
    shown = [part for part in found if part]
    if not shown:
        return ""
    what = "entity type" if run.summary["task"] == "ner" else "class"
    return f"<details><summary>Each {what} by itself</summary>{''.join(shown)}</details>"


def _sources(run: Run) -> list[str]:
    return [s for s in (run.result.source, *run.result.more_sources) if s]


def _table(run: Run, language: str, rows: Sequence[Json]) -> str:
    """Means over seeds, and for the source over the models of all targets."""
    target = language in run.result.targets
    here = [r for r in rows if r["language"] == language and (not target or r["pair"] in (None, language))]
    stages: list[Key] = sorted({(r["order"], r["arm"], r["stage"]) for r in here})
    names = sorted({name for r in here for name in r["classes"]})
    if not (stages and names):
        return ""
    trail = {(s.order, s.arm, s.stage) for s in run.result.trail}
    last = next((key for key in reversed(stages) if key in trail), stages[-1])
    labels = {(r["order"], r["arm"], r["stage"]): r["label"] for r in here}
    header = ["", "support", *(f"F1, {labels[stage]}" for stage in stages)]
    header += [f"{what}, {labels[last]}" for what in ("precision", "recall")]
    lines = []
    for name in names:
        cells = [_of(here, key, name, "f1") for key in stages] + [
            _of(here, last, name, x) for x in ("precision", "recall")
        ]
        support = next(r["classes"][name]["support"] for r in here if name in r["classes"])
        lines.append([name, f"{support:,}", *("-" if cell is None else str(cell) for cell in cells)])
    return f'<h3>{clean(language)}</h3><div class="dense">{table(header, lines)}</div>'


def _of(rows: Sequence[Json], key: Key, name: str, what: str) -> Stat | None:
    """A class that a model neither met nor predicted has no entry, and no score."""
    own = [r["classes"] for r in rows if (r["order"], r["arm"], r["stage"]) == key]
    return stat(classes[name][what] for classes in own if name in classes)
