"""A stage of a row, or the whole row, as a job: an ordinary `run` in the folder of the row, here or in a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...recipe.load import load_recipe
from ...runs.runner import run
from ...runs.workers import Tell
from ...training.progress import Progress
from ..studies.for_the_page import write_for_page


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

    def __str__(self) -> str:
        return f"row {self.row}, {self.stage}"


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


def make(job: Job, should_stop: Callable[[], int], progress: Progress | None = None) -> tuple[str, ...]:
    """Does a job in this process; lines for a person.

    Raises:
        XltError: as `run`.
    """
    lines = _RowProgress(job.row, progress or Progress())
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
    return tuple(lines.lines)


def begin(should_stop: Callable[[], int], tell: Tell) -> Callable[[Job], tuple[str, ...]]:
    """What a worker does with jobs."""
    return lambda job: make(job, should_stop)
