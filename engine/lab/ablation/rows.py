"""The rows of an ablation, from `rows.toml`: what each changes in a recipe, and which tables it stands in."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from .... import ConfigError
from ....tasks import TASKS
from ...plan import Stage
from ...recipe.config import RunConfig
from ...recipe.schema import nearest
from ...storage.names import serves
from ...summary.stage_table import SIDE_ARMS

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
