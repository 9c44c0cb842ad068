"""The stage table: the rows of summary.json over seeds, as numbers and as text (see docs/summary-schema.md)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..storage.names import serves, targets_of
from ..storage.text import text_table
from .seeds import Stat, Step, one_decimal, paired_step, stat

Json = dict[str, Any]
StageKey = tuple[int, str, str]
"""Order, arm and name of a stage: what is the same for every pair and seed."""

METRIC_NAMES = {
    "entity_f1": "entity F1",
    "entity_f1_strict": "strict entity F1",
    "precision": "entity precision",
    "recall": "entity recall",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
}
SIDE_ARMS = (
    *("control", "contrastive", "co-a", "co-b", "self-a", "self-b"),
    *("cloze", "outside-labels", "translate-train", "translate-train-all"),  # of runs by versions up to 0.2.0
)
"""Arms beside the trail: their first stage is compared with zero-shot, a later one with the one before it."""

MARKS = {"uses_target_labels": "labels", "uses_dictionary": "dictionary"}
"""What a result used that the method does without, in `stage.json` and in every row; and what tables call it."""

Cells = dict[tuple[str, int], float]
"""Score by (target, seed)."""
Before = dict[tuple[str, int], tuple[str, float]]
"""Name and score of the stage before, by (target, seed)."""


@dataclass(frozen=True)
class StageScore:
    """One line of the stage table, over seeds.

    Attributes:
        average: over the targets that all stages of the trail have, None where these are fewer than two; like the
            averages and gaps below, so that no line is of other targets than the one above it.
        step: over all targets and seeds, each beside its own stage before.
    """

    arm: str
    stage: str
    label: str
    order: int
    targets: dict[str, Stat]
    average: Stat | None
    average_with_source: Stat | None
    source: Stat | None
    gaps: dict[str, Stat]
    range_over_targets: float | None
    """Highest minus lowest target mean."""
    step: Step | None
    steps: dict[str, Step]
    marks: frozenset[str]
    """Those of `MARKS` that hold."""
    values: Cells
    more_sources: dict[str, Stat]
    """Of the source languages beside the first, which gaps and averages are without."""
    without_entities: int
    """Tagging, hard stages: (target, seed) pairs that learned no word of an entity from the target."""
    seconds: float | None = None
    """Wall seconds of the stage and the unscored stages since the line before, all pairs together, mean over seeds."""
    cpu_seconds: float | None = None

    @property
    def key(self) -> StageKey:
        return self.order, self.arm, self.stage

    @property
    def name(self) -> str:
        """The stage as tables call it, with what is to be known before its score is read."""
        nothing = f" (no entity learned from the target: {self.without_entities} of {len(self.values)})"
        return self.label + (nothing if self.without_entities else "")


@dataclass(frozen=True)
class Aggregate:
    """The stage table as numbers. `trail` leaves out the arms beside it."""

    metric: str
    source: str | None
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    stages: tuple[StageScore, ...]
    counts: dict[str, int]
    more_sources: tuple[str, ...] = ()

    @property
    def trail(self) -> tuple[StageScore, ...]:
        return tuple(s for s in self.stages if s.arm not in SIDE_ARMS)


def row_key(row: Json) -> StageKey:
    """The stage of a row of `summary.json`."""
    return row["order"], row["arm"], row["stage"]


def target_rows(rows: Sequence[Json], targets: Sequence[str]) -> list[Json]:
    """The rows of target scores by models of that target, or of all targets."""
    return [r for r in rows if r["language"] in targets and serves(r["pair"], r["language"])]


def step_between(now: Cells, before: Cells, versus: str, target: str | None = None) -> Step | None:
    """The paired step between two stages' `values`, over all targets or one; None without a common pair."""
    both = sorted(k for k in now.keys() & before.keys() if target in (None, k[0]))
    return paired_step([now[k] - before[k] for k in both], versus)


def per_seed(cells: Cells, targets: Sequence[str]) -> dict[int, float]:
    """Mean over targets within each seed that has all of `targets`."""
    seeds = sorted({seed for _, seed in cells})
    full = [s for s in seeds if targets and all((t, s) in cells for t in targets)]
    return {s: statistics.fmean(cells[t, s] for t in targets) for s in full}


