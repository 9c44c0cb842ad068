"""Co-training and self-training by picks: accuracy after every iteration (Figure 3 of Yu and Joty), common errors."""

from __future__ import annotations

import math
import statistics

from .. import svg
from ..page import note, table
from ..parts import Figure, Run, columns_for, drawn, mean
from ..stage_table import COTRAIN_ARMS, Json
from ..svg import Key, Panel


def iterations(run: Run) -> Figure | None:
    """One panel per target: each model's score after each iteration, mean over seeds, with every seed as a point."""
    rows = [r for r in run.target_rows if r["arm"] in COTRAIN_ARMS]
    if not rows:
        return None
    last = max(r["round"] for r in rows)
    arms = [arm for arm in COTRAIN_ARMS if any(r["arm"] == arm for r in rows)]
    columns, width = columns_for(len(run.result.targets))
    ticks = [(float(i), str(i)) for i in range(1, last + 1)]
    box = ((0.7, last + 0.3), svg.padded_range([r["value"] for r in rows]), "iteration", "", ticks, None, width, 260)
    panels, said = [], []
    for target in run.result.targets:
        panels.append(panel := Panel(f"{target}: {run.metric}", *box))
        own = [r for r in rows if r["language"] == target]
        said += [_draw(panel, arm, own, run.result.seeds) for arm in arms]
    keys = [Key(COTRAIN_ARMS[arm], _series(arm), "line" if arm.startswith("co") else "dash") for arm in arms]
    caption = (
        f"{run.metric} on each target's test set. Iteration 1 has learnt the labelled source alone; every later one "
        "also what was picked before it. Lines are means over seeds, markers single seeds."
    )
    return drawn("iterations", "Co-training, iteration by iteration", caption, panels, said, columns, keys)


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


def _series(arm: str) -> int:
    return 0 if arm.endswith("a") else 1


def _draw(panel: Panel, arm: str, rows: list[Json], seeds: tuple[int, ...]) -> str:
    """One model's line; self-training begins at the first iteration of co-training where it has none of its own."""
    own = [r for r in rows if r["arm"] == arm]
    if not any(r["round"] == 1 for r in own):
        own += [r for r in rows if r["arm"] == f"co-{arm[-1]}" and r["round"] == 1]
    means = {}
    for number in sorted({r["round"] for r in own}):
        here = [r for r in own if r["round"] == number]
        means[number] = statistics.fmean(r["value"] for r in here)
        for r in here:
            tip = f"{r['label']}, seed {r['seed']}: {r['value']:.1f}"
            shape = seeds.index(r["seed"])
            panel.point(number, r["value"], _series(arm), shape=shape, hollow=arm.startswith("self"), tip=tip)
    panel.line([(float(n), v) for n, v in means.items()], _series(arm), dashed=arm.startswith("self"))
    return f"{COTRAIN_ARMS[arm]}: " + ", ".join(f"{v:.1f}" for v in means.values())
