"""What a report is drawn from, and the pictures of scores and thresholds; each a pure function of the run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..storage.files import read_json
from ..storage.names import targets_of
from . import svg
from .answer import Answer, answers
from .seeds import Stat
from .stage_folders import read_decision
from .stage_table import METRIC_NAMES, SIDE_ARMS, Aggregate, Json, StageKey, StageScore, aggregate, row_key, target_rows
from .summary import write_summary
from .svg import GREY, Key, Panel

WIDTH = 940.0
SOURCE, TARGET, ACCURACY, COVERAGE = 2, 0, 0, 1
SHARES = [(t / 100, f"{t} %") for t in range(0, 101, 25)]
"""Ticks of an axis from 0 to 1."""
Decisions = Sequence[tuple[int, Json]]
"""Of one target and round, each with its seed."""


@dataclass(frozen=True)
class Run:
    """Everything that a report shows. `decisions` is keyed by (target, round, seed)."""

    folder: Path
    summary: Json
    answers: dict[str, Answer]
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

    @property
    def target_rows(self) -> list[Json]:
        """Rows of the main metric: target scores of each target's models."""
        metric = self.result.metric
        rows = [r for r in self.summary["rows"] if r["metric"] == metric and isinstance(r["value"], int | float)]
        return target_rows(rows, self.result.targets)

    def cell(self, pair: str, number: int) -> list[tuple[int, Json]]:
        """The decisions of one target and round, as (seed, decision)."""
        return sorted(((k[2], d) for k, d in self.decisions.items() if k[:2] == (pair, number)), key=lambda one: one[0])

    def decides(self, field: str) -> bool:
        """Whether any decision has a value in a field."""
        return any(d.get(field) is not None for d in self.decisions.values())


@dataclass(frozen=True)
class Figure:
    """One picture of the report: file name, heading, the sentence under it; as an SVG, and as HTML that flows."""

    name: str
    title: str
    caption: str
    svg: str
    html: str


