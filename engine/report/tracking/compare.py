"""The one comparison of runs: rows of scores beside a reference, paired by target and seed, and its table.

`ablate` compares the stages that its rows report, `tables` those that stand for rows of the paper, and
`report RUN_A RUN_B` every stage of two runs.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .... import DataError
from ...storage.files import read_json
from ...storage.names import FINISHED, SCORES
from ...storage.text import text_table
from ...summary.seeds import Stat, Step, stat
from ...summary.stage_folders import run_stages
from ...summary.stage_table import (
    METRIC_NAMES,
    Cells,
    Json,
    aggregate,
    or_dash,
    per_seed,
    row_key,
    step_between,
    target_rows,
)
from ...summary.summary import build_summary

AVERAGE = "average"
REPORTED = "reported"
"""Stage of a line that compares what two rows of an ablation report."""
Cell = tuple[str, int]
"""A column (a target) and a seed."""


@dataclass
class Scored:
    """The scores that a row reports, in points, and what they stand on.

    Attributes:
        values: `source` has those of the same models on the source.
        tests: hash of the test set.
        stages: cell -> id of the reported stage; `made`: cell -> digest of all that decided its weights.
        spent: (stage, digest) -> seconds, of all that the reported stages stand on.
        target_labels: whether any were used for anything but scoring.
    """

    values: Cells = field(default_factory=dict)
    source: Cells = field(default_factory=dict)
    tests: dict[Cell, str] = field(default_factory=dict)
    stages: dict[Cell, str] = field(default_factory=dict)
    made: dict[Cell, str] = field(default_factory=dict)
    spent: dict[tuple[str, str], float] = field(default_factory=dict)
    target_labels: bool = False


def reported_stages(folder: Path, seeds: Iterable[int] | None = None) -> dict[Cell, str]:
    """By target and seed the stage that a row of an ablation reports, as its `run.json` says; empty for other runs."""
    info = read_json(folder / "run.json")
    of_target = (info.get("row") or {}).get("stages") or {}
    cells = {(t, seed): s for t, own in of_target.items() for seed, s in zip(info["seeds"], own, strict=True)}
    return {cell: stage for cell, stage in cells.items() if seeds is None or cell[1] in seeds}


def read_scores(folder: Path, stages: Mapping[Cell, str]) -> Scored:
    """What some stages of a run report; those that are not finished, or outdated, are left out."""
    row, metric = Scored(), read_json(folder / "run.json").get("metric")
    finished = {stage["folder"] for stage in run_stages(folder) if stage["finished"]} if stages else set()
    for cell, stage in ((cell, stage) for cell, stage in stages.items() if stage in finished):
        record = read_json(folder / stage / FINISHED)
        row.stages[cell], row.made[cell] = stage, str(record.get("fingerprint"))
        row.tests[cell] = str((record.get("scored_on") or {}).get(cell[0]))
        for score in read_json(folder / stage / SCORES).get("scores") or ():
            if score["metric"] == metric and score["language"] == cell[0]:
                row.values[cell] = float(score["value"])
            elif score["metric"] == metric and score["role"] == "source":
                row.source[cell] = score["value"]
        for other in lineage(folder, stage):
            record = read_json(folder / other / FINISHED)
            row.spent[other, str(record.get("fingerprint"))] = float(record.get("seconds") or 0.0)
            row.target_labels |= bool(record.get("uses_target_labels"))
    return row


def lineage(folder: Path, stage: str) -> set[str]:
    """A finished stage and all that it stands on."""
    inputs = read_json(folder / stage / FINISHED).get("inputs") or {}
    return {stage}.union(*(lineage(folder, other) for other in inputs.values()))


@dataclass(frozen=True)
class Compared:
    """A row beside its reference, by column and `AVERAGE`; what cannot be said is left out.

    Attributes:
        stats: over seeds; the average is taken within a seed that has every column.
        steps: differences over the cells that both have; none for the reference itself.
    """

    stats: dict[str, Stat]
    steps: dict[str, Step]


def compare(rows: Mapping[str, Scored], reference: str, columns: Sequence[str]) -> dict[str, Compared]:
    """Every row against one of them."""
    base, compared = rows[reference], dict[str, Compared]()
    for name, row in rows.items():
        parts = {**{column: [column] for column in columns}, AVERAGE: list(columns)}
        stats = {part: value for part, of in parts.items() if (value := stat(per_seed(row.values, of).values()))}
        steps: dict[str, Step | None] = {}
        if name != reference:
            steps = {c: step_between(row.values, base.values, reference, c) for c in columns}
            steps[AVERAGE] = step_between(row.values, base.values, reference)
        compared[name] = Compared(stats, {part: step for part, step in steps.items() if step})
    return compared


@dataclass(frozen=True)
class Table:
    """A comparison as cells; what a machine reads of it are the values that it was made from.

    Attributes:
        left: number of columns, from the first, that hold names.
    """

    header: list[str]
    lines: list[list[str]]
    left: int = 1

    def text(self, rule: Any = "columns") -> list[str]:
        """Lines for a terminal."""
        right = range(self.left, len(self.header))
        return text_table([self.header, *self.lines], right=right, rule=rule)

    def markdown(self) -> list[str]:
        """Lines of Markdown; numbers are set to the right."""
        rule = [*["---"] * self.left, *["---:"] * (len(self.header) - self.left)]
        lines = (self.header, rule, *self.lines)
        return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def stat_values(value: Stat | None) -> Json | None:
    """Mean, deviation and number; null without any."""
    return None if value is None else asdict(value)


def step_values(step: Step | None) -> Json | None:
    """The same of paired differences, and how many rose."""
    return None if step is None else {**asdict(step.stat), "up": step.up}


def stat_text(values: Json | None, nothing: str = "-") -> str:
    """What `stat_values` gave, for a person."""
    return nothing if values is None else str(Stat(values["mean"], values["std"], values["n"]))


def step_text(values: Json | None) -> list[str]:
    """What `step_values` gave, for a person: the difference, and how many of how many rose."""
    if values is None:
        return ["-", "-"]
    given = Stat(values["mean"], values["std"], values["n"])
    return [str(Step(given, values["up"], "")), f"{values['up']}/{values['n']}"]


@dataclass(frozen=True)
class StageDifference:
    """One stage of both runs, in points, over the (target, seed) pairs that both have.

    Attributes:
        difference: second minus first, pair by pair; `targets` has it by target.
        other_tests: targets whose test texts, or way of voting, are not the same in both.
    """

    arm: str
    stage: str
    label: str
    first: Stat
    second: Stat
    difference: Step
    targets: dict[str, Step]
    other_tests: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two runs. `alone` are labels of stages that cannot be paired; `settings`: dotted key -> value in either run."""

    runs: tuple[str, str]
    metric: str
    stages: tuple[StageDifference, ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]
    settings: dict[str, tuple[Any, Any]]

    def as_dict(self) -> Json:
        """All of it as JSON values."""
        return asdict(self)


