"""More pictures of a report: what the filter accepted, how training went, and where the time was spent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from . import svg
from .parts import SHARES, SOURCE, Figure, Run, bars, columns_for, drawn, numbers, percent
from .seeds import stat
from .stage_table import Json
from .svg import GREY, Key, Panel, Point

POINTS = 100
T = TypeVar("T")


def quality(run: Run) -> Figure | None:
    """Share of target items accepted (all, `O`, entities) and their precision, per round."""
    if not run.decisions:
        return None
    series: list[tuple[str, int, Callable[[Json], Any]]] = [("all items", GREY, accepted_share)]
    if tagging := run.decides("coverage_entity"):
        series += [("predicted O", 5, lambda d: d.get("coverage_o"))]
        series += [("predicted entity", 1, lambda d: d.get("coverage_entity"))]
    if run.decides("precision_if_gold"):
        series += [("precision of accepted (gold, for looking only)", SOURCE, lambda d: d.get("precision_if_gold"))]
    columns, width = columns_for(len(run.pairs), 3 if len(run.rounds) < 3 else 2)
    rounds = [(float(i), f"round {n}") for i, n in enumerate(run.rounds)]
    panels, said = [], []
    for pair in run.pairs:
        panels.append(panel := Panel(pair, (-0.55, len(rounds) - 0.45), (0, 1.12), "", "", rounds, SHARES, width, 220))
        for i, number in enumerate(run.rounds):
            group = []
            for name, colour, read in series:
                values = numbers(read(d) for _, d in run.cell(pair, number))
                shown = stat(v for v in values if math.isfinite(v))
                group.append((shown, colour, False, f"{pair}, round {number}, {name}: {percent(shown and shown.mean)}"))
            bars(panel, i, group, percent)
            said += [tip for shown, _, _, tip in group if shown]
    keys = [Key(name, colour, "bar") for name, colour, _ in series]
    caption = (
        "Share of the target items that the filter accepted, by what the voters predicted; means over seeds ± std."
    )
    if tagging:
        caption += " The entity bar is the one that teaches: accepted O alone carries little."
    return drawn("pseudo-labels", "Pseudo-labels: how many, how good", caption, panels, said, columns, keys)


def accepted_share(decision: Json) -> float:
    """Accepted target items over all of them, NaN where unknown."""
    accepted, items = decision.get("accepted"), decision.get("items")
    return accepted / items if accepted is not None and items else math.nan


def thinned(trace: Json, most: int = POINTS) -> list[Point]:
    """The loss curve as at most `most` points, each the mean of neighbouring steps."""
    pairs = zip(numbers(trace.get("steps")), numbers(trace.get("loss")), strict=False)
    points = [p for p in pairs if all(math.isfinite(v) for v in p)]
    size = max(1, math.ceil(len(points) / most))
    return [_mean_point(points[i : i + size]) for i in range(0, len(points), size)]


def _mean_point(points: Sequence[Point]) -> Point:
    x, y = (statistics.fmean(values) for values in zip(*points, strict=True))
    return x, y


def _by_stage(values: Iterable[tuple[Json, T]]) -> list[tuple[str, dict[str, list[T]]]]:
    """What each stage has by target, "" for all targets, with the stage's name; in the order of the run."""
    stages: dict[tuple[int, str], dict[str, list[T]]] = {}
    for stage, value in values:
        own = stages.setdefault((stage["order"], stage["action"]), {})
        own.setdefault(stage["pair"] or "", []).append(value)
    return [(name, own) for (_, name), own in sorted(stages.items(), key=lambda item: item[0])]


def _target_keys(stages: Sequence[tuple[str, dict[str, Any]]], shared: str, mark: str) -> dict[str, Key]:
    """A legend by target, "" for what all targets share."""
    pairs = sorted({pair for _, own in stages for pair in own})
    named = [p for p in pairs if p]
    keys = {p: Key(p, svg.colour(i if i < 2 else i + 1), mark) for i, p in enumerate(named)}
    return keys | ({"": Key(shared, GREY, mark)} if "" in pairs else {})


