"""`ablate`: a recipe as it is and without each part of the method, each stage made once, and the tables of it."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .... import ConfigError, Interrupted, OutOfMemoryError, PeerLostError, RunInUseError, StorageError, XltError
from ....tasks import task_of
from ...recipe.load import load_recipe
from ...report.tracking.compare import (
    AVERAGE,
    Scored,
    Table,
    compare,
    read_scores,
    reported_stages,
    stat_text,
    stat_values,
    step_text,
    step_values,
)
from ...runs.runner import run
from ...runs.workers import public
from ...storage.files import atomic_write_json, atomic_write_text, plain
from ...storage.run_folder import RunDir, environment
from ...summary.seeds import stat
from ...summary.stage_table import METRIC_NAMES, Json, per_seed
from ...training.device import deterministic
from ...training.progress import Progress
from ..paper.printed import domain_of, notes, printed
from ..studies.sentences import write_for_page
from .rows import Ablation, RowPlan, open_ablation, plan_rows, stages_made

SCHEMA_VERSION = 2


def compare_rows(ablation: Ablation, plans: Sequence[RowPlan], home: Path, errors: dict[str, str]) -> Json:
    """The content of ablation.json, from the rows' run folders in `home`."""
    config, groups, seeds = plans[0].config, ablation.choice.groups, list(ablation.seeds)
    targets = [t.language for t in config.targets]
    places = {plan.row.name: home / plan.row.name for plan in plans}
    scored = {name: read_scores(place, reported_stages(place, seeds)) for name, place in places.items()}
    of_row = compare(scored, plans[0].row.name, targets)
    seen: set[tuple[str, str]] = set()
    rows, comparisons = [], []
    for plan in plans:
        row = scored[plan.row.name]
        new = sum(seconds for key, seconds in row.spent.items() if key not in seen)
        seen |= row.spent.keys()
        stats = {part: stat_values(value) for part, value in of_row[plan.row.name].stats.items()}
        times = {"seconds": sum(row.spent.values()) / len(seeds), "seconds_new": new / len(seeds)}
        rows.append(_row(plan, row, stats, targets) | times | {"error": errors.get(plan.row.name)})
    for group in groups:
        own = {name: scored[name] for name in (group.reference, *group.rows)}
        compared = compare(own, group.reference, targets)
        comparisons += [
            {
                "group": group.name,
                "row": name,
                "reference": group.reference,
                "differences": {part: step_values(step) for part, step in compared[name].steps.items()},
            }
            for name in group.rows
            if name != group.reference
        ]
    return plain(  # type: ignore[no-any-return]
        {
            "schema_version": SCHEMA_VERSION,
            "name": config.name,
            "task": config.task,
            "metric": task_of(config.task).metric,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "source": config.source.language,
            "targets": targets,
            "seeds": seeds,
            "versions": environment()["versions"],
            "groups": [asdict(group) for group in groups],
            "left_out": ablation.choice.left_out,
            "rows": rows,
            "comparisons": comparisons,
            "paper_notes": notes(config.name, [p.row.name for p in plans]),
        }
    )


def _row(plan: RowPlan, row: Scored, stats: Json, targets: Sequence[str]) -> Json:
    values = {t: {str(seed): v for (other, seed), v in sorted(row.values.items()) if other == t} for t in targets}
    return {
        **{key: getattr(plan.row, key) for key in ("name", "label", "meaning")},
        "overrides": plan.overrides,
        "folder": f"rows/{plan.row.name}",
        "stages": sorted(set(row.stages.values())),
        "values": values,
        "targets": {t: stats[t] for t in targets if t in stats},
        "average": stats.get(AVERAGE),
        "source": stat_values(stat(per_seed(row.source, targets).values())),
        "uses_target_labels": row.target_labels,
        "paper": printed(plan.config.name, plan.row.name, domain_of(plan.config)),
    }


def rows_of(values: Json, group: Json) -> list[Json]:
    """The rows of a group, in order."""
    by_name = {row["name"]: row for row in values["rows"]}
    return [by_name[name] for name in group["rows"]]


def differences(values: Json, group: Json, name: str) -> Json:
    """How a row differs from its group's reference; empty for the reference."""
    own = (c["differences"] for c in values["comparisons"] if (c["group"], c["row"]) == (group["name"], name))
    return next(own, {})


