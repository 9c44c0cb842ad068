"""The stage table: the rows of summary.json over seeds, as numbers and as text (see docs/summary-schema.md)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .seeds import Stat, Step, paired_step, stat
from .text_table import text_table

Json = dict[str, Any]

METRIC_NAMES = {
    "entity_f1": "entity F1",
    "entity_f1_strict": "strict entity F1",
    "precision": "entity precision",
    "recall": "entity recall",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
}
COTRAIN_ARMS = {
    "co-a": "co-training, model a",
    "co-b": "co-training, model b",
    "self-a": "self-training by picks, model a",
    "self-b": "self-training by picks, model b",
}
TRANSLATE_ARMS = ("translate-test", "translate-train", "translate-train-all")
SIDE_ARMS = ("cloze", "control", "contrastive", *TRANSLATE_ARMS, *COTRAIN_ARMS)
"""Arms beside the trail: their first stage is compared with zero-shot, a later one with the one before it."""


@dataclass(frozen=True)
class StageScore:
    """One line of the stage table, over seeds; `step` is over all targets and seeds."""

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
    uses_parallel_data: bool
    uses_target_labels: bool
    uses_dictionary: bool
    seconds: float | None
    """Wall seconds of the stage and the unscored stages since the line before, all pairs together, mean over seeds."""
    cpu_seconds: float | None
    """Seconds of the processor, of the same."""
    values: dict[tuple[str, int], float]
    """Target score by (target, seed)."""
    more_sources: dict[str, Stat]
    """Of the source languages beside the first, which gaps and averages are without."""
    without_entities: int = 0
    """Tagging, hard stages: (target, seed) pairs that learned no word of an entity from the target."""

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


Cells = dict[tuple[str, int], float]


def _by_target(rows: Sequence[Json], targets: Sequence[str]) -> Cells:
    """Target score by (target, seed), own pair only."""
    own = [r for r in rows if r["language"] in targets and r["pair"] in (None, r["language"])]
    return {(r["language"], r["seed"]): r["value"] for r in own}


def _source_by_pair(rows: Sequence[Json], source: str | None, targets: Sequence[str]) -> Cells:
    """Source score of the model of each (target, seed); a shared model stands for every target."""
    cells: Cells = {}
    for r in (r for r in rows if r["language"] == source):
        for target in targets if r["pair"] is None else [r["pair"]]:
            cells[target, r["seed"]] = r["value"]
    return cells


def step_between(now: Cells, before: Cells, versus: str, target: str | None = None) -> Step | None:
    """The paired step between two stages' `values`, over all targets or one; None without a common pair."""
    both = sorted(k for k in now.keys() & before.keys() if target in (None, k[0]))
    differences = [now[k] - before[k] for k in both]
    return paired_step(differences, versus)


def per_seed(cells: Cells, targets: Sequence[str]) -> dict[int, float]:
    """Mean over targets within each seed that has all of `targets`."""
    seeds = sorted({seed for _, seed in cells})
    full = [s for s in seeds if targets and all((t, s) in cells for t in targets)]
    return {s: statistics.fmean(cells[t, s] for t in targets) for s in full}


def _mean_over_pairs(cells: Cells, targets: Sequence[str]) -> dict[int, float]:
    """A source score by seed, over the models of the targets that have one."""
    return per_seed(cells, [t for t in targets if any(k[0] == t for k in cells)])


def _over_seeds(cells: Cells, targets: Sequence[str]) -> Stat | None:
    return stat(_mean_over_pairs(cells, targets).values())


def aggregate(summary: Json, metric: str | None = None) -> Aggregate:
    """The stage table over seeds, of the run's main metric unless another is named (docs/summary-schema.md)."""
    metric = metric or summary.get("metric") or "accuracy"
    valid = [r for r in summary.get("rows") or () if r["metric"] == metric and _is_score(r["value"])]
    source = summary.get("source")
    present = {r["language"] for r in valid}
    targets = tuple(t for t in summary.get("targets") or () if t in present)
    more = tuple(s for s in summary.get("sources") or () if s in present)
    keys = sorted({(r["order"], r["arm"], r["stage"]) for r in valid})
    result: list[StageScore] = []
    before: tuple[str, Cells] | None = None
    beside: dict[str, tuple[str, Cells]] = {}
    earlier = -1
    for order, arm, stage in keys:
        rows = [r for r in valid if (r["order"], r["arm"], r["stage"]) == (order, arm, stage)]
        cells = _by_target(rows, targets)
        spent = {key: _between(summary, key, earlier, order) for key in ("seconds", "cpu_seconds")}
        earlier = order
        versus = beside.get(arm, beside.get("baseline")) if arm in SIDE_ARMS else before
        result.append(_stage_score(rows, cells, source, targets, versus, spent, more))
        if cells:
            beside[arm] = (stage, cells)
        if arm not in SIDE_ARMS and cells:
            before = (stage, cells)
    counts = {r["language"]: int(r["count"]) for r in valid if r.get("count") is not None}
    seeds = tuple(sorted({r["seed"] for r in valid}))
    return Aggregate(metric, source, targets, seeds, tuple(result), counts, more)