def compare_runs(first: str | Path, second: str | Path) -> Comparison:
    """Compares what two runs scored, stage by stage, and what they report as rows of an ablation; writes nothing.

    Raises:
        DataError: a folder is not a run or has no scores, or the two are scored by different metrics.
    """
    folders = (Path(first), Path(second))
    summaries = [build_summary(folder) for folder in folders]
    results = [aggregate(summary) for summary in summaries]
    for folder, result in zip(folders, results, strict=True):
        if not result.stages:
            raise DataError(f"{folder}: has no scores yet; run it first, with test files (targets.N.test)")
    metrics = [METRIC_NAMES.get(result.metric, result.metric) for result in results]
    if metrics[0] != metrics[1]:
        text = f"{folders[0]} is scored by {metrics[0]}, {folders[1]} by {metrics[1]}"
        raise DataError(f"{text}; give two runs of one task")
    before, after = (
        {score.key[1:]: (score.label, Scored(score.values)) for score in result.stages} for result in results
    )
    for folder, summary, own in zip(folders, summaries, (before, after), strict=True):
        for row in target_rows(summary["rows"], summary["targets"]):
            tests = read_json(folder / row["model"] / FINISHED).get("scored_on") or {}
            key, cell = row_key(row)[1:], (row["language"], row["seed"])
            if key in own:
                own[key][1].tests[cell] = str(tests.get(row["language"]))
    stages = [_stage(key, after[key][0], before[key][1], after[key][1]) for key in before if key in after]
    names = {(stage.arm, stage.stage) for stage in stages if stage}
    alone = [tuple(label for key, (label, _) in own.items() if key not in names) for own in (before, after)]
    rows = [read_json(folder / "run.json").get("row") or {} for folder in folders]
    if all(rows):
        scores = [read_scores(folder, reported_stages(folder)) for folder in folders]
        stages.append(_stage(("", REPORTED), f"rows: {rows[0]['name']}, {rows[1]['name']}", *scores))
    left, right = (
        dict(flat(_settings(f) | {"versions": s["versions"]})) for f, s in zip(folders, summaries, strict=True)
    )
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    return Comparison(
        runs=(str(first), str(second)),
        metric=results[0].metric,
        stages=tuple(stage for stage in stages if stage),
        alone=(alone[0], alone[1]),
        settings={key: (left.get(key), right.get(key)) for key in keys},
    )