def group_table(values: Json, group: Json) -> Table:
    """A group's rows and what separates them from their reference."""
    targets, rows = values["targets"], rows_of(values, group)
    averaged = [AVERAGE] if len(targets) > 1 else []
    points = {row["name"]: (row["paper"] or {}).get("points", {}) for row in rows}
    paper = [name for name in (*targets, AVERAGE) if any(name in printed for printed in points.values())]
    label = next(r["label"] for r in values["rows"] if r["name"] == group["reference"])
    header = ["row", *targets, *averaged, f"minus {label}", "up"]
    header += [f"{values['source']} (source)", "seconds", "new", *(f"paper: {name}" for name in paper)]
    lines = []
    for row in rows:
        step, printed = differences(values, group, row["name"]).get(AVERAGE), points[row["name"]]
        line = [_label(row), *(stat_text(row["targets"].get(t)) for t in targets)]
        line += [stat_text(row["average"]) for _ in averaged] + step_text(step)
        line += [stat_text(row["source"]), f"{row['seconds']:.0f}", f"{row['seconds_new']:.0f}"]
        lines.append([*line, *(f"{printed[name]:.2f}" if name in printed else "-" for name in paper)])
    return Table(header, lines)


def _label(row: Json) -> str:
    labels = " [target labels]" if row["uses_target_labels"] else ""
    return str(row["label"]) + labels + (" [failed]" if row["error"] else "")


def caption(values: Json) -> str:
    """What the numbers are, in a few sentences."""
    seeds = ", ".join(map(str, values["seeds"]))
    return (
        f"{METRIC_NAMES[values['metric']]} of the targets, points; mean ± sample standard deviation over seeds "
        f"{seeds}. Minus: paired difference to the reference, over all pairs of target and seed; up: how many of them "
        "rose. Seconds: of all stages that the row stands on, one seed; new: without those that a row made earlier has."
    )


def _remarks(values: Json) -> list[str]:
    out = [f"{row['label']} failed: {row['error']}" for row in values["rows"] if row["error"]]
    out += [f"{name} is left out: it {why}." for name, why in values["left_out"].items()]
    if len(values["seeds"]) < 3:
        out.append("With fewer than three seeds a difference cannot be told from luck: read it as an anecdote.")
    return [*out, *values["paper_notes"].values()]


def plain_text(values: Json) -> str:
    """The tables for a terminal."""
    parts = []
    for group in values["groups"]:
        parts += [group["title"], *group_table(values, group).text(), ""]
    notes = [textwrap.fill(text, 110, break_long_words=False) for text in (caption(values), *_remarks(values))]
    return "\n".join([*parts, *notes]) + "\n"


def markdown(values: Json) -> str:
    """The tables and their notes."""
    parts = [f"# {values['name']}: ablation", ""]
    for group in values["groups"]:
        parts += [f"## {group['title']}", "", *group_table(values, group).markdown(), ""]
        parts += [*(f"* {row['label']}: {row['meaning']}" for row in rows_of(values, group)), ""]
    return "\n".join([*parts, caption(values), "", *(f"* {line}" for line in _remarks(values))]).rstrip() + "\n"


_FATAL = (StorageError, RunInUseError, OutOfMemoryError, PeerLostError)
"""What the other rows would run into as well; any other error is its row's alone."""


@dataclass(frozen=True)
class AblationResult:
    """Where an ablation lies, the content of `ablation.json`, its tables for a terminal, and row -> why it failed.

    `made` stages were trained now, `before` were there already.
    """

    folder: Path
    report: Path
    values: dict[str, Any]
    text: str
    made: int
    before: int
    failed: dict[str, XltError]


