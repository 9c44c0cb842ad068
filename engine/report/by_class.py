"""The scores of each entity type, or class: F1 after every stage, precision and recall after the last."""

from __future__ import annotations

from collections.abc import Sequence

from .page import folded, table
from .parts import Run
from .seeds import Stat, stat
from .stage_table import Json, StageKey, or_dash, row_key, target_rows
from .svg import clean


def class_section(run: Run) -> str:
    """A folded table for each language that was scored; empty without one."""
    rows = [r for r in run.summary["rows"] if r.get("classes") and r["metric"] == run.result.metric]
    sources = [s for s in (run.result.source, *run.result.more_sources) if s]
    tables = "".join(_table(run, language, rows) for language in dict.fromkeys([*run.result.targets, *sources]))
    what = "entity type" if run.summary["task"] == "ner" else "class"
    return folded(f"Each {what} by itself", tables) if tables else ""


def _table(run: Run, language: str, rows: Sequence[Json]) -> str:
    """Means over seeds, and for the source over the models of all targets."""
    is_target = language in run.result.targets
    here = target_rows(rows, [language]) if is_target else [r for r in rows if r["language"] == language]
    labels = {row_key(r): r["label"] for r in here}
    stages = sorted(labels)
    names = sorted({name for r in here for name in r["classes"]})
    if not names:
        return ""
    trail = {s.key for s in run.result.trail}
    last = next((key for key in reversed(stages) if key in trail), stages[-1])
    header = ["", "support", *(f"F1, {labels[stage]}" for stage in stages)]
    header += [f"{what}, {labels[last]}" for what in ("precision", "recall")]
    lines = []
    for name in names:
        cells = [_of(here, key, name, "f1") for key in stages]
        cells += [_of(here, last, name, what) for what in ("precision", "recall")]
        support = next(r["classes"][name]["support"] for r in here if name in r["classes"])
        lines.append([name, f"{support:,}", *map(or_dash, cells)])
    return f"<h3>{clean(language)}</h3>{table(header, lines, dense=True)}"


def _of(rows: Sequence[Json], key: StageKey, name: str, what: str) -> Stat | None:
    """A class that a model neither met nor predicted has no entry, and no score."""
    classes = [r["classes"] for r in rows if row_key(r) == key]
    return stat(one[name][what] for one in classes if name in one)
