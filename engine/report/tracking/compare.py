"""`report RUN_A RUN_B`: the scores of two runs, paired by target and seed, and the settings that differ."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .... import DataError
from ...storage.files import read_json
from ...storage.names import FINISHED
from ..seeds import Stat, Step, stat
from ..stage_table import METRIC_NAMES, Json, StageScore, aggregate, or_dash, row_key, step_between, target_rows
from ..summary import build_summary
from ..text_table import text_table

Tests = Mapping[tuple[str, str, str, int], str | None]
"""By arm, stage, target and seed."""


@dataclass(frozen=True)
class StageDifference:
    """One stage of both runs, over the (target, seed) pairs that both have.

    Attributes:
        first, second: scores in points.
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
    """Compares what two runs scored, stage by stage; writes nothing.

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
    tests = [_tests(folder, summary) for folder, summary in zip(folders, summaries, strict=True)]
    before, after = ({score.key[1:]: score for score in result.stages} for result in results)
    stages = [_stage(before[key], after[key], tests) for key in before if key in after]
    paired = tuple(stage for stage in stages if stage)
    names = {(stage.arm, stage.stage) for stage in paired}
    alone = [tuple(score.label for key, score in own.items() if key not in names) for own in (before, after)]
    left, right = (
        dict(_flat(_settings(f) | {"versions": s["versions"]})) for f, s in zip(folders, summaries, strict=True)
    )
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    return Comparison(
        runs=(str(first), str(second)),
        metric=results[0].metric,
        stages=paired,
        alone=(alone[0], alone[1]),
        settings={key: (left.get(key), right.get(key)) for key in keys},
    )


def _tests(folder: Path, summary: Json) -> Tests:
    """What the score of a stage on a target depends on besides its weights, as `stage.json` has it."""
    rows = target_rows(summary["rows"], summary["targets"])
    records = {row["model"]: read_json(folder / row["model"] / FINISHED).get("scored_on") or {} for row in rows}
    return {
        (*row_key(row)[1:], row["language"], row["seed"]): records[row["model"]].get(row["language"]) for row in rows
    }


def _stage(before: StageScore, after: StageScore, tests: Sequence[Tests]) -> StageDifference | None:
    """None where no target and seed is scored in both."""
    both = sorted(before.values.keys() & after.values.keys())
    scores = [stat(score.values[cell] for cell in both) for score in (before, after)]
    difference = step_between(after.values, before.values, "A")
    if difference is None or scores[0] is None or scores[1] is None:
        return None
    targets = list(dict.fromkeys(target for target, _ in both))
    steps = {target: step_between(after.values, before.values, "A", target) for target in targets}
    other = {cell[0] for cell in both if len({own.get((*after.key[1:], *cell)) for own in tests}) > 1}
    return StageDifference(
        arm=after.arm,
        stage=after.stage,
        label=after.label,
        first=scores[0],
        second=scores[1],
        difference=difference,
        targets={target: step for target, step in steps.items() if step},
        other_tests=tuple(sorted(other)),
    )


def _settings(folder: Path) -> Json:
    """The recipe, and the versions that it ran with."""
    path = folder / "config.toml"
    try:
        return tomllib.loads(path.read_text("utf-8")) | {"versions": read_json(folder / "run.json").get("versions")}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the recipe again") from error


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in nested tables; a table in a list goes by its language, else its place."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        value = {str(part.get("language", place)): part for place, part in enumerate(value)}
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}".lstrip("."))
    else:
        yield key, value


def render_comparison(result: Comparison) -> str:
    """The comparison for a terminal."""
    targets = list(dict.fromkeys(target for stage in result.stages for target in stage.targets))
    many = targets if len(targets) > 1 else []
    lines = [f"A: {result.runs[0]}", f"B: {result.runs[1]}", ""]
    if result.stages:
        lines += [f"{METRIC_NAMES.get(result.metric, result.metric)}, points; mean ± standard deviation", ""]
        rows = [["stage", "A", "B", *(f"B - A, {target}" for target in many), "B - A", "up"]]
        for stage in result.stages:
            steps = [or_dash(stage.targets.get(target)) for target in many]
            up = f"{stage.difference.up}/{stage.difference.stat.n}"
            rows.append([stage.label, str(stage.first), str(stage.second), *steps, str(stage.difference), up])
        lines += [*text_table(rows), "", "over the pairs of target and seed that both runs have; up: pairs that rose"]
    else:
        lines.append("no target and seed is scored in the same stage of both")
    if changed := sorted({target for stage in result.stages for target in stage.other_tests}):
        lines.append(f"not the same test texts, or votes counted otherwise: {', '.join(changed)}; read with care")
    for name, labels in zip("AB", result.alone, strict=True):
        lines += [f"in {name} alone: {', '.join(labels)}"] if labels else []
    rows = [["setting", "A", "B"], *([key, or_dash(a), or_dash(b)] for key, (a, b) in result.settings.items())]
    lines += ["", *(text_table(rows, right=()) if result.settings else ["no setting differs"])]
    return "\n".join(lines)
