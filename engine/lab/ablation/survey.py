"""What an ablation has to make: the stages of all rows, each once, with what they need; and what that will cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .... import ConfigError
from ...corpus.pool import cores
from ...plan import Stage, digest
from ...preflight.cost import encoder_config, estimate_plan, measure_rate
from ...preflight.estimate_report import time_text
from ...recipe.config import RunConfig
from ...recipe.load import Resolved, load_recipe
from ...report.stage_table import SIDE_ARMS
from ...report.text_table import text_table
from ...runs.graph import make_plan
from ...runs.prepare import make_context, read_ahead, with_world
from ...runs.stage_cache import fingerprint_of, finished_record, run_folders
from ...storage.run_folder import RunDir
from ...training.device import choose_device
from ...training.progress import Progress
from .rows import Choice, Row, choose

Key = tuple[str, str]
"""A stage's id, and the digest of its fingerprint."""


@dataclass(frozen=True)
class RowPlan:
    """One row, ready to run.

    Attributes:
        overrides: of all rows, then the row's own.
        config: with the files of a made world filled in.
        stages: all that the row plans.
        tables: stage id -> fingerprint.
    """

    row: Row
    overrides: tuple[str, ...]
    config: RunConfig
    stages: tuple[Stage, ...]
    tables: dict[str, dict[str, Any]]

    def key(self, stage_id: str) -> Key:
        """What equal stages of different rows have in common."""
        return stage_id, digest(self.tables[stage_id])

    def scored(self, target: str, seed: int) -> str:
        """Id of the stage whose score the row reports for a target."""
        own = [s for s in self.stages if s.seed == seed and s.target in (None, target)]
        if self.row.stage:
            return next(s.id for s in own if s.id.rpartition("/")[2] == self.row.stage)
        return [s for s in own if s.arm is not None and s.arm not in SIDE_ARMS][-1].id

    def lineage(self, stage_id: str) -> set[str]:
        """A stage and all that it stands on."""
        needs = next(s for s in self.stages if s.id == stage_id).inputs.values()
        return {stage_id}.union(*(self.lineage(other) for other in needs))


@dataclass(frozen=True)
class Unit:
    """A stage to be made once, whatever the number of rows that have it."""

    key: Key
    needs: frozenset[Key]
    rows: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.key[0]


@dataclass(frozen=True)
class Ablation:
    """What is asked for, before anything of it is done."""

    source: str | Path | None
    base: Resolved[RunConfig]
    choice: Choice
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    reuse: tuple[Path, ...]
    asked_jobs: int | None

    @property
    def jobs(self) -> int:
        """Processes. Where nobody asked for a number this looks at the device, which starts CUDA."""
        return self.asked_jobs or default_jobs(self.base.config)

    def folder(self, run_dir: str | Path | None) -> Path:
        """Where all of it lies."""
        config = self.base.config
        return Path(run_dir) if run_dir is not None else Path("runs", f"{config.name}-ablation", *config.chosen)


def open_ablation(
    recipe: str | Path | None,
    rows: Sequence[str],
    seeds: Sequence[int] | None,
    overrides: Sequence[str],
    reuse: Sequence[str | Path],
    jobs: int | None,
) -> Ablation:
    """Recipe, rows and numbers, checked.

    Raises:
        ConfigError: what is wrong with them.
    """
    base = load_recipe(recipe, overrides)
    chosen = tuple(seeds) if seeds is not None else base.config.seeds
    choice = choose(rows, replace(base.config, seeds=chosen))
    return Ablation(recipe, base, choice, tuple(overrides), chosen, run_folders(reuse), jobs)


def default_jobs(config: RunConfig) -> int:
    """As many processes as there are cores for the recipe's threads; one on a GPU, or where torch takes every core."""
    if choose_device(config.device).type != "cpu" or not config.threads:
        return 1
    return max(1, cores() // config.threads)


def survey(
    ablation: Ablation,
    folder_of: Callable[[str], Path],
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], int] = lambda: 0,
    look: Callable[[Any, list[Stage]], None] = lambda context, plan: None,
) -> list[RowPlan]:
    """Every row's stages and fingerprints. Reads all data; stores and made worlds are shared by hard links.

    Args:
        folder_of: row name -> its run folder.
        look: called with each row's context and stages, while they are open.

    Raises:
        XltError: as `run`, for what is wrong before the first step; the message starts with the row's name.
    """
    plans: list[RowPlan] = []
    for row in ablation.choice.rows:
        overrides = (*ablation.overrides, *row.overrides)
        others = (*(folder_of(plan.row.name) for plan in plans), *ablation.reuse)
        try:
            resolved = load_recipe(ablation.source, overrides)
            with RunDir(folder_of(row.name)) as home:
                config = with_world(resolved.config, home.path, others)
                context = make_context(config, home, progress or Progress(), should_stop, None, others)
                stages = make_plan(config, ablation.seeds)
                read_ahead(context, stages)
                tables = {stage.id: fingerprint_of(context, stage) for stage in stages}
                look(context, stages)
        except ConfigError as error:
            raise ConfigError(f"row {row.name}: {error}") from error
        plans.append(RowPlan(row, overrides, config, tuple(stages), tables))
    return plans