def drawn(
    name: str, title: str, caption: str, panels: Sequence[Panel], said: Iterable[str], columns: int, keys: Sequence[Key]
) -> Figure:
    """A figure of panels; `said` is what a screen reader says of it."""
    shown: dict[str, Any] = {"title": title, "description": "; ".join(said), "keys": keys}
    return Figure(name, title, caption, svg.figure(panels, columns=columns, **shown), svg.flowing(panels, **shown))


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
        for pair in targets_of(stage["pair"]) or ("",):
            if decision := read_decision(folder / stage["folder"], pair):
                decisions[pair, int(decision.get("round") or stage["round"]), stage["seed"]] = decision
    config = folder / "config.toml"
    return Run(
        folder=folder,
        summary=summary,
        answers=answers(folder),
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
    return columns, min((WIDTH - svg.GAP * (columns - 1)) / columns, 520.0)


def trail(run: Run) -> Figure | None:
    """Score after each stage, one panel per target: every seed, and the mean."""
    rows = [r for r in run.target_rows if r["arm"] == "control" or r["arm"] not in SIDE_ARMS]
    if not rows:
        return None
    low, high = svg.padded_range([r["value"] for r in rows])
    low = max(low, 0.0)
    span = (low, high + 0.13 * (high - low))
    control = [s for s in run.result.stages if s.arm == "control"]
    stages = [*run.result.trail, *control]
    aside = 0.3 if control and run.result.trail else 0.0
    place = {s.key: i + aside * (s.arm == "control") for i, s in enumerate(stages)}
    ticks = [(place[s.key], s.label) for s in stages]
    columns, width = columns_for(len(run.result.targets))
    box = ((-0.5, len(stages) - 0.5 + aside), span, "", "", ticks, svg.ticks(low, high), width, 300)
    panels = []
    for target in run.result.targets:
        panels.append(panel := Panel(f"{target}: {run.metric}", *box))
        _trail_panel(panel, target, [r for r in rows if r["language"] == target], stages, place, run.result.seeds)
    keys = [Key("mean over seeds", TARGET)]
    keys += [Key(f"seed {s}", GREY, svg.shape_name(i)) for i, s in enumerate(run.result.seeds)]
    keys += [Key("control arm, not part of the trail", GREY, "hollow")] if aside else []
    caption = (
        f"{run.metric} on each target's test set after every stage. A marker is one seed; faint lines join the stages "
        "of a seed; the numbers on top are means over seeds. Shaded: self-training."
    )
    said = [f"{s.label}: " + ", ".join(f"{t} {v}" for t, v in s.targets.items()) for s in run.result.stages]
    return drawn("trail", "Score after each stage", caption, panels, said, columns, keys)


def _trail_panel(
    panel: Panel,
    target: str,
    rows: Sequence[Json],
    stages: Sequence[StageScore],
    place: dict[StageKey, float],
    seeds: Sequence[int],
) -> None:
    if student := [place[s.key] for s in stages if s.arm == "selftrain"]:
        panel.band(student[0] - 0.5, student[-1] + 0.5)
    path = [(place[s.key], s) for s in stages if s.arm != "control"]
    dodge = {seed: (i - (len(seeds) - 1) / 2) * min(0.13, 0.6 / len(seeds)) for i, seed in enumerate(seeds)}
    for seed in seeds if len(seeds) > 1 else ():
        own = {row_key(r): r["value"] for r in rows if r["seed"] == seed}
        panel.line([(x + dodge[seed], own[s.key]) for x, s in path if s.key in own], GREY, thin=True)
    panel.line([(x, s.targets[target].mean) for x, s in path if target in s.targets], TARGET)
    for r in rows:
        x, shape = place[row_key(r)] + dodge[r["seed"]], list(seeds).index(r["seed"])
        tip = f"{target}, {r['label']}, seed {r['seed']}: {r['value']:.1f}"
        panel.point(x, r["value"], GREY, shape=shape, hollow=r["arm"] == "control", tip=tip)
    panel.label(panel.x[0], panel.y[1], "mean", anchor="end", dx=-6, dy=14, css=f"small t{TARGET}")
    for s in stages:
        if target in s.targets:
            css = "value muted" if s.arm == "control" else f"value t{TARGET}"
            panel.label(place[s.key], panel.y[1], f"{s.targets[target].mean:.1f}", dy=14, css=css)


Bar = tuple[Stat | None, int, bool, str]
"""Height, series, whether it is the paler of a pair, and the text on hovering."""


def bars(panel: Panel, at: float, group: Sequence[Bar], text: Callable[[float], str]) -> None:
    """A group of bars around an x position, each with its deviation and its value."""
    size = min(0.8 / len(group), 0.4)
    for i, (value, series, soft, tip) in enumerate(group):
        if value is None:
            continue
        left = at + (i - len(group) / 2) * size
        panel.bar((left + 0.02, 0), (left + size - 0.02, value.mean), series, soft=soft, tip=tip)
        if value.std is not None:
            panel.error(left + size / 2, value.mean, value.std)
        panel.label(left + size / 2, max(value.mean, 0) + (value.std or 0), text(value.mean), dy=-5)


def languages(run: Run) -> Figure | None:
    """Bars of first and last stage per language, and the transfer gap beside them."""
    steps, targets = run.result.trail, run.result.targets
    if not steps or not targets:
        return None
    ends = [steps[0], steps[-1]] if len(steps) > 1 else [steps[0]]
    groups: list[tuple[str, int, list[Stat | None]]] = []
    if run.result.source and any(s.source for s in ends):
        groups.append((f"{run.result.source} (source)", SOURCE, [s.source for s in ends]))
    groups += [(t, TARGET, [s.targets.get(t) for s in ends]) for t in targets]
    if len(targets) > 1:
        groups.append(("mean, targets", GREY, [s.average for s in ends]))
    if any(s.average_with_source for s in ends):
        groups.append(("mean with source", GREY, [s.average_with_source for s in ends]))
    gaps: list[tuple[str, int, list[Stat | None]]] = [(t, 1, [s.gaps.get(t) for s in ends]) for t in targets]
    panels = [_bar_panel(f"{run.metric} by language", groups, 560 if any(g[2][0] for g in gaps) else WIDTH)]
    if any(value for g in gaps for value in g[2]):
        panels.append(_bar_panel("transfer gap (source - target)", gaps, WIDTH - 578))
    keys = [Key(s.label, GREY, "bar" if s is ends[-1] else "soft") for s in ends]
    keys += [Key("source", SOURCE, "bar"), Key("targets", TARGET, "bar"), Key("averages", GREY, "bar")]
    caption = (
        "Means over seeds; the whiskers are one standard deviation either way. Source scores are those of the same "
        "models (mean over targets); a gap also shrinks when the source score falls."
    )
    said = [f"{name}: " + ", ".join(str(v) for v in values if v) for name, _, values in [*groups, *gaps]]
    return drawn("languages", "Languages and transfer gaps", caption, panels, said, 2, keys)


def _bar_panel(title: str, groups: Sequence[tuple[str, int, list[Stat | None]]], width: float) -> Panel:
    """A group of bars for each language, the last stage the solid one."""
    values = [v for _, _, group in groups for v in group if v]
    span = svg.padded_range([v.mean + s * (v.std or 0) for v in values for s in (-1, 1)], zero=True, pad=0.13)
    ticks = [(float(i), name) for i, (name, _, _) in enumerate(groups)]
    panel = Panel(title, (-0.6, len(groups) - 0.4), span, x_ticks=ticks, width=width, height=250, left=34)
    for i, (name, series, group) in enumerate(groups):
        shown = [(v, series, j < len(group) - 1, f"{name}: {v}") for j, v in enumerate(group)]
        bars(panel, i, shown, "{:.1f}".format)
    return panel


def thresholds(run: Run) -> Figure | None:
    """Accuracy and coverage against the threshold, source and (with gold) target, with alpha marked."""
    columns, width = columns_for(len(run.rounds), 2 if len(run.rounds) == 2 else 3)
    if len(run.rounds) == 1:
        columns, width = columns_for(len(run.pairs), 2)
    cells = [(f"{p}, round {n}" if p else f"round {n}", run.cell(p, n)) for p in run.pairs for n in run.rounds]
    drawing = _threshold_panels(cells, run.result.seeds or (0,), width)
    if drawing is None:
        return None
    panels, keys, said = drawing
    caption = (
        "The threshold α is chosen on the labelled source and used on the target. Lines are means over seeds, dotted "
        "verticals the α of each seed with its accuracy and coverage on the source."
    )
    return drawn("thresholds", "Threshold: accuracy against coverage", caption, panels, said, columns, keys)


def threshold_picture(
    cells: Sequence[tuple[str, Decisions]], seeds: Sequence[int], columns: int, width: float
) -> str | None:
    """Threshold curves as an SVG, a panel for each title with its decisions by seed; None without any item."""
    if (drawing := _threshold_panels(cells, seeds, width)) is None:
        return None
    panels, keys, said = drawing
    return svg.figure(panels, title="Threshold curves", description="; ".join(said), columns=columns, keys=keys)


def _threshold_panels(
    cells: Sequence[tuple[str, Decisions]], seeds: Sequence[int], width: float
) -> tuple[list[Panel], list[Key], list[str]] | None:
    decisions = [decision for _, found in cells for _, decision in found]
    curves = [d[k] for d in decisions for k in ("curve", "target_curve") if d.get(k)]
    xs = [x for c in curves for x in numbers(c.get("thresholds"))]
    xs += [d["alpha"] for d in decisions if d.get("alpha") is not None]
    ys = [y for c in curves for k in ("accuracy", "coverage") for y in numbers(c.get(k)) if math.isfinite(y)]
    if not xs or not ys:
        return None
    low = max(0.0, min(ys) - 0.06)
    ticks = [(t, f"{100 * t:.0f} %") for t in svg.nice_ticks(low, 1.0, 4)]
    box = ((min(xs), max(xs)), (low, 1.04), "threshold on the voters' confidence", "", None, ticks, width, 250)
    panels = []
    for title, found in cells:
        panels.append(panel := Panel(title, *box))
        _threshold_panel(panel, found, seeds)
    gold = any(d.get("target_curve") for d in decisions)
    keys = [Key("accuracy of what is kept", ACCURACY), Key("coverage (share kept)", COVERAGE), Key("source", GREY)]
    keys += [Key("target (gold, for looking only)", GREY, "dash")] if gold else []
    return panels, keys, [f"{title}: alpha {alphas(found)}" for title, found in cells]


def alphas(found: Decisions) -> str:
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


def _threshold_panel(panel: Panel, found: Decisions, seeds: Sequence[int]) -> None:
    shapes = {seed: i for i, seed in enumerate(seeds)}
    for key, series in (("accuracy", ACCURACY), ("coverage", COVERAGE)):
        for which, dashed in (("curve", False), ("target_curve", True)):
            panel.line(mean_curve([d[which] for _, d in found if d.get(which)], key), series, dashed=dashed)
    for seed, decision in found:
        if (alpha := decision.get("alpha")) is None:
            continue
        panel.rule((alpha, panel.y[0]), (alpha, panel.y[1]))
        for key, series in (("accuracy", ACCURACY), ("coverage", COVERAGE)):
            at = dict(mean_curve([decision.get("curve") or {}], key)).get(round(alpha, 9))
            if at is not None:
                tip = f"seed {seed}: α {alpha:.2f}, {key} {percent(at)}"
                panel.point(alpha, at, series, shape=shapes.get(seed, 0), tip=tip)
    if text := alphas(found):
        panel.label(panel.x[0], panel.y[0], f"α = {text}", anchor="start", dx=6, dy=-8, css="value")
