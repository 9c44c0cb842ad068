"""More pictures of a report: what the filter accepted, how training went, and where the time was spent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from ...data import OUTSIDE
from . import svg
from .parts import SOURCE, TARGET, WIDTH, Figure, Run, grid, mean, numbers, percent
from .seeds import stat
from .stage_table import Json
from .svg import GREY, Key, Panel

MOST_CLASSES = 14
POINTS = 100
_BIN = 0.05


def quality(run: Run) -> Figure | None:
    """Share of target items accepted (all, `O`, entities) and their precision, per round."""
    if not run.decisions:
        return None
    tagging = any(d.get("coverage_entity") is not None for d in run.decisions.values())
    gold = any(d.get("precision_if_gold") is not None for d in run.decisions.values())
    series: list[tuple[str, int, Callable[[Json], Any]]] = [("all items", GREY, accepted_share)]
    if tagging:
        series += [("predicted O", 5, lambda d: d.get("coverage_o"))]
        series += [("predicted entity", 1, lambda d: d.get("coverage_entity"))]
    if gold:
        series += [("precision of accepted (gold, for looking only)", SOURCE, lambda d: d.get("precision_if_gold"))]
    count = len(run.pairs)
    columns = max(1, min(count, 3 if len(run.rounds) < 3 else 2))
    width = min((WIDTH - 18 * (columns - 1)) / columns, 620)
    panels, text = [], []
    ticks = [(t / 100, f"{t} %") for t in range(0, 101, 25)]
    for pair in run.pairs:
        rounds = [(float(i), f"round {n}") for i, n in enumerate(run.rounds)]
        panel = Panel(pair, (-0.55, len(rounds) - 0.45), (0, 1.12), "", "", rounds, ticks, width, 220)
        for i, number in enumerate(run.rounds):
            found = run.cell(pair, number)
            size = min(0.84 / len(series), 0.24)
            for j, (name, colour, read) in enumerate(series):
                values = [v for _, d in found if math.isfinite(v := mean([read(d)]))]
                shown = stat(values)
                if shown is None:
                    continue
                left = i + (j - len(series) / 2) * size
                tip = f"{pair}, round {number}, {name}: {percent(shown.mean)}"
                panel.bar((left + 0.015, 0), (left + size - 0.015, shown.mean), colour, tip=tip)
                if shown.std is not None:
                    panel.error(left + size / 2, shown.mean, shown.std)
                panel.label(left + size / 2, shown.mean + (shown.std or 0), percent(shown.mean), dy=-5)
                text.append(tip)
        panels.append(panel)
    keys = [Key(name, colour, "bar") for name, colour, _ in series]
    caption = (
        "Share of the target items that the filter accepted, by what the voters predicted; means over seeds ± std."
    )
    if tagging:
        caption += " The entity bar is the one that teaches: accepted O alone carries little."
    picture = svg.figure(
        panels, title="Accepted pseudo-labels", description="; ".join(text), columns=columns, keys=keys
    )
    return Figure("pseudo-labels", "Pseudo-labels: how many, how good", caption, picture)


def accepted_share(decision: Json) -> float:
    """Accepted target items over all of them, NaN where unknown."""
    accepted, items = decision.get("accepted"), decision.get("items")
    return accepted / items if accepted is not None and items else math.nan


def class_totals(found: Sequence[tuple[int, Json]]) -> dict[str, tuple[int, int, int | None]]:
    """Per class the items, accepted, and correct (None without gold), summed over seeds; largest class first."""
    totals: dict[str, tuple[int, int, int | None]] = {}
    for _, decision in found:
        for name, c in (decision.get("classes") or {}).items():
            items, accepted, correct = totals.get(name, (0, 0, 0))
            own = c.get("correct")
            both = None if own is None or correct is None else correct + own
            totals[name] = (items + (c.get("items") or 0), accepted + (c.get("accepted") or 0), both)
    return dict(sorted(totals.items(), key=lambda item: (-item[1][0], item[0])))


def classes(run: Run) -> Figure | None:
    """Accepted share of every predicted class, and its precision where gold exists."""
    cells, columns, width = grid(run)
    totals = {(p, n): class_totals(run.cell(p, n)) for p, n, _ in cells}
    names = list(dict.fromkeys(name for found in totals.values() for name in found))[:MOST_CLASSES]
    if not names:
        return None
    left = min(150.0, 16 + 6.4 * max(len(n) for n in names))
    gold = any(c is not None and a for t in totals.values() for _, a, c in t.values())
    places = [(float(-i), n if len(n) <= 20 else n[:19] + "…") for i, n in enumerate(names)]
    shares = [(t / 100, f"{t} %") for t in range(0, 101, 25)]
    panels, text = [], []
    for pair, number, title in cells:
        box = ((0.0, 1.45), (0.6 - len(names), 0.6))
        panel = Panel(title, *box, "", "", shares, places, width, 50 + 20.0 * len(names), left, grid="x")
        for i, name in enumerate(names):
            items, accepted, correct = totals[pair, number].get(name, (0, 0, None))
            share = accepted / items if items else 0.0
            tip = f"{title}, {name}: {accepted:,} of {items:,} accepted"
            panel.bar((0, -i - 0.3), (share, -i + 0.3), GREY if name == OUTSIDE else TARGET, tip=tip)
            panel.label(1.45, -i, f"{accepted:,} of {items:,}", anchor="end", dy=4)
            if correct is not None and accepted:
                panel.point(
                    correct / accepted, -i, 1, shape=3, tip=f"{title}, {name}: precision {percent(correct / accepted)}"
                )
            text.append(tip)
        panels.append(panel)
    keys = [Key("accepted share", TARGET, "bar")]
    keys += [Key("precision of accepted (gold, for looking only)", 1, "diamond")] if gold else []
    caption = "Predicted class of the target items, counts summed over seeds. A class that stays empty is not taught."
    picture = svg.figure(
        panels, title="Accepted share per class", description="; ".join(text), columns=columns, keys=keys
    )
    return Figure("classes", "Acceptance per class", caption, picture)


def merged_bins(bins: Sequence[Json]) -> list[tuple[float, float, int]]:
    """Calibration bins of several seeds merged on a grid of 0.05: (mean confidence, accuracy, count)."""
    at: dict[int, list[tuple[float, float, int]]] = {}
    for b in bins:
        confidence, accuracy = numbers([b.get("confidence"), b.get("accuracy")])
        count = int(b.get("count") or 0)
        if count and math.isfinite(confidence) and math.isfinite(accuracy):
            at.setdefault(min(int(confidence / _BIN + 1e-9), int(1 / _BIN) - 1), []).append(
                (confidence, accuracy, count)
            )
    out = []
    for _, rows in sorted(at.items()):
        total = sum(n for _, _, n in rows)
        out.append((sum(c * n for c, _, n in rows) / total, sum(a * n for _, a, n in rows) / total, total))
    return out


def calibration(run: Run) -> Figure | None:
    """Accuracy against confidence, source and (with gold) target, with the diagonal of perfect calibration."""
    cells, _, _ = grid(run)
    data = {}
    for pair, number, _ in cells:
        for role in ("source", "target"):
            bins = [b for _, d in run.cell(pair, number) for b in ((d.get("calibration") or {}).get(role) or ())]
            data[pair, number, role] = merged_bins(bins)
    shown = [v for found in data.values() for c, a, _ in found for v in (c, a)]
    if not shown:
        return None
    low = max(0.0, math.floor(min(shown) * 10) / 10)
    columns = max(2, min(len(cells), 4))
    width = min((WIDTH - 18 * (columns - 1)) / columns, 300)
    ticks = [(t, f"{100 * t:.0f} %") for t in svg.nice_ticks(low, 1.0, 4)]
    panels = []
    for pair, number, title in cells:
        panel = Panel(title, (low, 1.02), (low, 1.02), "confidence", "accuracy", ticks, ticks, width, 210, 54)
        panel.rule((low, low), (1, 1))
        for role, series in (("source", SOURCE), ("target", TARGET)):
            found = data[pair, number, role]
            panel.line([(c, a) for c, a, _ in found], series, dashed=role == "target")
            for c, a, n in found:
                tip = f"{title}, {role}: confidence {percent(c)}, accuracy {percent(a)}, {n:,} items"
                panel.point(c, a, series, hollow=role == "target", tip=tip)
        panels.append(panel)
    keys = [Key("source", SOURCE, "circle")]
    if any(data[p, n, "target"] for p, n, _ in cells):
        keys.append(Key("target (gold, for looking only)", TARGET, "hollow"))
    caption = (
        "Below the dotted diagonal the voters are more confident than they are right. Where the target lies below the "
        "source, a threshold chosen on the source lets more errors through. All seeds together."
    )
    text = f"{len(panels)} panels; accuracy against confidence in steps of {_BIN}"
    picture = svg.figure(panels, title="Calibration", description=text, columns=columns, keys=keys)
    return Figure("calibration", "Calibration of the voters", caption, picture)


def thinned(trace: Json, most: int = POINTS) -> list[tuple[float, float]]:
    """The loss curve as at most `most` points, each the mean of neighbouring steps."""
    steps, loss = numbers(trace.get("steps")), numbers(trace.get("loss"))
    pairs = [p for p in zip(steps, loss, strict=False) if all(math.isfinite(v) for v in p)]
    size = max(1, math.ceil(len(pairs) / most))
    groups = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    return [(statistics.fmean(x for x, _ in g), statistics.fmean(y for _, y in g)) for g in groups]


def losses(run: Run) -> Figure | None:
    """Training loss of every stage: a faint line per seed, a strong one for the mean of a target."""
    curves: dict[tuple[int, str], dict[str, list[list[tuple[float, float]]]]] = {}
    for stage, trace in run.traces:
        if points := thinned(trace):
            own = curves.setdefault((stage["order"], stage["action"]), {})
            own.setdefault(stage["pair"] or "", []).append(points)
    if not curves:
        return None
    pairs = sorted({p for own in curves.values() for p in own if p})
    series = {p: svg.colour(i if i < 2 else i + 1) for i, p in enumerate(pairs)} | {"": GREY}
    columns = 4 if len(curves) > 3 else len(curves)
    width = (WIDTH - 18 * (columns - 1)) / columns
    panels = []
    for (_, name), own in sorted(curves.items()):
        everything = [p for many in own.values() for points in many for p in points]
        span = svg.padded_range([y for _, y in everything])
        box = (
            (0.0, max(x for x, _ in everything)),
            (max(span[0], 0.0) if min(y for _, y in everything) >= 0 else span[0], span[1]),
        )
        panel = Panel(name, *box, "optimiser step", "", width=width, height=180, left=44, right=16)
        for pair, many in sorted(own.items()):
            for points in many if len(many) > 1 else ():
                panel.line(points, series[pair], thin=True)
            panel.line(_mean_line(many), series[pair])
        panels.append(panel)
    keys = [Key(p, series[p]) for p in pairs] + (
        [Key("all targets", GREY)] if any("" in c for c in curves.values()) else []
    )
    caption = (
        f"Loss per optimiser step (means of neighbouring steps, at most {POINTS} points a curve). Losses of different "
        "stages are different functions: compare shapes, not heights."
    )
    text = "; ".join(name for _, name in sorted(curves))
    picture = svg.figure(panels, title="Training loss per stage", description=text, columns=columns, keys=keys)
    return Figure("loss", "Training loss", caption, picture)


def _mean_line(many: Sequence[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean of curves of about equal length, cut to the shortest."""
    return [
        (statistics.fmean(x for x, _ in column), statistics.fmean(y for _, y in column))
        for column in zip(*many, strict=False)
    ]


