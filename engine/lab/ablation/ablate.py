"""`ablate`: a recipe as it is and without each part of the method, each stage made once, and the tables of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .... import ConfigError, Interrupted, OutOfMemoryError, PeerLostError, RunInUseError, StorageError, XltError
from ...runs.workers import Answer, Workers, portable
from ...storage.run_folder import RunDir
from ...training.determinism import deterministic
from ...training.progress import Progress
from .comparisons import compare_rows
from .outputs import write_outputs
from .row_jobs import Job, begin, make
from .row_plans import Ablation, Key, RowPlan, Unit, is_made, open_ablation, plan_rows, units_of

_FATAL = (StorageError, RunInUseError, OutOfMemoryError, PeerLostError)
"""What the other rows would run into as well; any other error is its row's alone."""


@dataclass(frozen=True)
class AblationResult:
    """Where an ablation lies, the content of `ablation.json`, and its tables for a terminal.

    Attributes:
        made: number of stages that were trained now; `before`: of those that were there already.
        failed: row -> why it could not be made.
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
    samples: int = 1000,
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
        samples: draws of the bootstrap.

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
            result = _ablate(ablation, home.path, samples, progress, should_stop)
        except XltError as error:
            state = "stopped" if isinstance(error, Interrupted) else "failed"
            home.write_status(state, exit_code=error.exit_code, reason=str(error))  # type: ignore[arg-type]
            raise
        code = max((error.exit_code for error in result.failed.values()), default=0)
        home.write_status("failed" if code else "done", exit_code=code, reason="; ".join(result.failed))
    return result


def _ablate(
    ablation: Ablation, home: Path, samples: int, progress: Progress, should_stop: Callable[[], int]
) -> AblationResult:
    place = home / "rows"
    plans = plan_rows(ablation, place, progress=progress, should_stop=should_stop)
    work = Work(ablation, plans, place, progress)
    before = len(work.made)
    progress.note(
        f"{len(plans)} rows, {sum(len(p.stages) for p in plans)} stages, {len(work.units)} of them distinct, "
        f"{before} are there; jobs: {ablation.jobs}"
    )
    work.run(should_stop)
    errors = {name: str(error) for name, error in work.errors.items()}
    values = compare_rows(ablation, plans, place, errors, samples=samples)
    text = write_outputs(home, values)
    return AblationResult(home, home / "ablation.html", values, text, len(work.made) - before, before, work.errors)


@dataclass
class Work:
    """What is made, in making and left of an ablation.

    Attributes:
        made: stages that exist.
        lost: stages that failed, or stand on one that did.
        complete: rows whose run folder is whole.
        errors: row -> why it failed.
    """

    ablation: Ablation
    plans: Sequence[RowPlan]
    place: Path
    progress: Progress
    made: set[Key] = field(default_factory=set)
    lost: set[Key] = field(default_factory=set)
    complete: set[str] = field(default_factory=set)
    errors: dict[str, XltError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.units = units_of(self.plans)
        self._unit_of = {unit.key: unit for unit in self.units}
        self._plan_of = {plan.row.name: plan for plan in self.plans}
        self.made = {u.key for u in self.units if is_made(u, self.plans, self.place, self.ablation.reuse)}

    def run(self, should_stop: Callable[[], int]) -> None:
        """Makes all that can be made.

        Raises:
            XltError: what concerns all rows, such as a full disk; or a process was killed.
        """
        if self.ablation.jobs > 1:
            Workers(self.ablation.jobs, begin).run(self._next, self._take, should_stop)
            return
        while (job := self._next([])) is not None:
            try:
                answer = Answer(make(job, should_stop, self.progress))
            except XltError as error:
                answer = Answer(error=portable(error))
            self._take(job, answer)

    def _next(self, busy: Sequence[Job]) -> Job | None:
        """A row to complete, else a stage that can begin, in the folder of a row where nothing else is made."""
        folders = {job.row for job in busy}
        for plan in self.plans:
            name = plan.row.name
            whole = all(plan.key(stage.id) in self.made for stage in plan.stages)
            if whole and name not in folders and name not in self.complete and name not in self.errors:
                return self._job(name, "all")
        making = {self._plan_of[job.row].key(job.stage) for job in busy if job.stage != "all"}
        for unit in self.units:
            if unit.key in self.made | self.lost | making:
                continue
            if unit.needs & self.lost:
                self._lose(unit, XltError(f"{unit.id}: what it stands on failed"))
            elif unit.needs <= self.made:
                # In the folder where it was begun, else in the first that is free.
                begun = [row for row in unit.rows if any((self.place / row / unit.id / "checkpoint").glob("step-*"))]
                if free := [row for row in begun or unit.rows if row not in folders]:
                    return self._job(free[0], unit.id)
        return None

    def _job(self, row: str, stage: str) -> Job:
        others = [self.place / p.row.name for p in self.plans if p.row.name != row]
        return Job(
            row,
            stage,
            self.ablation.source,
            self._plan_of[row].overrides,
            self.place / row,
            self.ablation.seeds,
            (*others, *self.ablation.reuse),
        )

    def _take(self, job: Job, answer: Answer) -> None:
        """Records what became of a job."""
        plan = self._plan_of[job.row]
        if answer.error is not None:
            self._fail(job, answer.error)
        elif job.stage == "all":
            self.complete.add(job.row)
            number = len(self.complete)
            self.progress.note(f"row {number} of {len(self.plans)} is complete: {job.row} ({plan.row.label})")
        else:
            self.made.add(plan.key(job.stage))
            if self.ablation.jobs > 1:
                for line in answer.value:
                    self.progress.note(f"[{len(self.made)}/{len(self.units)}] {line}")

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, Interrupted) or not isinstance(error, XltError):
            raise error
        if isinstance(error, _FATAL):
            raise type(error)(str(error) if str(error).startswith(str(job)) else f"row {job.row}: {error}")
        self.progress.note(f"row {job.row} failed: {error}")
        if job.stage == "all":
            self.errors[job.row] = error
        else:
            self._lose(self._unit_of[self._plan_of[job.row].key(job.stage)], error)

    def _lose(self, unit: Unit, error: XltError) -> None:
        self.lost.add(unit.key)
        for row in unit.rows:
            self.errors.setdefault(row, error)
