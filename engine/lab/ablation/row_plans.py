"""The stages of all rows of an ablation, each once, with what they need; and what making them will cost."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .... import ConfigError
from ...plan import Stage, digest
from ...preflight.cost import Paces, estimate_plan
from ...preflight.estimate_report import time_text
from ...recipe.config import RunConfig
from ...recipe.load import Resolved, load_recipe
from ...report.stage_table import SIDE_ARMS
from ...report.text_table import text_table
from ...runs.graph import make_plan
from ...runs.jobs import default_jobs
from ...runs.prepare import make_context, read_ahead
from ...runs.stage_cache import fingerprint_of, finished_record, run_folders
from ...runs.synthetic_data import settled
from ...stages.context import Context
from ...storage.names import serves
from ...storage.run_folder import RunDir
from ...training.progress import Progress
from ..score_tables import Json
from .rows import Choice, Row, choose

Key = tuple[str, str]
"""A stage's id, and the digest of its fingerprint."""


@dataclass(frozen=True)
class RowPlan:
    """One row, ready to run.

    Attributes:
        overrides: of all rows, then the row's own.
        config: with the files of a made world filled in.
        fingerprints: by stage id.
    """

    row: Row
    overrides: tuple[str, ...]
    config: RunConfig
    stages: tuple[Stage, ...]
    fingerprints: dict[str, dict[str, Any]]

    def key(self, stage_id: str) -> Key:
        """What equal stages of different rows have in common."""
        return stage_id, digest(self.fingerprints[stage_id])

    def scored(self, target: str, seed: int) -> str:
        """Id of the stage whose score the row reports for a target."""
        stages = [s for s in self.stages if s.seed == seed and serves(s.pair, target)]
        if self.row.stage:
            return next(s.id for s in stages if s.id.rpartition("/")[2] == self.row.stage)
        return [s for s in stages if s.arm is not None and s.arm not in SIDE_ARMS][-1].id

    def lineage(self, stage_id: str) -> set[str]:
        """A stage and all that it stands on."""
        needs = next(s for s in self.stages if s.id == stage_id).inputs.values()
        return {stage_id}.union(*(self.lineage(other) for other in needs))


@dataclass(frozen=True)
class Unit:
    """A stage to be made once, whatever the number of rows that have it."""

    id: str
    key: Key
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Ablation:
    """What is asked for, before anything of it is done."""

    source: str | Path | None
    base: Resolved
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
        """Where all of it lies; the rows' run folders in `rows` below."""
        config = self.base.config
        return Path(run_dir) if run_dir is not None else Path("runs", f"{config.name}-ablation", *config.chosen)


def open_ablation(
    recipe: str | Path | None = None,
    rows: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    reuse: Sequence[str | Path] = (),
    jobs: int | None = None,
) -> Ablation:
    """Recipe, rows and numbers, checked; the arguments are those of `ablate`.

    Raises:
        ConfigError: what is wrong with them.
    """
    base = load_recipe(recipe, overrides)
    chosen = tuple(seeds) if seeds is not None else base.config.seeds
    choice = choose(rows, replace(base.config, seeds=chosen))
    return Ablation(recipe, base, choice, tuple(overrides), chosen, run_folders(reuse), jobs)


def plan_rows(
    ablation: Ablation,
    home: Path,
    *,
    progress: Progress | None = None,
    should_stop: Callable[[], int] = lambda: 0,
    look: Callable[[Context, list[Stage]], None] = lambda context, stages: None,
) -> list[RowPlan]:
    """Every row's stages and fingerprints. Reads all data; stores and made worlds are shared by hard links.

    Args:
        home: where the rows' run folders lie, by their names.
        look: called with each row's context and stages, while they are open.

    Raises:
        XltError: as `run`, for what is wrong before the first step; the message starts with the row's name.
    """
    plans: list[RowPlan] = []
    for row in ablation.choice.rows:
        overrides = (*ablation.overrides, *row.overrides)
        others = (*(home / plan.row.name for plan in plans), *ablation.reuse)
        try:
            resolved = load_recipe(ablation.source, overrides)
            with RunDir(home / row.name) as folder:
                config = settled(resolved.config, folder.path, others)
                context = make_context(config, folder, progress or Progress(), should_stop, None, others)
                stages = make_plan(config, ablation.seeds)
                read_ahead(context, stages)
                fingerprints = {stage.id: fingerprint_of(context, stage) for stage in stages}
                look(context, stages)
        except ConfigError as error:
            raise ConfigError(f"row {row.name}: {error}") from error
        plans.append(RowPlan(row, overrides, config, tuple(stages), fingerprints))
    return plans