def seconds(run: Run) -> Figure | None:
    """Seconds per stage of one seed: mean over seeds, targets side by side in one bar."""
    spent: dict[tuple[int, str], dict[str, list[float]]] = {}
    for stage in run.summary["stages"]:
        if isinstance(stage.get("seconds"), int | float):
            own = spent.setdefault((stage["order"], stage["action"]), {})
            own.setdefault(stage["pair"] or "", []).append(float(stage["seconds"]))
    if not spent:
        return None
    names = sorted(spent)
    pairs = sorted({p for own in spent.values() for p in own if p})
    series = {p: svg.colour(i if i < 2 else i + 1) for i, p in enumerate(pairs)} | {"": GREY}
    totals = {key: sum(statistics.fmean(v) for v in spent[key].values()) for key in names}
    places = [(float(-i), name) for i, (_, name) in enumerate(names)]
    left = 16 + 6.2 * max(len(text) for _, text in places)
    box = ((0.0, max(totals.values()) * 1.08 or 1.0), (0.6 - len(names), 0.6))
    panel = Panel("", *box, "seconds", "", None, places, 760, 54 + 22.0 * len(names), left, 20, "x")
    for i, key in enumerate(names):
        start = 0.0
        for pair, values in sorted(spent[key].items()):
            end = start + statistics.fmean(values)
            tip = f"{key[1]} {pair}: {end - start:.1f} s"
            panel.bar((start, -i - 0.32), (end, -i + 0.32), series[pair], tip=tip)
            start = end
        panel.label(start, -i, f"{start:.0f} s" if start >= 9.5 else f"{start:.1f} s", anchor="start", dx=5, dy=4)
    keys = [Key(p, series[p], "bar") for p in pairs]
    keys += [Key("shared by all targets", GREY, "bar")] if any("" in own for own in spent.values()) else []
    total = sum(totals.values())
    caption = f"Wall seconds of one seed, mean over seeds: {total:,.0f} s for all stages of all targets."
    text = "; ".join(f"{name} {totals[order, name]:.1f} s" for order, name in names)
    picture = svg.figure([panel], title="Seconds per stage", description=text, columns=1, keys=keys)
    return Figure("seconds", "Where the time went", caption, picture)
