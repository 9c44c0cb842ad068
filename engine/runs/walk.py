"""The way through the plan: what can be made next, here or side by side in workers, and what became of it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ... import DataError, DivergedError
from ..plan import Stage
from ..recipe.config import RunConfig
from ..stages.context import Context
from ..stages.kind import StageRun, planned
from ..storage.files import atomic_write_json, delete, read_json
from ..storage.names import FAILED, FINISHED
from ..storage.run_folder import share
from ..storage.run_warning import RunWarning
from ..summary.stage_folders import failures
from ..summary.summary import write_summary
from ..training.device import deterministic
from ..training.progress import Progress
from .make_stage import begin_stage, finish_stage
from .prepare import make_context
from .ranks import Onlooker
from .workers import Answer, Tell, Workers


class RunClock:
    """Seconds per token of each kind of stage; a kind that was not made yet is as fast as all others together.

    Args:
        resume: whether stages that are finished on the disk stay as they are.

    Attributes:
        jobs: stages that run side by side.
    """

    def __init__(self, context: Context, plan: Sequence[Stage], resume: bool) -> None:
        self._context, self._plan, self._resume = context, plan, resume
        self.jobs = 1
        self._made: list[tuple[Stage, float]] = []
        self._tokens: dict[str, float] = {}

    def add(self, stage: Stage, seconds: float) -> None:
        """A stage was made, in so many seconds with all that surrounds its training."""
        self._made.append((stage, seconds))

    def left(self, stage: Stage) -> float | None:
        """Seconds from the beginning of this stage to the end of the run; None before any stage was made."""
        if not self._made:
            return None
        begun = 0 if self.jobs > 1 else self._plan.index(stage)
        there = {s.id for s in self._plan if self._resume and (self._context.folder(s.id) / FINISHED).exists()}
        ahead = [s for s in self._plan[begun:] if s.id not in there]
        return sum(self._tokens_of(s) * self._pace(s.kind) for s in ahead) / self.jobs

    def _pace(self, kind: str) -> float:
        made = [entry for entry in self._made if entry[0].kind == kind] or self._made
        return sum(seconds for _, seconds in made) / max(1.0, sum(self._tokens_of(stage) for stage, _ in made))

    def _tokens_of(self, stage: Stage) -> float:
        if stage.id not in self._tokens:
            self._tokens[stage.id] = planned(self._context.of_stage(stage), stage).tokens
        return self._tokens[stage.id]


class Walk:
    """What was made, what was there, and what failed, with all that needed it.

    Args:
        damaged: stage id -> what `set_damage_aside` says of it.
        current: a place for the id of the stage that runs, for messages.
    """

    def __init__(
        self,
        context: Context,
        plan: Sequence[Stage],
        *,
        resume: bool,
        damaged: Mapping[str, dict[str, Any]],
        current: list[str],
    ) -> None:
        self.context, self.plan = context, plan
        self._resume, self._damaged, self._current = resume, damaged, current
        self.done, self.skipped, self.failed = list[str](), list[str](), list[dict[str, Any]]()
        self._number = {stage.id: number for number, stage in enumerate(plan)}
        self._order = list(plan)
        self._started = dict[str, float]()
        home = context.run_dir.path
        others = set(read_json(home / "run.json").get("stages") or ()) - self._number.keys()
        self.clock = RunClock(context, plan, resume)
        self._earlier = [failure for failure in failures(home) if failure["folder"] in others]
        context.processes.rank_zero_only(self._record)

    def make_all(self, jobs: int) -> None:
        """Makes what is missing, at most so many stages at once.

        Raises:
            XltError: what ends the run; a stage that failed by itself is recorded, and the others go on.
        """
        self.clock.jobs = jobs
        if jobs > 1:
            self._side_by_side(jobs)
            return
        while (run := self._next()) is not None:
            with self._making(run.stage):
                finish_stage(run)

    @contextmanager
    def _making(self, stage: Stage) -> Iterator[None]:
        """Counts a stage that is made in this process."""
        try:
            yield
        except (DataError, DivergedError) as error:
            self._failed_at(stage, error)
        else:
            self._took(stage, made=True)

    def _side_by_side(self, jobs: int) -> None:
        context, config = self.context, self.context.config
        waiting = dict.fromkeys(self._number, 0)
        for stage in reversed(self.plan):
            for needed in stage.inputs.values():
                waiting[needed] = max(waiting[needed], 1 + waiting[stage.id])
        # What most stages wait for in turn first, so that no long way is left to one worker at the end.
        self._order.sort(key=lambda stage: (stage.seed, -waiting[stage.id]))

        def next_job(running: Sequence[StageJob]) -> StageJob | None:
            while (run := self._next({job.stage.id for job in running})) is not None:
                if running or self._ready({run.stage.id}):
                    return StageJob(run.stage, run.fingerprint, tuple(run.context.warnings))
                workers.start()  # they load what they need, while what nothing can be made beside is made here
                with self._making(run.stage):
                    finish_stage(run)
            return None

        def take(job: StageJob, answer: Answer) -> None:
            if isinstance(answer.error, DataError | DivergedError):
                self._failed_at(job.stage, answer.error)
            elif answer.error is not None:
                self._current[0] = job.stage.id
                raise answer.error
            else:
                self._took(job.stage, made=True)

        def heard(job: StageJob, part: str, name: str, *values: Any, **named: Any) -> None:
            context.progress.turn_to(job.stage.id)
            getattr(getattr(context, part), name)(*values, **named)

        begin = StageMaker(config, context.run_dir.path, context.reuse, torch.get_num_threads())
        workers = Workers[StageJob](jobs, begin, heard)
        workers.run(next_job, take, context.should_stop)

    def _next(self, running: Collection[str] = ()) -> StageRun | None:
        """The first stage that is to be made and can be; those before that are there, or lack an input, are counted."""
        while stage := self._ready(running):
            self._current[0] = stage.id
            self.context.poll()
            if self._lacks_an_input(stage):
                continue
            warning = RunWarning(**self._damaged[stage.id]) if stage.id in self._damaged else None
            try:
                run = begin_stage(self.context, stage, resume=self._resume, damaged=warning)
            except (DataError, DivergedError) as error:
                self._failed_at(stage, error)
                continue
            if run is not None:
                return run
            self._took(stage, made=False)
        return None

    def _ready(self, running: Collection[str]) -> Stage | None:
        """The first stage that nothing is known of yet, and all of its inputs."""
        known = self._settled
        ready = (s for s in self._order if s.id not in known and s.id not in running and known >= {*s.inputs.values()})
        return next(ready, None)

    @property
    def _settled(self) -> set[str]:
        left_out = (stage for failure in self.failed for stage in (failure["folder"], *failure["left_out"]))
        return {*self.done, *self.skipped, *left_out}

    def _lacks_an_input(self, stage: Stage) -> bool:
        """Whether a stage is left out, since one that it needs has failed; else it is announced."""
        for failure in self.failed:
            if {failure["folder"], *failure["left_out"]} & set(stage.inputs.values()):
                failure["left_out"].append(stage.id)
                failure["left_out"].sort(key=self._number.__getitem__)
                self.context.processes.rank_zero_only(self._record)
                return True
        self.context.progress.turn_to(stage.id)
        number = self._number[stage.id] + 1
        self.context.progress.position(number, len(self.plan), lambda: self.clock.left(stage))
        self._started[stage.id] = time.monotonic()
        return False

    def _took(self, stage: Stage, *, made: bool) -> None:
        """Counts a stage that is there now: made, or skipped."""
        (self.done if made else self.skipped).append(stage.id)
        if made:
            self.clock.add(stage, time.monotonic() - self._started[stage.id])
            self.context.processes.rank_zero_only(lambda: write_summary(self.context.run_dir.path))

    def _failed_at(self, stage: Stage, error: DataError | DivergedError) -> None:
        """Records a stage that failed by its data, or whose training left the numbers."""
        reason = str(error) if str(error).startswith(stage.id) else f"{stage.id}: {error}"
        failure = {"folder": stage.id, "reason": reason, "exit_code": error.exit_code, "left_out": []}
        self.failed = sorted([*self.failed, failure], key=lambda each: self._number[each["folder"]])
        self.context.processes.rank_zero_only(self._record)
        self.context.run_dir.event("fail", stage=stage.id, reason=reason)
        self.context.progress.end(stage.id, f"failed; what does not need it goes on. {error}")

    def _record(self) -> None:
        path, known = self.context.run_dir.path / FAILED, self._earlier + self.failed
        if known:
            atomic_write_json(path, {"failed": known})
        else:
            delete(path)


@dataclass(frozen=True)
class StageJob:
    """A stage that was begun, for a worker to finish; `warnings`: what was said of it meanwhile."""

    stage: Stage
    fingerprint: Mapping[str, Any]
    warnings: tuple[RunWarning, ...]

    def __str__(self) -> str:
        return self.stage.id


@dataclass(frozen=True)
class StageMaker:
    """What a worker does with the stages of a run: as the run's own process would, with the same bits.

    Attributes:
        threads: those of the run's own process.
    """

    config: RunConfig
    folder: Path
    reuse: tuple[Path, ...]
    threads: int

    def __call__(self, should_stop: Callable[[], int], tell: Tell) -> Callable[[StageJob], None]:
        parent = multiprocessing.parent_process()
        share(self.folder)
        if parent is None or not parent.is_alive():  # the next run, which may be there already, has not waited for this
            os._exit(1)
        torch.set_num_threads(self.threads)
        settings = ExitStack()  # for good
        settings.enter_context(deterministic(self.config.deterministic, self.config.device))
        home, progress = Onlooker(self.folder), Progress()  # the run's own process writes what is of the run
        for part, told, names in (("run_dir", home, _OF_RUN), ("progress", progress, _OF_PROGRESS)):
            for name in names:
                setattr(told, name, partial(tell, part, name))
        context = make_context(self.config, home, progress, should_stop, None, self.reuse)

        def make(job: StageJob) -> None:
            of_stage = context.of_stage(job.stage)
            of_stage.warnings[:] = job.warnings
            finish_stage(StageRun(of_stage, job.stage, job.fingerprint))

        return make


_OF_RUN = ("event", "write_status")
_OF_PROGRESS = ("note", "warning", "begin", "step", "scored", "end")