def ablate(
    recipe: str | Path | None = None,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    reuse: Sequence[str | Path] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
    should_stop: Callable[[], int] = lambda: 0,
) -> AblationResult:
    """Makes the rows that are missing, each a run folder below `<run_dir>/rows`, and compares them.

    A stage that several rows have is trained once; the others take it over by hard links. A row that fails, because its
    filter accepts nothing for example, is reported as failed, and the others go on. Stopped or killed, the same call
    goes on to the same result.

    Args:
        recipe, overrides, seeds, should_stop: as `run` takes them; overrides hold for all rows.
        rows: names of rows and groups (`describe_rows`); the group "main" when empty.
        run_dir: `runs/<name>-ablation` when absent.
        reuse: run folders whose finished stages serve where they are those wanted.
        jobs: processes; as many as there are cores for when absent, one on a GPU.

    Raises:
        XltError: as `run`, with the row's name, for what would stop every row: a full disk, a killed process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("ablate is started once, not by torchrun; --jobs says how many processes it starts")
    progress = progress or Progress()
    ablation = open_ablation(recipe, rows, seeds, overrides, reuse, jobs)
    config = ablation.base.config
    for name, why in ablation.choice.left_out.items():
        progress.note(f"row {name} is left out: it {why}")
    # Before anything uses CUDA: `run` inside could only refuse.
    with deterministic(config.deterministic, config.device), RunDir(ablation.folder(run_dir)) as home:
        home.write_status("running")
        try:
            result = _ablate(ablation, home.path, progress, should_stop)
        except XltError as error:
            state = "stopped" if isinstance(error, Interrupted) else "failed"
            home.write_status(state, exit_code=error.exit_code, reason=str(error))  # type: ignore[arg-type]
            raise
        code = max((error.exit_code for error in result.failed.values()), default=0)
        home.write_status("failed" if code else "done", exit_code=code, reason="; ".join(result.failed))
    return result


def _ablate(ablation: Ablation, home: Path, progress: Progress, should_stop: Callable[[], int]) -> AblationResult:
    place = home / "rows"
    plans = plan_rows(ablation, place, progress=progress, should_stop=should_stop)
    distinct = {key for plan in plans for key in plan.keys}
    before = len(stages_made(plans, place, ablation.reuse))
    progress.note(
        f"{len(plans)} rows, {sum(len(p.keys) for p in plans)} stages, {len(distinct)} of them distinct, "
        f"{before} are there; jobs: {ablation.jobs}"
    )
    failed = _make_rows(ablation, plans, place, progress, should_stop)
    values = compare_rows(ablation, plans, place, {n: str(e) for n, e in failed.items()})
    atomic_write_json(home / "ablation.json", values, indent=1)
    atomic_write_text(home / "ablation.md", markdown(values))
    made = len(stages_made(plans, place, ablation.reuse)) - before
    return AblationResult(home, home / "ablation.md", values, plain_text(values), made, before, failed)


class _RowProgress(Progress):
    """Hands on what a row's stages say, with the row's name; what was taken over is not worth a line each."""

    def __init__(self, row: str, other: Progress) -> None:
        self._row, self._other = row, other
        self.warning, self.step = other.warning, other.step  # type: ignore[method-assign]

    def turn_to(self, stage: str) -> None:
        self._other.turn_to(f"{self._row}/{stage}")

    def begin(self, stage: str, total: int, done: int) -> None:
        self._other.begin(f"{self._row}/{stage}", total, done)

    def end(self, stage: str, text: str) -> None:
        self._other.end(f"{self._row}/{stage}", text)


def _make_rows(
    ablation: Ablation, plans: Sequence[RowPlan], place: Path, progress: Progress, should_stop: Callable[[], int]
) -> dict[str, XltError]:
    """Runs row after row, each with what those before it have; row -> why it failed."""
    errors = dict[str, XltError]()
    for number, plan in enumerate(plans, 1):
        name = plan.row.name
        others = (place / other.row.name for other in plans if other is not plan)
        try:
            run(
                load_recipe(ablation.source, plan.overrides),
                run_dir=place / name,
                seeds=ablation.seeds,
                jobs=ablation.jobs,
                progress=_RowProgress(name, progress),
                should_stop=should_stop,
                reuse=[folder for folder in (*others, *ablation.reuse) if folder.is_dir()],
                before_report=write_for_page,
                row=plan.record,
            )
        except _FATAL as error:
            raise type(error)(f"row {name}: {error}") from error
        except Interrupted:
            raise
        except XltError as error:
            errors[name] = public(error)
            progress.note(f"row {name} failed: {error}")
        else:
            progress.note(f"row {number} of {len(plans)} is complete: {name} ({plan.row.label})")
    return errors