def _source_cells(rows: Sequence[Json], source: str | None, targets: Sequence[str]) -> Cells:
    """Source score of the model of each (target, seed); a shared model stands for every target."""
    own = [r for r in rows if r["language"] == source]
    return {(t, r["seed"]): r["value"] for r in own for t in targets_of(r["pair"]) or targets}


def _over_models(cells: Cells, targets: Sequence[str]) -> dict[int, float]:
    """A source score by seed, over the models of the targets that have one."""
    return per_seed(cells, [t for t in targets if any(k[0] == t for k in cells)])


def aggregate(summary: Json, metric: str | None = None) -> Aggregate:
    """The stage table over seeds, of the run's main metric unless another is named (docs/summary-schema.md)."""
    metric = metric or summary.get("metric") or "accuracy"
    rows = [r for r in summary.get("rows") or () if r["metric"] == metric and is_score(r["value"])]
    present = {r["language"] for r in rows}
    targets = tuple(t for t in summary.get("targets") or () if t in present)
    more = tuple(s for s in summary.get("sources") or () if s in present)
    stages: list[StageScore] = []
    before: dict[str, Before] = {}  # by arm, "" for the trail
    earlier = -1
    by_stage = {key: [r for r in rows if row_key(r) == key] for key in sorted({row_key(r) for r in rows})}
    shared = _shared_targets([own for (_, arm, _), own in by_stage.items() if arm not in SIDE_ARMS], targets)
    for (order, arm, name), own in by_stage.items():
        versus = before.get(arm, before.get("baseline", {})) if arm in SIDE_ARMS else before.get("", {})
        score = _stage_score(own, summary.get("source"), targets, shared, more, versus)
        seconds, cpu_seconds = (_between(summary, name, earlier, order) for name in ("seconds", "cpu_seconds"))
        stages.append(replace(score, seconds=seconds, cpu_seconds=cpu_seconds))
        here = {pair: (name, value) for pair, value in score.values.items()}
        for trail in (arm,) if arm in SIDE_ARMS else (arm, ""):
            before[trail] = before.get(trail, {}) | here
        earlier = order
    counts = {r["language"]: int(r["count"]) for r in rows if r.get("count") is not None}
    seeds = tuple(sorted({r["seed"] for r in rows}))
    return Aggregate(metric, summary.get("source"), targets, seeds, tuple(stages), counts, more)


def _shared_targets(stages: Sequence[Sequence[Json]], targets: Sequence[str]) -> list[str]:
    """The targets that every stage with a score of any has."""
    found = [{r["language"] for r in target_rows(rows, targets)} for rows in stages]
    return [t for t in targets if all(t in languages for languages in found if languages)]


def _between(summary: Json, name: str, after: int, until: int) -> float | None:
    """Sum of a field over the stages with `after` < order <= `until`, mean over seeds; None when none is known."""
    stages = [s for s in summary.get("stages") or () if after < s["order"] <= until and is_score(s.get(name))]
    seeds = {s["seed"] for s in stages}
    return sum(s[name] for s in stages) / len(seeds) if seeds else None


