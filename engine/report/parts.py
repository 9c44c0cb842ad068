"""What a report is drawn from, and the pictures of scores and thresholds; each a pure function of the run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage.files import read_json
from . import svg
from .stage_table import METRIC_NAMES, SIDE_ARMS, Aggregate, Json, StageScore, aggregate
from .summary import write_summary
from .svg import GREY, Key, Panel

WIDTH = 940.0
SOURCE, TARGET, ACCURACY, COVERAGE = 2, 0, 0, 1


@dataclass(frozen=True)
class Run:
    """Everything that a report shows. `decisions` is keyed by (pair, round, seed)."""

    folder: Path
    summary: Json
    result: Aggregate
    info: Json
    status: Json
    settings: str
    decisions: dict[tuple[str, int, int], Json]
    traces: list[tuple[Json, Json]]

    @property
    def metric(self) -> str:
        return METRIC_NAMES.get(self.result.metric, self.result.metric)

    @property
    def pairs(self) -> list[str]:
        return sorted({pair for pair, _, _ in self.decisions})

    @property
    def rounds(self) -> list[int]:
        return sorted({number for _, number, _ in self.decisions})

    def cell(self, pair: str, number: int) -> list[tuple[int, Json]]:
        """The decisions of one target and round, as (seed, decision)."""
        found = [(k[2], d) for k, d in self.decisions.items() if k[:2] == (pair, number)]
        return sorted(found, key=lambda item: item[0])


@dataclass(frozen=True)
class Figure:
    """One picture of the report: file name, heading, the sentence under it, and the SVG."""

    name: str
    title: str
    caption: str
    svg: str


def load_run(folder: str | Path) -> Run:
    """Read a run folder, and bring its summary.json up to date.

    Raises:
        DataError: the folder is not a run, or one of its JSON files is damaged.
    """
    folder = Path(folder)
    summary = write_summary(folder)
    decisions: dict[tuple[str, int, int], Json] = {}
    traces: list[tuple[Json, Json]] = []
    for stage in summary["stages"]:
        if trace := read_json(folder / stage["folder"] / "trace.json"):
            traces.append((stage, trace))
        if decision := read_json(folder / stage["folder"] / "decision.json"):
            number = int(decision.get("round") or stage["round"])
            decisions[str(stage["pair"] or ""), number, stage["seed"]] = decision
    config = folder / "config.toml"
    return Run(
        folder=folder,
        summary=summary,
        result=aggregate(summary),
        info=read_json(folder / "run.json"),
        status=read_json(folder / "status.json"),
        settings=config.read_text("utf-8", errors="replace") if config.exists() else "",
        decisions=decisions,
        traces=traces,
    )


def numbers(values: Iterable[Any] | None) -> list[float]:
    """A JSON list as floats; null becomes NaN, which no picture draws."""
    return [float(v) if isinstance(v, int | float) else math.nan for v in values or ()]


def percent(value: Any) -> str:
    """A fraction as a percentage, or a dash; never rounded up to 100 %."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "-"
    text = f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if text in ("0 %", "100 %") and value not in (0, 1) else text


def mean(values: Iterable[Any]) -> float:
    """The mean of the finite numbers among `values`, NaN if there are none."""
    kept = [v for v in numbers(values) if math.isfinite(v)]
    return statistics.fmean(kept) if kept else math.nan


def columns_for(count: int, most: int = 3) -> tuple[int, float]:
    """How many panels in a row, and how wide each."""
    columns = max(1, min(count, most))
    return columns, min((WIDTH - 18 * (columns - 1)) / columns, 620.0)


def _seed_keys(seeds: Sequence[int], series: int = GREY) -> list[Key]:
    return [Key(f"seed {s}", series, svg.shape_name(i)) for i, s in enumerate(seeds)]


