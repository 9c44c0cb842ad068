"""What a report is drawn from, and its four pictures; each a pure function of the run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..storage.files import read_json
from ..storage.names import targets_of
from ..storage.text import percent
from ..summary.answer import Answer, answers
from ..summary.seeds import Stat, mean, numbers
from ..summary.stage_folders import read_decision
from ..summary.stage_table import (
    METRIC_NAMES,
    SIDE_ARMS,
    Aggregate,
    Json,
    StageKey,
    StageScore,
    aggregate,
    row_key,
    target_rows,
)
from ..summary.summary import write_summary
from . import svg
from .svg import GREY, Key, Panel, Point

WIDTH = 940.0
SOURCE, TARGET, ACCURACY, COVERAGE, ACCEPTED, ENTITIES = 2, 0, 0, 1, 3, 4
POINTS = 100
"""Of a curve of losses, at most."""
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
    """One picture of the report: file name, heading, the sentence under it, and the SVG, in the page as on the disk."""

    name: str
    title: str
    caption: str
    svg: str


def drawn(
    name: str, title: str, caption: str, panels: Sequence[Panel], said: Iterable[str], columns: int, keys: Sequence[Key]
) -> Figure:
    """A figure of panels; `said` is what a screen reader says of it."""
    drawing = svg.figure(panels, title=title, description="; ".join(said), columns=columns, keys=keys)
    return Figure(name, title, caption, drawing)


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
    for at, (name, series, group) in enumerate(groups):
        size = min(0.8 / len(group), 0.4)
        for i, value in enumerate(group):
            if value is None:
                continue
            left, last = at + (i - len(group) / 2) * size, i == len(group) - 1
            ends = (left + 0.02, 0.0), (left + size - 0.02, value.mean)
            panel.bar(*ends, series, soft=not last, tip=f"{name}: {value}")
            if value.std is not None:
                panel.error(left + size / 2, value.mean, value.std)
            panel.label(left + size / 2, max(value.mean, 0) + (value.std or 0), f"{value.mean:.1f}", dy=-5)
    return panel


def thresholds(run: Run) -> Figure | None:
    """Accuracy and coverage against the threshold, source and (with gold) target, with alpha marked."""
    columns, width = columns_for(len(run.rounds), 2 if len(run.rounds) == 2 else 3)
    if len(run.rounds) == 1:
        columns, width = columns_for(len(run.pairs), 2)
    cells = [(f"{p}, round {n}" if p else f"round {n}", run.cell(p, n)) for p in run.pairs for n in run.rounds]
    caption = (
        "The threshold α is chosen on the labelled source and used on the target. Lines are means over seeds, dotted "
        "verticals the α of each seed with its accuracy and coverage on the source; hollow is the share of the "
        "target's items that the filter accepted"
    )
    caption += "; entities teach, accepted O alone carries little." if run.decides("coverage_entity") else "."
    title = "Threshold: accuracy against coverage"
    return threshold_figure(cells, run.result.seeds or (0,), columns, width, title, caption)


def threshold_figure(
    cells: Sequence[tuple[str, Decisions]], seeds: Sequence[int], columns: int, width: float, title: str, caption: str
) -> Figure | None:
    """Threshold curves, a panel for each cell: its title and decisions by seed. None without any item."""
    decisions = [decision for _, found in cells for _, decision in found]
    curves = [d[k] for d in decisions for k in ("curve", "target_curve") if d.get(k)]
    xs = [x for c in curves for x in numbers(c.get("thresholds"))]
    xs += [d["alpha"] for d in decisions if d.get("alpha") is not None]
    ys = [y for c in curves for k in ("accuracy", "coverage") for y in numbers(c.get(k))]
    accepted = [one for d in decisions for one in _accepted(d)]
    ys = [y for y in (*ys, *(share for _, share, _ in accepted)) if math.isfinite(y)]
    if not xs or not ys:
        return None
    low = max(0.0, min(ys) - 0.06)
    ticks = [(t, f"{100 * t:.0f} %") for t in svg.nice_ticks(low, 1.0, 4)]
    box = ((min(xs), max(xs)), (low, 1.04), "threshold on the voters' confidence", "", None, ticks, width, 250)
    panels = []
    for name, found in cells:
        panels.append(panel := Panel(name, *box))
        _threshold_panel(panel, found, seeds)
    gold = any(d.get("target_curve") for d in decisions)
    keys = [Key("accuracy of what is kept", ACCURACY), Key("coverage (share kept)", COVERAGE), Key("source", GREY)]
    keys += [Key("target (gold, for looking only)", GREY, "dash")] if gold else []
    there = dict.fromkeys((what, series) for what, share, series in accepted if math.isfinite(share))
    keys += [Key(f"accepted {what}", series, "hollow") for what, series in there]
    said = [f"{name}: alpha {alphas(found)}" for name, found in cells]
    return drawn("thresholds", title, caption, panels, said, columns, keys)


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
        for what, share, series in _accepted(decision):
            tip = f"seed {seed}: accepted {percent(share)} {what}"
            panel.point(alpha, share, series, shape=shapes.get(seed, 0), hollow=True, tip=tip)
    if text := alphas(found):
        panel.label(panel.x[0], panel.y[0], f"α = {text}", anchor="start", dx=6, dy=-8, css="value")


def accepted_share(decision: Json) -> float:
    """Accepted target items over all of them, NaN where unknown."""
    accepted, items = decision.get("accepted"), decision.get("items")
    return accepted / items if accepted is not None and items else math.nan


def _accepted(decision: Json) -> list[tuple[str, float, int]]:
    """What was accepted of what, as a share, with its series; NaN where unknown."""
    (entities,) = numbers([decision.get("coverage_entity")])
    return [("of the target", accepted_share(decision), ACCEPTED), ("of its entities", entities, ENTITIES)]


def thinned(trace: Json, most: int = POINTS) -> list[Point]:
    """The loss curve as at most `most` points, each the mean of neighbouring steps."""
    pairs = zip(numbers(trace.get("steps")), numbers(trace.get("loss")), strict=False)
    points = [p for p in pairs if all(math.isfinite(v) for v in p)]
    size = max(1, math.ceil(len(points) / most))
    return [_mean_point(points[i : i + size]) for i in range(0, len(points), size)]


def _mean_point(points: Sequence[Point]) -> Point:
    x, y = (statistics.fmean(values) for values in zip(*points, strict=True))
    return x, y


def losses(run: Run) -> Figure | None:
    """Training loss of every stage: a faint line per seed, a strong one for the mean of a target."""
    curves: dict[tuple[int, str], dict[str, list[list[Point]]]] = {}
    for stage, trace in run.traces:
        if points := thinned(trace):
            own = curves.setdefault((stage["order"], stage["action"]), {})
            own.setdefault(stage["pair"] or "", []).append(points)
    if not curves:
        return None
    pairs = sorted({pair for own in curves.values() for pair in own}, key=lambda pair: (not pair, pair))
    keys = {p: Key(p or "all targets", svg.colour(i if i < 2 else i + 1) if p else GREY) for i, p in enumerate(pairs)}
    columns, width = columns_for(len(curves), 4)
    panels = []
    for (_, name), own in sorted(curves.items(), key=lambda item: item[0]):
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
        f"stages are different functions: compare shapes, not heights.{_held_out(run)}"
    )
    said = [panel.title for panel in panels]
    return drawn("loss", "Training loss", caption, panels, said, columns, list(keys.values()))


def _held_out(run: Run) -> str:
    """What pre-training makes of text that it does not learn, by language; empty where nothing was kept out."""
    ends = [trace["held_out"][-1] for _, trace in run.traces if trace.get("held_out")]
    names = [name for name in ends[0] if name != "step"] if ends else []
    found = ", ".join(f"{name} {percent(mean(end[name]['accuracy'] for end in ends))}" for name in names)
    return f" Masked tokens of held-out sentences that the encoder finds at the end: {found}." if ends else ""
