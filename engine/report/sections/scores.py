"""Scores of each entity type, or class, what the final model takes for what, and common errors of two models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....tasks import shown_task
from ...storage.files import read_json
from ..page import folded, note, table
from ..parts import Run, mean, percent
from ..seeds import Stat, stat
from ..stage_table import COTRAIN_ARMS, Json, StageKey, or_dash, row_key, target_rows
from ..svg import clean

_LISTED = 15
"""Confusions of a model, at most."""


def class_section(run: Run) -> str:
    """A table for each language that was scored, the first one open; empty without one."""
    rows = [r for r in run.summary["rows"] if r.get("classes") and r["metric"] == run.result.metric]
    sources = [s for s in (run.result.source, *run.result.more_sources) if s]
    tables = {}
    for language in dict.fromkeys([*run.result.targets, *sources]):
        if html := _table(run, language, rows) + _confusion(run, language):
            tables[language] = html
    if not tables:
        return ""
    shown = "".join(folded(name, html, opened=i == 0) for i, (name, html) in enumerate(tables.items()))
    return f"<h3>Each {shown_task(run.summary['task']).kind} by itself</h3>{shown}"


def _table(run: Run, language: str, rows: Sequence[Json]) -> str:
    """Means over seeds, and for the source over the models of all targets; the last stage first."""
    is_target = language in run.result.targets
    here = target_rows(rows, [language]) if is_target else [r for r in rows if r["language"] == language]
    labels = {row_key(r): r["label"] for r in here}
    stages = sorted(labels)
    names = sorted({name for r in here for name in r["classes"]})
    if not names:
        return ""
    trail = {s.key for s in run.result.trail}
    last = next((key for key in reversed(stages) if key in trail), stages[-1])
    earlier = [stage for stage in stages if stage != last]
    header = ["", "support", *(f"{what}, {labels[last]}" for what in ("precision", "recall", "F1"))]
    header += [f"F1, {labels[stage]}" for stage in earlier]
    lines = []
    for name in names:
        cells = [_of(here, last, name, what) for what in ("precision", "recall", "f1")]
        cells += [_of(here, key, name, "f1") for key in earlier]
        support = next(r["classes"][name]["support"] for r in here if name in r["classes"])
        lines.append([name, f"{support:,}", *map(or_dash, cells)])
    return table(header, lines, dense=True)


def _of(rows: Sequence[Json], key: StageKey, name: str, what: str) -> Stat | None:
    """A class that a model neither met nor predicted has no entry, and no score."""
    classes = [r["classes"] for r in rows if row_key(r) == key]
    return stat(one[name][what] for one in classes if name in one)


def _confusion(run: Run, language: str) -> str:
    """What the model that the run names for a target takes for what; empty for other languages."""
    answer = run.answers.get(language)
    if answer is None:
        return ""
    scores = read_json(answer.folder / "scores.json").get("scores") or ()
    rows = [s for s in scores if (s["language"], s["metric"]) == (language, run.result.metric)]
    if not rows:
        return ""
    if "confusion" not in rows[0]:
        return note(f"No table of confusions: {answer.stage} was scored before they were counted.")
    counts: dict[str, dict[str, int]] = rows[0]["confusion"]
    task = shown_task(run.summary["task"])
    what = f"{task.units.capitalize()} by {task.kind}"
    pairs = sorted(((n, g, p) for g, row in counts.items() for p, n in row.items() if g != p), reverse=True)
    lines = [[g, p, f"{n:,}", percent(n / sum(counts[g].values()))] for n, g, p in pairs[:_LISTED]]
    caption = f"{what}: the most frequent confusions of {answer.stage}, {len(lines)} of {len(pairs):,}"
    return f"<p>{clean(caption)}.</p>{table(['gold', 'predicted', 'times', 'share of gold'], lines, dense=True)}"


def common_errors(run: Run) -> str:
    """How far two models err on the same test items, means over targets and seeds; empty without both methods."""
    columns: dict[tuple[str, str], list[Json]] = {}
    for pair in run.summary["error_correlations"]:
        columns.setdefault((pair["relation"], pair["arm"]), []).append(pair)
    if not columns:
        return ""
    order = sorted(columns, key=lambda c: (c[0] != "teacher", list(COTRAIN_ARMS).index(c[1])))
    relations = {"teacher": "its teacher", "self-training": "self-training"}
    lines = [
        [str(n), *(_shown([p for p in columns[c] if p["round"] == n]) for c in order)]
        for n in sorted({pair["round"] for pair in run.summary["error_correlations"]})
    ]
    text = (
        "phi is the correlation of being wrong, on the test items of a target, and (in brackets) Cohen's kappa; means "
        "over targets and seeds. 1: the same errors. A model that errs as its teacher does cannot be put right by it."
    )
    heads = ["iteration", *(f"{COTRAIN_ARMS[arm]}, with {relations[relation]}" for relation, arm in order)]
    return f"<h3>Common errors</h3>{table(heads, lines, dense=True)}{note(text)}"


def _shown(pairs: list[Json]) -> str:
    phi, kappa = (mean(pair[key] for pair in pairs) for key in ("phi", "kappa"))
    return "-" if math.isnan(phi) else f"{phi:.2f} ({kappa:.2f})"