def trail(run: Run) -> Figure | None:
    """Score after each stage, one panel per target: every seed, and the mean."""
    stages, seeds = run.result.stages, run.result.seeds
    if not stages or not run.result.targets:
        return None
    rows = [r for r in run.summary["rows"] if r["metric"] == run.result.metric and isinstance(r["value"], int | float)]
    own = [r for r in rows if r["language"] in run.result.targets and r["pair"] in (None, r["language"])]
    own = [r for r in own if r["arm"] == "control" or r["arm"] not in SIDE_ARMS]
    if not own:
        return None
    low, high = svg.padded_range([r["value"] for r in own])
    low = max(low, 0.0)
    span = (low, high + 0.13 * (high - low))
    scale = svg.nice_ticks(low, high)
    marks = [(t, svg.tick_text(t, scale)) for t in scale]
    ordered = [*run.result.trail, *(s for s in stages if s.arm == "control")]
    aside = 0.3 if len(ordered) > len(run.result.trail) > 0 else 0.0
    place = {(s.order, s.arm, s.stage): i + aside * (s.arm == "control") for i, s in enumerate(ordered)}
    columns, width = columns_for(len(run.result.targets))
    panels = []
    for target in run.result.targets:
        ticks = [(place[s.order, s.arm, s.stage], s.label) for s in ordered]
        panel = Panel(
            f"{target}: {run.metric}", (-0.5, len(ordered) - 0.5 + aside), span, "", "", ticks, marks, width, 300
        )
        _trail_panel(panel, [r for r in own if r["language"] == target], place, ordered, seeds, target)
        panels.append(panel)
    keys = [Key("mean over seeds", TARGET), *_seed_keys(seeds)]
    if aside:
        keys.append(Key("control arm, not part of the trail", GREY, "hollow"))
    caption = (
        f"{run.metric} on each target's test set after every stage. A marker is one seed; faint lines join the stages "
        "of a seed; the numbers on top are means over seeds. Shaded: self-training."
    )
    text = "; ".join(f"{s.label}: " + ", ".join(f"{t} {v}" for t, v in s.targets.items()) for s in stages)
    picture = svg.figure(panels, title="Score after each stage", description=text, columns=columns, keys=keys)
    return Figure("trail", "Score after each stage", caption, picture)


def _trail_panel(
    panel: Panel,
    rows: Sequence[Json],
    place: dict[tuple[int, str, str], float],
    stages: Sequence[StageScore],
    seeds: Sequence[int],
    target: str,
) -> None:
    at = {i: place[s.order, s.arm, s.stage] for i, s in enumerate(stages)}
    student = [at[i] for i, s in enumerate(stages) if s.arm == "selftrain"]
    if student:
        panel.band(student[0] - 0.5, student[-1] + 0.5)
    trail_at = [i for i, s in enumerate(stages) if s.arm != "control"]
    dodge = {seed: (i - (len(seeds) - 1) / 2) * min(0.13, 0.6 / len(seeds)) for i, seed in enumerate(seeds)}
    for seed in seeds:
        own = {place[r["order"], r["arm"], r["stage"]]: r["value"] for r in rows if r["seed"] == seed}
        if len(seeds) > 1:
            panel.line([(at[i] + dodge[seed], own[at[i]]) for i in trail_at if at[i] in own], GREY, thin=True)
    panel.line([(at[i], stages[i].targets[target].mean) for i in trail_at if target in stages[i].targets], TARGET)
    for r in rows:
        x, shape = place[r["order"], r["arm"], r["stage"]] + dodge[r["seed"]], list(seeds).index(r["seed"])
        tip = f"{target}, {r['label']}, seed {r['seed']}: {r['value']:.1f}"
        panel.point(x, r["value"], GREY, shape=shape, hollow=r["arm"] == "control", tip=tip)
    panel.label(panel.x[0], panel.y[1], "mean", anchor="end", dx=-6, dy=14, css=f"small t{TARGET}")
    for i, s in enumerate(stages):
        if target in s.targets:
            css = "value muted" if s.arm == "control" else f"value t{TARGET}"
            panel.label(at[i], panel.y[1], f"{s.targets[target].mean:.1f}", dy=14, css=css)


