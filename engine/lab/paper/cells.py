"""Finished runs as cells of the paper's tables: which row a stage stands for, by what it was made with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .... import ConfigError, DataError
from ...plan import fingerprint
from ...recipe.config import RunConfig
from ...recipe.load import load_recipe, variants
from ...report.stage_table import Cells
from ...runs.graph import make_plan
from ...runs.prepare import with_world
from ...storage.files import read_json
from ...storage.names import STAMP
from ..ablation.rows import ROWS
from ..ablation.survey import RowPlan
from .values import COLUMNS, RECIPES, TABLES, Kind, domain_of

Json = dict[str, Any]
Lookup = Callable[[str], tuple[Json, dict[str, str]] | None]
"""Stage id -> its settings and its inputs; None where there is no such stage."""
_DEPTH = 4
"""Folders below one that is given in which runs are looked for: an ablation of each domain holds rows/NAME."""
_BESIDE = ("name", "each", "seeds", "device", "threads", "source", "sources", "targets", "checkpoint", "performance")
"""Keys that make no other experiment of a recipe."""


@dataclass(frozen=True)
class Cell:
    """The score of one row, column and seed.

    Attributes:
        run, stage: folder of the run, and the id of the stage that was scored.
        made: digest of all that decided its weights.
        test: hash of the test set.
        value: points.
    """

    run: Path
    stage: str
    made: str
    test: str
    value: float


@dataclass
class Joined:
    """What some runs hold together.

    Attributes:
        rows: row -> (column, seed) -> cell.
        runs: of every run: folder, versions, numerics, model, how many cells it has, and `settings`: "key = value
            (recipe's)" of all that is neither the packaged recipe's nor a row's.
        skipped: languages that the paper does not have.
    """

    kind: Kind
    rows: dict[str, dict[tuple[str, int], Cell]] = field(default_factory=dict)
    runs: list[Json] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)

    def values(self, row: str) -> Cells:
        """Points of a row by (column, seed)."""
        return {key: cell.value for key, cell in self.rows.get(row, {}).items()}


def join(kind: Kind, given: Sequence[str | Path]) -> Joined:
    """The cells of all runs in some folders: run folders, folders of `ablate`, or folders that hold any of them.

    Raises:
        DataError: a folder holds no run, or a run of another task, or without its domain; two runs have another result
            for a cell, or were scored on another test set.
    """
    found = Joined(kind)
    base = _packaged(kind)
    folders = list(dict.fromkeys(run.resolve() for folder in given for run in _runs_in(Path(folder))))
    for folder in folders:
        _add(found, base, folder)
    _check_tests(found)
    return found


def _packaged(kind: Kind) -> RunConfig:
    recipe = RECIPES[kind]
    return load_recipe(recipe, variants(recipe)[0].overrides).config


def made_by_run(kind: Kind) -> set[str]:
    """The rows of the paper's tables that `xlt-engine run` makes with the packaged recipe, without `ablate`."""
    base = _packaged(kind)
    stages = {stage.id: stage for stage in make_plan(base)}
    target, seed = base.targets[0].language, base.seeds[0]

    def lookup(name: str) -> tuple[Json, dict[str, str]] | None:
        stage = stages.get(name)
        return None if stage is None else (_settings(fingerprint(stage, {}, {})), stage.inputs)

    overrides = variants(RECIPES[kind])[0].overrides
    plans = (
        _plan(name, load_recipe(RECIPES[kind], (*overrides, *ROWS[name].overrides)).config) for name in _rows(kind)
    )
    return {plan.row.name for plan in plans if _equal(plan, plan.scored(target, seed), lookup)}


def _rows(kind: Kind) -> list[str]:
    return [name for name in dict.fromkeys(n for table in TABLES[kind] for n in table.rows) if name in ROWS]


def _plan(name: str, config: RunConfig, seeds: tuple[int, ...] | None = None) -> RowPlan:
    row = ROWS[name]
    return RowPlan(row, row.overrides, config, tuple(make_plan(config, seeds)), {})


def _runs_in(folder: Path) -> Iterator[Path]:
    """The run folders in a folder, itself included.

    Raises:
        DataError: there is none.
    """

    def walk(place: Path, depth: int) -> Iterator[Path]:
        if (place / "run.json").exists():
            yield place
        elif depth and place.is_dir():
            for child in sorted(place.iterdir()):
                if child.is_dir() and not child.name.startswith("."):
                    yield from walk(child, depth - 1)

    runs = list(walk(folder, _DEPTH))
    if not runs:
        raise DataError(f"{folder}: holds no run; give folders of `xlt-engine run` or `xlt-engine ablate`")
    yield from runs


def _add(found: Joined, base: RunConfig, folder: Path) -> None:
    """The cells of a run. Its own settings stay, but for those that rows of the paper differ in: they are the row's."""
    source, info = folder / "config.toml", read_json(folder / "run.json")
    config = load_recipe(source).config
    if config.task != base.task:
        raise DataError(f"{folder}: is a run of {config.task}; the tables of {found.kind} are of {base.task}")
    domain = domain_of(config)
    if found.kind == "cls" and not domain:
        raise DataError(
            f"{folder}: no domain in its config.toml: its recipe needs a table [each] with domain = ["
            '"books"], "dvd" or "music", as cls-paper has it'
        )
    seeds = tuple(sorted(int(p.name[5:]) for p in folder.glob("seed-*") if p.name[5:].isdigit()))
    method = _method(found.kind, base)
    count = 0
    for name in _rows(found.kind):
        try:
            changed = load_recipe(source, (*_options(method), *ROWS[name].overrides)).config
        except ConfigError:
            continue  # a row that a recipe with these settings cannot have
        plan = _plan(name, with_world(changed, folder), seeds)
        for target in plan.config.targets:
            column = f"{target.language} {domain}".strip()
            if column not in COLUMNS[found.kind]:
                found.skipped.add(column)
                continue
            for seed in seeds:
                if (cell := _cell(plan, folder, target.language, seed, str(info.get("metric")))) is not None:
                    _put(found, name, (column, seed), cell)
                    count += 1
    numerics = {stamp.get("numerics") for stamp in map(read_json, sorted(folder.glob(f"seed-*/**/{STAMP}")))}
    found.runs.append(
        {"folder": str(folder), "version": (info.get("versions") or {}).get("xlt-engine"), "commit": info.get("git")}
        | {
            "numerics": sorted(n for n in numerics if n is not None),
            "model": str(config.model.path or "made by the recipe"),
        }
        | {"cells": count, "settings": list(_deviations(config, base, set(method)))}
    )


def _method(kind: Kind, base: RunConfig) -> dict[str, Any]:
    """The keys that rows of the paper's tables set, with the values of the packaged recipe."""
    keys = dict.fromkeys(o.partition("=")[0] for name in _rows(kind) for o in ROWS[name].overrides)
    flat = dict(_flat(base))
    return {key: flat[key] for key in keys}


def _options(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Key -> value of all settings below a table; tuples are values."""
    if dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            yield from _flat(getattr(value, part.name), f"{path}.{part.name}".lstrip("."))
    else:
        yield path, value


def _deviations(config: RunConfig, base: RunConfig, method: set[str]) -> Iterator[str]:
    """Settings that are neither the packaged recipe's nor a row's."""
    theirs = dict(_flat(base))
    for key, value in _flat(config):
        if key in method or key.split(".")[0] in (*_BESIDE, "model", "reader", "arms", "world"):
            continue
        if value != theirs.get(key):
            yield f"{key} = {_shown(value)} ({_shown(theirs.get(key))})"


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)


def _cell(plan: RowPlan, folder: Path, target: str, seed: int, metric: str) -> Cell | None:
    """The score of a row's stage in a run folder; None where the folder has no such stage, or not made like this."""

    def lookup(name: str) -> tuple[Json, dict[str, str]] | None:
        record, stamp = read_json(folder / name / "stage.json"), read_json(folder / name / STAMP)
        return (_settings(stamp), record.get("inputs") or {}) if record and stamp else None

    stage = plan.scored(target, seed)
    if not _equal(plan, stage, lookup):
        return None
    record = read_json(folder / stage / "stage.json")
    for score in read_json(folder / stage / "scores.json").get("scores") or ():
        if (score["metric"], score["language"], score["role"]) == (metric, target, "target"):
            test = str((record.get("scored_on") or {}).get(target))
            return Cell(folder, stage, str(record.get("fingerprint")), test, float(score["value"]))
    return None


def _settings(table: Mapping[str, Any]) -> Json:
    """What a fingerprint says of a stage itself: without its data, its inputs and the version of the numerics."""
    return {k: v for k, v in table.items() if k != "numerics" and not k.startswith(("input.", "data."))}


def _equal(plan: RowPlan, stage_id: str, lookup: Lookup) -> bool:
    """Whether a stage of a plan, and all that it stands on, are there with the plan's settings."""
    stage = next(s for s in plan.stages if s.id == stage_id)
    there = lookup(stage_id)
    if there is None or there != (_settings(fingerprint(stage, {}, {})), stage.inputs):
        return False
    return all(_equal(plan, other, lookup) for other in stage.inputs.values())


def _put(found: Joined, row: str, key: tuple[str, int], cell: Cell) -> None:
    before = found.rows.setdefault(row, {}).setdefault(key, cell)
    if before.made != cell.made:
        column, seed = key
        raise DataError(
            f"{before.run / before.stage} and {cell.run / cell.stage} are both {ROWS[row].label} of {column}, seed "
            f"{seed}, but were made with other data or settings; give one of the runs"
        )


def _check_tests(found: Joined) -> None:
    """Differences are between scores on one test set."""
    first: dict[str, Cell] = {}
    for rows in found.rows.values():
        for (column, _), cell in rows.items():
            other = first.setdefault(column, cell)
            if other.test != cell.test:
                raise DataError(
                    f"{other.run / other.stage} and {cell.run / cell.stage} were scored on different test files of "
                    f"{column}; run them again with one file, which trains nothing"
                )


def decisions(found: Joined) -> dict[tuple[str, int, int], Json]:
    """(column, round, seed) -> `decision.json` of the hard stages that the method's scores stand on: Figure 2."""
    read: dict[tuple[str, int, int], Json] = {}
    for row in ("auto", "ours"):
        for (column, seed), cell in found.rows.get(row, {}).items():
            for stage in _lineage(cell.run, cell.stage):
                if decision := read_json(cell.run / stage / "decision.json"):
                    read[column, int(decision["round"]), seed] = decision
    order = {column: i for i, column in enumerate(COLUMNS[found.kind])}
    return dict(sorted(read.items(), key=lambda item: (order[item[0][0]], *item[0][1:])))


def _lineage(folder: Path, stage: str) -> set[str]:
    inputs = read_json(folder / stage / "stage.json").get("inputs") or {}
    return {stage}.union(*(_lineage(folder, other) for other in inputs.values()))