def losses(run: Run) -> Figure | None:
    """Training loss of every stage: a faint line per seed, a strong one for the mean of a target."""
    curves = _by_stage((stage, points) for stage, trace in run.traces if (points := thinned(trace)))
    if not curves:
        return None
    keys = _target_keys(curves, "all targets", "line")
    columns, width = columns_for(len(curves), 4)
    panels = []
    for name, own in curves:
        xs, ys = zip(*(point for many in own.values() for points in many for point in points), strict=True)
        low, high = svg.padded_range(ys)
        box = ((0.0, max(xs)), (max(low, 0.0) if min(ys) >= 0 else low, high), "optimiser step")
        panels.append(panel := Panel(name, *box, width=width, height=180, left=44, right=16))
        for pair, many in sorted(own.items()):
            for points in many if len(many) > 1 else ():
                panel.line(points, keys[pair].series, thin=True)
            # Curves of about equal length, cut to the shortest.
            panel.line([_mean_point(points) for points in zip(*many, strict=False)], keys[pair].series)
    caption = (
        f"Loss per optimiser step (means of neighbouring steps, at most {POINTS} points a curve). Losses of different "
        "stages are different functions: compare shapes, not heights."
    )
    said = [name for name, _ in curves]
    return drawn("loss", "Training loss", caption, panels, said, columns, list(keys.values()))


def held_out(run: Run) -> Figure | None:
    """What pre-training makes of text that it does not learn: accuracy of the masked tokens, by language."""
    traces = [trace["held_out"] for _, trace in run.traces if trace.get("held_out")]
    if not traces:
        return None
    names = [name for name in traces[0][0] if name != "step"]
    points = {name: [[(p["step"], p[name]["accuracy"]) for p in trace] for trace in traces] for name in names}
    most = max(y for many in points.values() for line in many for _, y in line)
    last = max(x for many in points.values() for line in many for x, _ in line)
    ticks = [(t, percent(t)) for t in svg.nice_ticks(0.0, most, 4)]
    panel = Panel("", (0.0, last), (0.0, 1.05 * most), "optimiser step", "", None, ticks, width=760, height=220)
    keys = {name: Key(name, svg.colour(i), "line") for i, name in enumerate(points)}
    for name, many in points.items():
        for line in many:
            panel.line(line, keys[name].series)
    said = [f"{name}: {percent(statistics.fmean(line[-1][1] for line in many))}" for name, many in points.items()]
    caption = (
        "Share of the masked tokens of held-out sentences that the model finds: " + ", ".join(said) + " at the end."
    )
    return drawn("held-out", "Masked words of held-out text", caption, [panel], said, 1, list(keys.values()))


def seconds(run: Run) -> Figure | None:
    """Seconds per stage of one seed: mean over seeds, targets side by side in one bar."""
    stages = run.summary["stages"]
    spent = _by_stage((s, float(s["seconds"])) for s in stages if isinstance(s.get("seconds"), int | float))
    if not spent:
        return None
    keys = _target_keys(spent, "shared by all targets", "bar")
    totals = [sum(map(statistics.fmean, own.values())) for _, own in spent]
    places = [(float(-i), name) for i, (name, _) in enumerate(spent)]
    left = 16 + 6.2 * max(len(name) for name, _ in spent)
    box = ((0.0, max(totals) * 1.08 or 1.0), (0.6 - len(spent), 0.6))
    panel = Panel("", *box, "seconds", "", None, places, 760, 54 + 22.0 * len(spent), left, 20, "x")
    for i, (name, own) in enumerate(spent):
        start = 0.0
        for pair, values in sorted(own.items()):
            end = start + statistics.fmean(values)
            tip = f"{name} {pair}: {end - start:.1f} s"
            panel.bar((start, -i - 0.32), (end, -i + 0.32), keys[pair].series, tip=tip)
            start = end
        panel.label(start, -i, f"{start:.0f} s" if start >= 9.5 else f"{start:.1f} s", anchor="start", dx=5, dy=4)
    caption = f"Wall seconds of one seed, mean over seeds: {sum(totals):,.0f} s for all stages of all targets."
    said = [f"{name} {total:.1f} s" for (name, _), total in zip(spent, totals, strict=True)]
    return drawn("seconds", "Where the time went", caption, [panel], said, 1, list(keys.values()))