def languages(run: Run) -> Figure | None:
    """Bars of first and last stage per language, and the transfer gap beside them."""
    steps = run.result.trail
    if not steps or not run.result.targets:
        return None
    ends = [steps[0], steps[-1]] if len(steps) > 1 else [steps[0]]
    groups: list[tuple[str, int, list[Any]]] = []
    if run.result.source and any(s.source for s in ends):
        groups.append((f"{run.result.source} (source)", SOURCE, [s.source for s in ends]))
    groups += [(t, TARGET, [s.targets.get(t) for s in ends]) for t in run.result.targets]
    if len(run.result.targets) > 1:
        groups.append(("mean, targets", GREY, [s.average for s in ends]))
    if any(s.average_with_source for s in ends):
        groups.append(("mean with source", GREY, [s.average_with_source for s in ends]))
    gaps = [(t, 1, [s.gaps.get(t) for s in ends]) for t in run.result.targets]
    panels = [_bar_panel(f"{run.metric} by language", groups, 560 if any(g[2][0] for g in gaps) else WIDTH)]
    if any(value for g in gaps for value in g[2]):
        panels.append(_bar_panel("transfer gap (source - target)", gaps, WIDTH - 578))
    names = [s.label for s in ends]
    keys = [Key(name, GREY, "bar" if i == len(names) - 1 else "soft") for i, name in enumerate(names)]
    keys += [Key("source", SOURCE, "bar"), Key("targets", TARGET, "bar"), Key("averages", GREY, "bar")]
    caption = (
        "Means over seeds; the whiskers are one standard deviation either way. Source scores are those of the same "
        "models (mean over targets); a gap also shrinks when the source score falls."
    )
    text = "; ".join(f"{name}: " + ", ".join(str(v) for v in values if v) for name, _, values in [*groups, *gaps])
    picture = svg.figure(panels, title="Scores and transfer gaps by language", description=text, columns=2, keys=keys)
    return Figure("languages", "Languages and transfer gaps", caption, picture)


def _bar_panel(title: str, groups: Sequence[tuple[str, int, list[Any]]], width: float) -> Panel:
    """Grouped bars with value labels and error bars; the last bar of a group is the solid one."""
    values = [v for _, _, group in groups for v in group if v]
    reach = [v.mean + s * (v.std or 0) for v in values for s in (-1, 1)]
    span = svg.padded_range(reach, zero=True, pad=0.13)
    ticks = [(float(i), name) for i, (name, _, _) in enumerate(groups)]
    panel = Panel(title, (-0.6, len(groups) - 0.4), span, x_ticks=ticks, width=width, height=250, left=34)
    for i, (name, series, group) in enumerate(groups):
        size = min(0.76 / len(group), 0.42)
        for j, value in enumerate(group):
            if not value:
                continue
            a = i + (j - len(group) / 2) * size
            panel.bar(
                (a + 0.02, 0), (a + size - 0.02, value.mean), series, soft=j < len(group) - 1, tip=f"{name}: {value}"
            )
            if value.std is not None:
                panel.error(a + size / 2, value.mean, value.std)
            high = max(value.mean, 0) + (value.std or 0)
            panel.label(a + size / 2, high, f"{value.mean:.1f}", dy=-5)
    return panel


def grid(run: Run) -> tuple[list[tuple[str, int, str]], int, float]:
    """One panel per target and round, rounds side by side: (pair, round, title), columns and width."""
    columns, width = columns_for(len(run.rounds), 2 if len(run.rounds) == 2 else 3)
    if len(run.rounds) == 1:
        columns, width = columns_for(len(run.pairs), 2)
    cells = [(p, n, f"{p}, round {n}" if p else f"round {n}") for p in run.pairs for n in run.rounds]
    return cells, columns, width


def thresholds(run: Run) -> Figure | None:
    """Accuracy and coverage against the threshold, source and (with gold) target, with alpha marked."""
    cells, columns, width = grid(run)
    panels = [(title, run.cell(pair, number)) for pair, number, title in cells]
    picture = threshold_picture(panels, run.result.seeds or (0,), columns, width)
    caption = (
        "The threshold α is chosen on the labelled source and used on the target. Lines are means over seeds, dotted "
        "verticals the α of each seed with its accuracy and coverage on the source."
    )
    return None if picture is None else Figure("thresholds", "Threshold: accuracy against coverage", caption, picture)