def units_of(plans: Sequence[RowPlan]) -> list[Unit]:
    """Each distinct stage once."""
    rows: dict[Key, list[str]] = {}
    for plan in plans:
        for stage in plan.stages:
            rows.setdefault(plan.key(stage.id), []).append(plan.row.name)
    return [Unit(key[0], key, tuple(names)) for key, names in rows.items()]


def is_made(unit: Unit, plans: Sequence[RowPlan], home: Path, reuse: Sequence[Path]) -> bool:
    """Whether some row's folder, or one to reuse, has the stage already."""
    fingerprint = next(p.fingerprints[unit.id] for p in plans if p.row.name in unit.rows)
    return any(finished_record(place / unit.id, fingerprint) for place in [*(home / n for n in unit.rows), *reuse])


def forecast(recipe: str | Path | None = None, *, run_dir: str | Path | None = None, **asked: Any) -> Json:
    """What an ablation still has to make, what its rows share, and about how long it takes.

    Args:
        asked: further arguments of `ablate`: rows, seeds, overrides, reuse, jobs.

    Returns:
        `rows`, each with its number of `stages`, of these the `shared` ones (those of an earlier row, or there
        already), and `seconds` of the rest in one process; the sums of these; `jobs` and `left_out`.

    Raises:
        XltError: as `ablate`, for what is wrong before the first step.
    """
    ablation = open_ablation(recipe, **asked)
    paces, seconds = Paces(), dict[Key, float]()

    def look(context: Context, stages: list[Stage]) -> None:
        estimate = estimate_plan(context, stages, paces=paces)
        seconds.update({(e.id, context.digests[e.id]): e.seconds for e in estimate.stages})

    before = torch.get_num_threads()
    torch.set_num_threads(ablation.base.config.threads or before)
    try:
        with tempfile.TemporaryDirectory(prefix="xlt-") as folder:
            plans = plan_rows(ablation, Path(folder), look=look)
    finally:
        torch.set_num_threads(before)
    made = {u.key for u in units_of(plans) if is_made(u, plans, ablation.folder(run_dir) / "rows", ablation.reuse)}
    rows = []
    for plan in plans:
        keys = [plan.key(stage.id) for stage in plan.stages]
        new = [key for key in keys if key not in made]
        made.update(new)
        row: Json = {"row": plan.row.name, "label": plan.row.label, "stages": len(keys)}
        rows.append(row | {"shared": len(keys) - len(new), "seconds": sum(seconds[key] for key in new)})
    totals = {name: sum(row[key] for row in rows) for name, key in _TOTALS.items()}
    return totals | {"jobs": ablation.jobs, "rows": rows, "left_out": ablation.choice.left_out}


_TOTALS = {"planned": "stages", "shared": "shared", "seconds": "seconds"}


def render_forecast(values: Json) -> str:
    """A forecast for a person."""
    lines = [("row", "", "stages", "shared", "to make", "time")]
    for row in values["rows"]:
        numbers = (row["stages"], row["shared"], row["stages"] - row["shared"])
        lines.append((row["row"], row["label"], *map(str, numbers), time_text(row["seconds"])))
    planned, shared, seconds = (values[name] for name in _TOTALS)
    summary = (
        f"{len(values['rows'])} rows with {planned} stages; {shared} are shared, {planned - shared} are to make: about "
        f"{time_text(seconds)} of one process, {time_text(seconds / values['jobs'])} with --jobs {values['jobs']} "
        "(within a factor of two)."
    )
    out = [f"left out: {name}: {why}" for name, why in values["left_out"].items()]
    return "\n".join([*text_table(lines, right=(2, 3, 4, 5), rule="columns"), "", summary, *out])