def _between(summary: Json, key: str, after: int, until: int) -> float | None:
    """Sum of `key` over the stages with `after` < order <= `until`, mean over seeds; None when none is known."""
    stages = [s for s in summary.get("stages") or () if after < s["order"] <= until and _is_score(s.get(key))]
    seeds = {s["seed"] for s in stages}
    return sum(s[key] for s in stages) / len(seeds) if seeds else None


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _stage_score(
    rows: Sequence[Json],
    cells: Cells,
    source: str | None,
    targets: Sequence[str],
    before: tuple[str, Cells] | None,
    spent: dict[str, float | None],
    more: Sequence[str],
) -> StageScore:
    source_cells = _source_by_pair(rows, source, targets)
    per_target = {t: found for t in targets if (found := stat(v for k, v in sorted(cells.items()) if k[0] == t))}
    gap_of = {t: [source_cells[k] - v for k, v in cells.items() if k[0] == t and k in source_cells] for t in targets}
    own = [t for t in targets if t in per_target]
    average = per_seed(cells, own)
    source_average = _mean_over_pairs(source_cells, targets)
    with_source = [(average[s] * len(own) + source_average[s]) / (len(own) + 1) for s in average if s in source_average]
    means = [s.mean for s in per_target.values()]
    versus, old = before or ("", {})
    return StageScore(
        arm=rows[0]["arm"],
        stage=rows[0]["stage"],
        label=rows[0]["label"],
        order=rows[0]["order"],
        targets=per_target,
        average=stat(average.values()),
        average_with_source=stat(with_source),
        source=stat(source_average.values()),
        gaps={t: found for t in targets if (found := stat(gap_of[t]))},
        range_over_targets=max(means) - min(means) if len(means) > 1 else None,
        step=step_between(cells, old, versus),
        steps={t: step for t in targets if (step := step_between(cells, old, versus, t))},
        uses_parallel_data=any(r.get("uses_parallel_data") for r in rows),
        uses_target_labels=any(r.get("uses_target_labels") for r in rows),
        uses_dictionary=any(r.get("uses_dictionary") for r in rows),
        **spent,
        values=cells,
        without_entities=len({(r["pair"], r["seed"]) for r in rows if r.get("accepted_entities") == 0}),
        more_sources={s: found for s in more if (found := _over_seeds(_source_by_pair(rows, s, targets), targets))},
    )


def table_cells(result: Aggregate) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the stage table, as text."""
    many = len(result.targets) > 1
    source = [result.source] if result.source and any(s.source for s in result.stages) else []
    header = ["stage", *result.targets, *(["average"] if many else []), "step", "up"]
    header += [*(f"{s} (source)" for s in (*source, *result.more_sources)), *(["gap"] if source else [])]
    dictionary = any(s.uses_dictionary for s in result.stages)
    header += ["parallel", "labels", *(["dictionary"] if dictionary else []), "seconds", "CPU s"]
    lines = []
    for s in result.stages:
        gap = stat(g.mean for g in s.gaps.values())
        line = [s.name, *(_text(s.targets.get(t)) for t in result.targets)]
        line += [_text(s.average)] if many else []
        line += [_text(s.step), f"{s.step.up}/{s.step.stat.n}" if s.step else "-"]
        line += [_text(s.source)] if source else []
        line += [_text(s.more_sources.get(name)) for name in result.more_sources]
        line += [f"{gap.mean:.1f}" if gap else "-"] if source else []
        line += ["yes" if s.uses_parallel_data else "no", "yes" if s.uses_target_labels else "no"]
        line += ["yes" if s.uses_dictionary else "no"] if dictionary else []
        lines.append([*line, *("-" if spent is None else f"{spent:.0f}" for spent in (s.seconds, s.cpu_seconds))])
    return header, lines


def _text(value: Stat | Step | None) -> str:
    return "-" if value is None else str(value)


def table_caption(result: Aggregate) -> str:
    """One line that says what the numbers of the stage table are."""
    n = len(result.seeds)
    over = (
        f"mean ± standard deviation over {n} seeds" if n > 1 else f"seed {result.seeds[0]} only" if n else "no scores"
    )
    sizes = sorted({result.counts[t] for t in result.targets if t in result.counts})
    size = ""
    if sizes:
        low, high = f"{sizes[0]:,}", f"{sizes[-1]:,}"
        size = f"; {low if low == high else f'{low} to {high}'} test items per target"
    return f"{METRIC_NAMES.get(result.metric, result.metric)}, points; {over}{size}"


def stage_table(summary: Json, *, markdown: bool = False, metric: str | None = None) -> str:
    """The stage table for a terminal, or in Markdown.

    Steps are paired differences to the stage before (the control arm's, to zero-shot); "up" counts the (target, seed)
    pairs above zero; the gap is source minus target, averaged over targets.
    """
    result = aggregate(summary, metric)
    header, lines = table_cells(result)
    if not lines:
        return "no scores yet\n"
    if markdown:
        rule = ["---", *("---:" for _ in header[1:])]
        body = "\n".join("| " + " | ".join(_pipe(c) for c in line) + " |" for line in [header, rule, *lines])
        return f"{body}\n\n{table_caption(result)}.\n"
    notes = [
        "step: paired difference to the stage before; up: pairs of target and seed that rose; gap: source - target",
        "parallel: translations or parallel text used; labels: target labels used for anything but scoring",
        "seconds: on the wall; CPU s: of the processor; both of the stage and what it needs that is not scored",
    ]
    title = f"{summary.get('name')}: {table_caption(result)}"
    return "\n".join([title, "", *text_table([header, *lines]), "", *notes]) + "\n"


def _pipe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
