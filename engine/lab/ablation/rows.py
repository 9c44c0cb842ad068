"""The rows of an ablation, from `rows.toml`: what each changes, its stages, and what making them will cost."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from .... import ConfigError
from ....tasks import TASKS
from ...plan import Stage, digest
from ...preflight.cost import Paces, estimate_plan
from ...recipe.config import RunConfig
from ...recipe.load import Resolved, load_recipe
from ...recipe.schema import nearest
from ...runs.graph import make_plan
from ...runs.jobs import default_jobs
from ...runs.prepare import make_context, read_ahead
from ...runs.stage_state import fingerprint_of, run_folders, state
from ...runs.synthetic_data import settled
from ...stages.context import Context
from ...storage.names import serves
from ...storage.run_folder import RunDir
from ...storage.text import text_table, time_text
from ...summary.stage_table import SIDE_ARMS, Json
from ...training.progress import Progress

DEFAULT = ("main",)
OURS = "ours"
ALL = "all"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: also that of its folder.
        stage: folder name of the stage that is scored; the last one of the method when empty.
        general: whether it needs general text in every language.
        seeds: how many seeds it needs.
    """

    name: str
    label: str
    meaning: str
    overrides: tuple[str, ...] = ()
    stage: str = ""
    tasks: tuple[str, ...] = tuple(TASKS)
    general: bool = False
    seeds: int = 1

    def obstacle(self, config: RunConfig) -> str:
        """Why a recipe cannot have this row; empty where it can."""
        if config.task not in self.tasks:
            return f"is for {' and '.join(self.tasks)} only"
        if len(config.seeds) < self.seeds:
            return f"needs {self.seeds} seeds at least: give --seeds"
        if self.seeds > 1 and "soft" not in config.selftrain.sequence:
            return "needs a soft stage"
        lacking = [t.language for t in config.tables if not (t.control or t.general)]
        if self.general and config.world is None and lacking:
            return f"needs general text of {', '.join(lacking)}: give source.control and targets.N.control"
        return ""

    def reported(self, stages: Sequence[Stage], target: str, seed: int) -> str:
        """Id of the stage whose score the row reports for a target, among those of its run."""
        own = [s for s in stages if s.seed == seed and serves(s.pair, target)]
        if self.stage:
            return next(s.id for s in own if s.id.rpartition("/")[2] == self.stage)
        return [s for s in own if s.arm is not None and s.arm not in SIDE_ARMS][-1].id


@dataclass(frozen=True)
class Group:
    """A table: its rows in order, and the one that the others are compared with."""

    name: str
    title: str
    rows: tuple[str, ...]
    reference: str = OURS


def _row(name: str, overrides: Sequence[str] = (), tasks: Iterable[str] = TASKS, **more: Any) -> Row:
    arms = () if name == OURS else tuple(f"arms.{arm}=false" for arm in ("baseline", "control"))
    kept = (arm for arm in arms if arm.replace("false", "true") not in overrides)
    return Row(name, overrides=(*kept, *overrides), tasks=tuple(tasks), **more)


_FILE = tomllib.loads(resources.files(__package__).joinpath("rows.toml").read_text("utf-8"))
ROWS = {name: _row(name, **values) for name, values in _FILE["rows"].items()}
GROUPS = {name: Group(name, **values | {"rows": tuple(values["rows"])}) for name, values in _FILE["groups"].items()}


@dataclass(frozen=True)
class Choice:
    """What an ablation consists of; groups have the rows that the recipe can have.

    Attributes:
        rows: in the order in which they are made: the references first, since they hold what most rows share.
        left_out: row -> why, of rows that a group would have.
    """

    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
    left_out: dict[str, str]


def choose(names: Sequence[str], config: RunConfig) -> Choice:
    """The rows and tables that some names of rows and groups stand for; those of `DEFAULT` where there are none.

    Raises:
        ConfigError: a name is unknown, or the recipe cannot have the row; all of them at once.
    """
    single, groups, problems = [], [], []
    for name in [part for given in names or DEFAULT for part in (GROUPS if given == ALL else [given])]:
        if name in GROUPS:
            groups.append(GROUPS[name])
        elif (row := _find(name)) is None:
            problems.append(_unknown(name))
        elif obstacle := row.obstacle(config):
            problems.append(f"--rows {name}: {obstacle}")
        else:
            single.append(row.name)
    if problems:
        raise ConfigError("\n".join(problems))
    left_out = {n: why for g in groups for n in g.rows if (why := ROWS[n].obstacle(config))}
    kept = [Group(g.name, g.title, tuple(n for n in g.rows if n not in left_out), g.reference) for g in groups]
    alone = [n for n in dict.fromkeys([OURS, *single]) if not any(n in g.rows for g in groups) or n == OURS]
    if len(alone) > 1:
        kept.append(Group("chosen", "Chosen rows", tuple(alone)))
    kept = list({g.name: g for g in kept}.values()) or [Group("chosen", "Chosen rows", (OURS,))]
    order = dict.fromkeys([g.reference for g in kept] + [n for g in kept for n in g.rows])
    order = dict.fromkeys([n for n in (OURS,) if n in order]) | order
    return Choice(tuple(ROWS[n] for n in order), tuple(kept), left_out)


def _find(name: str) -> Row | None:
    """By name, or by label in the paper's spelling (-VM)."""
    return ROWS.get(name.lower()) or next((r for r in ROWS.values() if r.label.lower() == name.lower()), None)


def _unknown(name: str) -> str:
    near = nearest(name, [*ROWS, *GROUPS, ALL, *(row.label for row in ROWS.values())])
    hint = f"did you mean {near}? " if near else ""
    return f"--rows {name}: there is no such row or group; {hint}--list names all of them"


def describe_rows() -> str:
    """Groups and rows with their meaning, for a person."""
    lines: list[str] = []
    for group in GROUPS.values():
        lines.append(f"{group.name}: {group.title}; compared with {group.reference}")
        lines += [f"  {name:<16}{ROWS[name].label:<24}{ROWS[name].meaning}" for name in group.rows] + [""]
    return "\n".join([*lines, "Names of rows and groups go to --rows, with commas between them; all stands for all."])


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
    return {
        key for key, stamp in stamps.items() if any(state(place, key[0], stamp, hashed=False).fresh for place in places)
    }


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
