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
from ...recipe.config import RunConfig
from ...recipe.load import Resolved, load_recipe
from ...runs.graph import make_plan
from ...runs.jobs import default_jobs
from ...runs.prepare import make_context, read_ahead
from ...runs.stage_state import fingerprint_of, finished_record, run_folders
from ...runs.synthetic_data import settled
from ...stages.context import Context
from ...storage.run_folder import RunDir
from ...storage.text import text_table, time_text
from ...summary.stage_table import Json
from ...training.progress import Progress
from .rows import Choice, Row, choose

Key = tuple[str, str]
"""A stage's id, and the digest of its fingerprint."""


@dataclass(frozen=True)
class RowPlan:
    """One row, ready to run.

    Attributes:
        overrides: of all rows, then the row's own.
        record: the row's name, and by target the stages that it reports, a seed after the other: `row` of `run.json`.
    """

    row: Row
    overrides: tuple[str, ...]
    config: RunConfig
    fingerprints: dict[str, dict[str, Any]]
    record: dict[str, Any]

    @property
    def keys(self) -> list[Key]:
        """What equal stages of different rows have in common, of each stage in order."""
        return [(stage, digest(stamp)) for stage, stamp in self.fingerprints.items()]


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
        return Path(run_dir) if run_dir is not None else Path("runs", f"{config.name}-ablation")


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
        of_target = {
            t.language: [row.reported(stages, t.language, seed) for seed in ablation.seeds] for t in config.targets
        }
        plans.append(RowPlan(row, overrides, config, fingerprints, {"name": row.name, "stages": of_target}))
    return plans


def stages_made(plans: Sequence[RowPlan], home: Path, reuse: Sequence[Path]) -> set[Key]:
    """The stages that some row's folder, or one to reuse, has already."""
    places = [*(home / plan.row.name for plan in plans), *reuse]
    stamps = {key: stamp for plan in plans for key, stamp in zip(plan.keys, plan.fingerprints.values(), strict=True)}
    return {key for key, stamp in stamps.items() if any(finished_record(place / key[0], stamp) for place in places)}


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
    made = stages_made(plans, ablation.folder(run_dir) / "rows", ablation.reuse)
    rows = []
    for plan in plans:
        keys = plan.keys
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