def threshold_picture(
    cells: Sequence[tuple[str, Sequence[tuple[int, Json]]]], seeds: Sequence[int], columns: int, width: float
) -> str | None:
    """Threshold curves as an SVG, a panel for each title with its decisions by seed; None without any item."""
    decisions = [decision for _, found in cells for _, decision in found]
    curves = [d[k] for d in decisions for k in ("curve", "target_curve") if d.get(k)]
    xs = [x for c in curves for x in numbers(c.get("thresholds"))]
    xs += [d["alpha"] for d in decisions if d.get("alpha") is not None]
    ys = [y for c in curves for k in ("accuracy", "coverage") for y in numbers(c.get(k)) if math.isfinite(y)]
    if not xs or not ys:
        return None
    span, high = (min(xs), max(xs)), (max(0.0, min(ys) - 0.06), 1.04)
    ticks = [(t, f"{100 * t:.0f} %") for t in svg.nice_ticks(high[0], 1.0, 4)]
    panels = []
    for title, found in cells:
        panel = Panel(
            title, span, high, "threshold on the voters' confidence", "", y_ticks=ticks, width=width, height=250
        )
        _threshold_panel(panel, found, seeds)
        panels.append(panel)
    gold = any(d.get("target_curve") for d in decisions)
    keys = [Key("accuracy of what is kept", ACCURACY), Key("coverage (share kept)", COVERAGE), Key("source", GREY)]
    keys += [Key("target (gold, for looking only)", GREY, "dash")] if gold else []
    text = "; ".join(f"{title}: alpha {alphas(found)}" for title, found in cells)
    return svg.figure(panels, title="Threshold curves", description=text, columns=columns, keys=keys)


def alphas(found: Sequence[tuple[int, Json]]) -> str:
    """The thresholds of some decisions, `*` for one at the edge of the grid."""
    return ", ".join(f"{d['alpha']:.2f}" + "*" * bool(d.get("at_edge")) for _, d in found if d.get("alpha") is not None)


def mean_curve(curves: Sequence[Json], key: str) -> list[tuple[float, float]]:
    """One curve as (threshold, mean over the given curves); a threshold that only some have is averaged over those."""
    at: dict[float, list[float]] = {}
    for curve in curves:
        for x, y in zip(numbers(curve.get("thresholds")), numbers(curve.get(key)), strict=False):
            if math.isfinite(y):
                at.setdefault(round(x, 9), []).append(y)
    return [(x, statistics.fmean(ys)) for x, ys in sorted(at.items())]


def _threshold_panel(panel: Panel, found: Sequence[tuple[int, Json]], seeds: Sequence[int]) -> None:
    for key, series in (("accuracy", ACCURACY), ("coverage", COVERAGE)):
        for which, dashed in (("curve", False), ("target_curve", True)):
            panel.line(mean_curve([d[which] for _, d in found if d.get(which)], key), series, dashed=dashed)
    for seed, decision in found:
        alpha, curve = decision.get("alpha"), decision.get("curve") or {}
        if alpha is None:
            continue
        panel.rule((alpha, panel.y[0]), (alpha, panel.y[1]))
        for key, series in (("accuracy", ACCURACY), ("coverage", COVERAGE)):
            at = {
                round(x, 9): y for x, y in zip(numbers(curve.get("thresholds")), numbers(curve.get(key)), strict=False)
            }
            if round(alpha, 9) in at:
                tip = f"seed {seed}: α {alpha:.2f}, {key} {percent(at[round(alpha, 9)])}"
                shape = list(seeds).index(seed) if seed in seeds else 0
                panel.point(alpha, at[round(alpha, 9)], series, shape=shape, tip=tip)
    if text := alphas(found):
        panel.label(panel.x[0], panel.y[0], f"α = {text}", anchor="start", dx=6, dy=-8, css="value")