def is_score(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _stage_score(
    rows: Sequence[Json],
    source: str | None,
    targets: Sequence[str],
    shared: Sequence[str],
    more: Sequence[str],
    before: Before,
) -> StageScore:
    own = target_rows(rows, targets)
    cells = {(r["language"], r["seed"]): r["value"] for r in own}
    source_cells = _source_cells(rows, source, targets)
    gaps = {k: source_cells[k] - v for k, v in cells.items() if k in source_cells}
    per_target = _by_target(cells, targets)
    count = len(shared)
    average = per_seed(cells, shared) if count > 1 or len(targets) == 1 else {}
    source_average = _over_models(source_cells, targets)
    with_source = [(average[s] * count + source_average[s]) / (count + 1) for s in average if s in source_average]
    others = {s: stat(_over_models(_source_cells(rows, s, targets), targets).values()) for s in more}
    means = [s.mean for t, s in per_target.items() if t in shared]
    old = {pair: value for pair, (_, value) in before.items()}
    versus = ", ".join(dict.fromkeys(name for pair, (name, _) in before.items() if pair in cells))
    return StageScore(
        arm=rows[0]["arm"],
        stage=rows[0]["stage"],
        label=rows[0]["label"],
        order=rows[0]["order"],
        targets=per_target,
        average=stat(average.values()),
        average_with_source=stat(with_source),
        source=stat(source_average.values()),
        gaps=_by_target(gaps, shared),
        range_over_targets=max(means) - min(means) if len(means) > 1 else None,
        step=step_between(cells, old, versus),
        steps={t: step for t in targets if (step := step_between(cells, old, versus, t))},
        marks=frozenset(mark for mark in MARKS if any(r.get(mark) for r in rows)),
        values=cells,
        without_entities=len({(r["language"], r["seed"]) for r in own if r.get("accepted_entities") == 0}),
        more_sources={name: score for name, score in others.items() if score},
    )


def _by_target(cells: Cells, targets: Sequence[str]) -> dict[str, Stat]:
    by_target = {t: stat(v for k, v in sorted(cells.items()) if k[0] == t) for t in targets}
    return {t: score for t, score in by_target.items() if score}


def table_cells(result: Aggregate) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the stage table, as text."""
    many = len(result.targets) > 1 and any(s.average for s in result.stages)
    used = frozenset[str]().union(*(s.marks for s in result.stages))
    marks = {mark: name for mark, name in MARKS.items() if mark in used or name == "labels"}
    source = [result.source] if result.source and any(s.source for s in result.stages) else []
    header = ["stage", *result.targets, *(["average"] if many else []), "step", "up"]
    header += [*(f"{s} (source)" for s in (*source, *result.more_sources)), *(["gap"] if source else [])]
    header += [*marks.values(), "seconds", "CPU s"]
    lines = []
    for s in result.stages:
        scores = [*map(s.targets.get, result.targets), *([s.average] if many else []), s.step]
        line = [s.name, *map(or_dash, scores), f"{s.step.up}/{s.step.stat.n}" if s.step else "-"]
        line += map(or_dash, [*([s.source] if source else []), *map(s.more_sources.get, result.more_sources)])
        gap = stat(g.mean for g in s.gaps.values())
        line += [one_decimal(gap.mean) if gap else "-"] if source else []
        line += ["yes" if mark in s.marks else "no" for mark in marks]
        lines.append([*line, *("-" if spent is None else f"{spent:.0f}" for spent in (s.seconds, s.cpu_seconds))])
    return header, lines


def or_dash(value: Any) -> str:
    """A value as text, a dash for None."""
    return "-" if value is None else str(value)


def table_caption(result: Aggregate) -> str:
    """One line that says what the numbers of the stage table are."""
    n = len(result.seeds)
    one = f"seed {result.seeds[0]} only" if n else "no scores"
    over = f"mean ± standard deviation over {n} seeds" if n > 1 else one
    sizes = sorted({result.counts[t] for t in result.targets if t in result.counts})
    span = " to ".join(f"{size:,}" for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]))
    size = f"; {span} test items per target" if sizes else ""
    return f"{METRIC_NAMES.get(result.metric, result.metric)}, points; {over}{size}"


def stage_table(summary: Json) -> str:
    """The stage table for a terminal."""
    result = aggregate(summary)
    header, lines = table_cells(result)
    if not lines:
        return "no scores yet: no stage has ended that a test file (targets.N.test) scores\n"
    notes = [
        "step: paired difference of each target and seed to its own stage before; up: pairs that rose"
        + "; gap: source - target" * ("gap" in header),
        "labels: target labels used for anything but scoring",
        "seconds: on the wall; CPU s: of the processor; both of the stage and what it needs that is not scored",
    ]
    title = f"{summary.get('name')}: {table_caption(result)}"
    return "\n".join([title, "", *text_table([header, *lines]), "", *notes]) + "\n"