def units_of(plans: Sequence[RowPlan]) -> list[Unit]:
    """Each distinct stage once, after all that it needs; what most rows share comes first."""
    needs: dict[Key, frozenset[Key]] = {}
    rows: dict[Key, list[str]] = {}
    for plan in plans:
        for stage in plan.stages:
            key = plan.key(stage.id)
            needs[key] = frozenset(plan.key(other) for other in stage.inputs.values())
            rows.setdefault(key, []).append(plan.row.name)
    return [Unit(key, needs[key], tuple(names)) for key, names in rows.items()]


def is_made(unit: Unit, plans: Sequence[RowPlan], folder_of: Callable[[str], Path], reuse: Sequence[Path]) -> bool:
    """Whether some row's folder, or one to reuse, has the stage already."""
    table_of = next(p.tables[unit.id] for p in plans if p.row.name in unit.rows)
    return any(finished_record(place / unit.id, table_of) for place in [*map(folder_of, unit.rows), *reuse])


@dataclass(frozen=True)
class Forecast:
    """What `--dry-run` says.

    Attributes:
        lines: per row: name, label, stages, those of an earlier row or there already, seconds of the rest.
        left_out: row -> why.
    """

    lines: tuple[tuple[str, str, int, int, float], ...]
    jobs: int
    left_out: dict[str, str]

    @property
    def planned(self) -> int:
        """Stages of all rows, shared ones as often as rows have them."""
        return sum(line[2] for line in self.lines)

    @property
    def shared(self) -> int:
        """Of these, how many are not made again."""
        return sum(line[3] for line in self.lines)

    @property
    def seconds(self) -> float:
        """Estimated seconds of one process."""
        return sum(line[4] for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        names = ("row", "label", "stages", "shared", "seconds")
        rows = [dict(zip(names, line, strict=True)) for line in self.lines]
        totals = {"planned": self.planned, "shared": self.shared, "seconds": self.seconds, "jobs": self.jobs}
        return totals | {"rows": rows, "left_out": self.left_out}

    def render(self) -> str:
        """A table for a person."""
        head = ("row", "", "stages", "shared", "to make", "time")
        lines = [(name, label, *map(str, (n, s, n - s)), time_text(t)) for name, label, n, s, t in self.lines]
        total = (
            f"{len(lines)} rows with {self.planned} stages; {self.shared} are shared, {self.planned - self.shared} are "
            f"to make: about {time_text(self.seconds)} of one process, "
            f"{time_text(self.seconds / self.jobs)} with --jobs {self.jobs} (within a factor of two)."
        )
        out = [f"left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join([*text_table([head, *lines], right=(2, 3, 4, 5), rule="columns"), "", total, *out])


def plan_ablation(
    recipe: str | Path | None = None,
    *,
    rows: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    reuse: Sequence[str | Path] = (),
    jobs: int | None = None,
    run_dir: str | Path | None = None,
) -> Forecast:
    """What an ablation still has to make, what its rows share, and about how long it takes.

    Raises:
        XltError: as `ablate`, for what is wrong before the first step.
    """
    ablation = open_ablation(recipe, rows, seeds, overrides, reuse, jobs)
    rate, seconds = 0.0, dict[Key, float]()

    def look(context: Any, stages: list[Stage]) -> None:
        nonlocal rate
        rate = rate or measure_rate(encoder_config(context), context.device, context.config.precision)
        found = estimate_plan(context, stages, rate=rate)
        seconds.update({(e.id, context.digests[e.id]): e.seconds for e in found.stages})

    before = torch.get_num_threads()
    torch.set_num_threads(ablation.base.config.threads or before)
    try:
        with tempfile.TemporaryDirectory(prefix="xlt-") as folder:
            plans = survey(ablation, lambda name: Path(folder, name), look=look)
    finally:
        torch.set_num_threads(before)
    rows_at = ablation.folder(run_dir) / "rows"
    made = {u.key for u in units_of(plans) if is_made(u, plans, rows_at.joinpath, ablation.reuse)}
    lines = []
    for plan in plans:
        keys = [plan.key(stage.id) for stage in plan.stages]
        new = [key for key in keys if key not in made]
        made.update(new)
        lines.append((plan.row.name, plan.row.label, len(keys), len(keys) - len(new), sum(seconds[k] for k in new)))
    return Forecast(tuple(lines), ablation.jobs, ablation.choice.left_out)
