"""`ablate`: a recipe as it is and without each part of the method, each stage made once, and the tables of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .... import ConfigError, Interrupted, OutOfMemoryError, PeerLostError, RunInUseError, StorageError, XltError
from ...recipe.load import load_recipe
from ...runs.runner import run
from ...runs.workers import public
from ...storage.run_folder import RunDir
from ...training.device import deterministic
from ...training.progress import Progress
from ..studies.for_the_page import write_for_page
from .outputs import compare_rows, write_outputs
from .row_plans import Ablation, RowPlan, open_ablation, plan_rows, stages_made

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
    text = write_outputs(home, values)
    made = len(stages_made(plans, place, ablation.reuse)) - before
    return AblationResult(home, home / "ablation.md", values, text, made, before, failed)


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