def _stage(key: tuple[str, str], label: str, before: Scored, after: Scored) -> StageDifference | None:
    """None where no target and seed is scored in both."""
    both = sorted(before.values.keys() & after.values.keys())
    scores = [stat(row.values[cell] for cell in both) for row in (before, after)]
    targets = list(dict.fromkeys(target for target, _ in both))
    steps = compare({"A": before, "B": after}, "A", targets)["B"].steps
    if scores[0] is None or scores[1] is None:
        return None
    other = {cell[0] for cell in both if before.tests.get(cell) != after.tests.get(cell)}
    difference = steps.pop(AVERAGE)
    return StageDifference(*key, label, scores[0], scores[1], difference, steps, tuple(sorted(other)))


def _settings(folder: Path) -> Json:
    """The recipe, and the versions that it ran with."""
    path = folder / "config.toml"
    try:
        return tomllib.loads(path.read_text("utf-8")) | {"versions": read_json(folder / "run.json").get("versions")}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the recipe again") from error


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in nested tables; a table in a list goes by its language, else its place."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        value = {str(part.get("language", place)): part for place, part in enumerate(value)}
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from flat(part, f"{key}.{name}".lstrip("."))
    else:
        yield key, value


def render_comparison(result: Comparison) -> str:
    """The comparison for a terminal."""
    targets = list(dict.fromkeys(target for stage in result.stages for target in stage.targets))
    many = targets if len(targets) > 1 else []
    lines = [f"A: {result.runs[0]}", f"B: {result.runs[1]}", ""]
    if result.stages:
        lines += [f"{METRIC_NAMES.get(result.metric, result.metric)}, points; mean ± standard deviation", ""]
        table = Table(["stage", "A", "B", *(f"B - A, {target}" for target in many), "B - A", "up"], [])
        for stage in result.stages:
            steps = [or_dash(stage.targets.get(target)) for target in many]
            step = step_text(step_values(stage.difference))
            table.lines.append([stage.label, str(stage.first), str(stage.second), *steps, *step])
        lines += [
            *table.text("whole"),
            "",
            "over the pairs of target and seed that both runs have; up: pairs that rose",
        ]
    else:
        lines.append("no target and seed is scored in the same stage of both")
    if changed := sorted({target for stage in result.stages for target in stage.other_tests}):
        lines.append(f"not the same test texts, or votes counted otherwise: {', '.join(changed)}; read with care")
    for name, labels in zip("AB", result.alone, strict=True):
        lines += [f"in {name} alone: {', '.join(labels)}"] if labels else []
    rows = [["setting", "A", "B"], *([key, or_dash(a), or_dash(b)] for key, (a, b) in result.settings.items())]
    lines += ["", *(text_table(rows, right=()) if result.settings else ["no setting differs"])]
    return "\n".join(lines)
