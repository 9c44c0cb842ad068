"""Worker processes that make stages of rows, each an ordinary `run` in the folder of its row.

They are spawned, not forked: torch has threads of its own. A worker stops, with a checkpoint, when it is told to, and
when its parent has gone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from .... import OutOfMemoryError, XltError
from ...recipe.load import load_recipe
from ...runs.runner import run
from ...storage.files import storage_errors
from ...training.progress import Progress
from ..studies.for_the_page import write_for_page

POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A stage (or "all") of a row, for a process to make in the row's run folder; `row` is its name, for messages."""

    row: str
    stage: str
    recipe: str | Path | None
    overrides: tuple[str, ...]
    folder: Path
    seeds: tuple[int, ...]
    reuse: tuple[Path, ...]


@dataclass(frozen=True)
class Answer:
    """What became of a job: lines for a person, and the error by public class and message, if there was one."""

    lines: tuple[str, ...] = ()
    error: type[XltError] | None = None
    message: str = ""
    exit_code: int = 0


class _RowProgress(Progress):
    """Hands on what a row's stages say, with the row's name; what was taken over is not worth a line each."""

    def __init__(self, row: str, other: Progress) -> None:
        self._row, self._other = row, other
        self.lines: list[str] = []
        self.warning, self.step = other.warning, other.step  # type: ignore[method-assign]

    def begin(self, stage: str, total: int, done: int) -> None:
        self._other.begin(f"{self._row}/{stage}", total, done)

    def end(self, stage: str, text: str) -> None:
        self.lines.append(f"{self._row}/{stage}: {text}")
        self._other.end(f"{self._row}/{stage}", text)


def make(job: Job, should_stop: Callable[[], int], progress: Progress | None = None) -> Answer:
    """Does a job in this process."""
    lines = _RowProgress(job.row, progress or Progress())
    try:
        run(
            load_recipe(job.recipe, job.overrides),
            stage=job.stage,
            run_dir=job.folder,
            seeds=job.seeds,
            progress=lines,
            should_stop=should_stop,
            reuse=[folder for folder in job.reuse if folder.is_dir()],
            before_report=write_for_page,
        )
    except XltError as error:
        public = next(c for c in type(error).__mro__ if c.__module__ == XltError.__module__)
        return Answer(tuple(lines.lines), public, str(error), error.exit_code)
    return Answer(tuple(lines.lines))


class Workers:
    """Some processes, each with at most one job."""

    def __init__(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._members: dict[Connection, BaseProcess] = {}
        self.busy: dict[Connection, Job] = {}
        with storage_errors("a worker process", "start"):
            for _ in range(number):
                mine, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, os.getpid()), daemon=True)
                process.start()
                theirs.close()
                self._members[mine] = process

    def give(self, job: Job) -> None:
        """Hands a job to an idle process."""
        member = next(m for m in self._members if m not in self.busy)
        self.busy[member] = job
        try:
            member.send(job)
        except OSError as error:
            raise self._lost(member) from error

    def answers(self) -> list[tuple[Job, Answer]]:
        """The jobs that have ended since, after waiting a moment for one.

        Raises:
            OutOfMemoryError: a process was killed; names the row.
            XltError: one has ended by itself.
        """
        ended: list[tuple[Job, Answer]] = []
        for member in wait(list(self.busy), POLL_SECONDS):
            assert isinstance(member, Connection)
            try:
                answer = member.recv()
            except (EOFError, OSError) as error:
                raise self._lost(member) from error
            ended.append((self.busy.pop(member), answer))
        return ended

    def _lost(self, member: Connection) -> XltError:
        process, job = self._members.pop(member), self.busy.pop(member)
        process.join(POLL_SECONDS)
        code = process.exitcode
        how = f"was killed by signal {-code}, perhaps for want of memory" if code and code < 0 else f"ended with {code}"
        kind = OutOfMemoryError if code and code < 0 else XltError
        return kind(
            f"row {job.row}, {job.stage}: the process that made it {how}; nothing else is lost: run the same command "
            "again, with fewer --jobs if memory is short"
        )

    def stop(self) -> list[tuple[Job, Answer]]:
        """Has every process save and end; the answers of those that did so in time."""
        for process in self._members.values():
            process.terminate()
        ended: list[tuple[Job, Answer]] = []
        for member, job in self.busy.items():
            with suppress(EOFError, OSError):
                if member.poll(GRACE_SECONDS):
                    ended.append((job, member.recv()))
        for member, process in self._members.items():
            member.close()
            process.join(POLL_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._members.clear()
        self.busy.clear()
        return ended


def _serve(parent: Connection, parent_id: int) -> None:
    """A worker's life. Signals of the terminal reach it too, but only the parent decides."""
    told: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))

    def should_stop() -> int:
        return told[0] if told else signal.SIGTERM if os.getppid() != parent_id else 0

    while not should_stop():
        if not parent.poll(POLL_SECONDS):
            continue
        try:
            parent.send(make(parent.recv(), should_stop))
        except (EOFError, OSError):  # the parent has gone
            return
