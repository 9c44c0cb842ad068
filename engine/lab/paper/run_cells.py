"""Finished runs as cells of the paper's tables: which row a stage stands for, by what it was made with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .... import ConfigError, DataError
from ...plan import fingerprint
from ...recipe.config import RunConfig
from ...recipe.load import load_recipe, variants
from ...report.stage_folders import read_decision
from ...report.stage_table import Cells
from ...runs.graph import make_plan
from ...runs.synthetic_data import settled
from ...storage.files import read_json
from ...storage.names import STAMP
from ...storage.stage_files import paths_below
from ..ablation.row_plans import RowPlan
from ..ablation.rows import ROWS
from ..score_tables import Json
from .printed import COLUMNS, RECIPES, TABLES, Kind, domain_of

_DEPTH = 4
"""Folders below one that is named in which runs are looked for: an ablation of each domain holds rows/NAME."""
_BESIDE = (
    *("name", "each", "seeds", "device", "threads", "sources", "targets", "checkpoint", "performance"),
    *("model", "reader", "arms", "world"),
)
"""Keys that make no other experiment of a recipe."""


@dataclass(frozen=True)
class Cell:
    """The score of one row, column and seed, in points; `made`: digest of all that decided the stage's weights."""

    run: Path
    stage: str
    made: str
    test: str
    value: float


@dataclass
class Joined:
    """What some runs hold together.

    Attributes:
        rows: row -> (column, seed) -> cell; `first`: the first cell of each column.
        runs: of every run: folder, versions, numerics, model, how many cells it has, and `settings`: "key = value
            (recipe's)" of all that is neither the packaged recipe's nor a row's.
        skipped: languages that the paper does not have.
    """

    kind: Kind
    rows: dict[str, dict[tuple[str, int], Cell]] = field(default_factory=dict)
    first: dict[str, Cell] = field(default_factory=dict)
    runs: list[Json] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)

    def values(self, row: str) -> Cells:
        """Points of a row by (column, seed)."""
        return {key: cell.value for key, cell in self.rows.get(row, {}).items()}


def join(kind: Kind, folders: Sequence[str | Path]) -> Joined:
    """The cells of all runs in some folders: run folders, folders of `ablate`, or folders that hold any of them.

    Raises:
        DataError: a folder holds no run, or a run of another task, or without its domain; two runs have another result
            for a cell, or were scored on another test set.
    """
    joined = Joined(kind)
    recipe = RECIPES[kind]
    base = load_recipe(recipe, variants(recipe)[0].overrides).config
    for run in dict.fromkeys(run.resolve() for folder in folders for run in _runs_in(Path(folder))):
        _add(joined, base, run)
    return joined


def _runs_in(folder: Path) -> list[Path]:
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
    return runs


def _add(joined: Joined, base: RunConfig, folder: Path) -> None:
    """The cells of a run. Its own settings stay, but for those that rows of the paper differ in: they are the row's."""
    source, info = folder / "config.toml", read_json(folder / "run.json")
    config = load_recipe(source).config
    if config.task != base.task:
        raise DataError(f"{folder}: is a run of {config.task}; the tables of {joined.kind} are of {base.task}")
    domain = domain_of(config)
    if joined.kind == "cls" and not domain:
        raise DataError(
            f"{folder}: no domain in its config.toml: its recipe needs a table [each] with domain = ["
            '"books"], "dvd" or "music", as cls-paper has it'
        )
    names = [n for n in dict.fromkeys(n for table in TABLES[joined.kind] for n in table.rows) if n in ROWS]
    varied = dict.fromkeys(override.partition("=")[0] for name in names for override in ROWS[name].overrides)
    theirs = dict(_flat(base))
    method = [f"{key}={json.dumps(theirs[key])}" for key in varied]
    seeds = tuple(sorted(int(p.name[5:]) for p in folder.glob("seed-*") if p.name[5:].isdigit()))
    count = 0
    for name in names:
        try:
            changed = load_recipe(source, (*method, *ROWS[name].overrides)).config
        except ConfigError:
            continue  # a row that a recipe with these settings cannot have
        changed = settled(changed, folder)
        plan = RowPlan(ROWS[name], (), changed, tuple(make_plan(changed, seeds)), {})
        for target in changed.targets:
            column = f"{target.language} {domain}".strip()
            if column not in COLUMNS[joined.kind]:
                joined.skipped.add(column)
                continue
            for seed in seeds:
                if (cell := _cell(plan, folder, target.language, seed, str(info.get("metric")))) is not None:
                    _put(joined, name, (column, seed), cell)
                    count += 1
    stamps = map(read_json, paths_below(folder, STAMP))
    numerics = sorted({stamp["numerics"] for stamp in stamps if stamp.get("numerics") is not None})
    settings = [
        f"{key} = {json.dumps(value, default=str)} ({json.dumps(theirs.get(key), default=str)})"
        for key, value in _flat(config)
        if key not in varied and key.split(".")[0] not in _BESIDE and value != theirs.get(key)
    ]
    joined.runs.append(
        {"folder": str(folder), "version": (info.get("versions") or {}).get("xlt-engine"), "commit": info.get("git")}
        | {"numerics": numerics, "model": str(config.model.path or "made by the recipe")}
        | {"cells": count, "settings": settings}
    )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Key -> value of all settings below a table; tuples are values."""
    if dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            yield from _flat(getattr(value, part.name), f"{path}.{part.name}".lstrip("."))
    else:
        yield path, value


def _cell(plan: RowPlan, folder: Path, target: str, seed: int, metric: str) -> Cell | None:
    """The score of a row's stage in a run folder; None where the folder has no such stage, or not made like this."""
    stage = plan.scored(target, seed)
    if not _made_like(plan, stage, folder):
        return None
    record = read_json(folder / stage / "stage.json")
    for score in read_json(folder / stage / "scores.json").get("scores") or ():
        if (score["metric"], score["language"], score["role"]) == (metric, target, "target"):
            test = str((record.get("scored_on") or {}).get(target))
            return Cell(folder, stage, str(record.get("fingerprint")), test, float(score["value"]))
    return None


def _made_like(plan: RowPlan, stage_id: str, folder: Path) -> bool:
    """Whether a stage of a plan, and all that it stands on, are in a run folder with the plan's settings."""
    stage = next(s for s in plan.stages if s.id == stage_id)
    record, stamp = read_json(folder / stage_id / "stage.json"), read_json(folder / stage_id / STAMP)
    if not record or (record.get("inputs") or {}) != stage.inputs:
        return False
    if _settings(stamp) != _settings(fingerprint(stage, {}, {})):
        return False
    return all(_made_like(plan, other, folder) for other in stage.inputs.values())


def _settings(stamp: Mapping[str, Any]) -> Json:
    """What a fingerprint says of a stage itself: without its data, its inputs and the version of the numerics."""
    return {k: v for k, v in stamp.items() if k != "numerics" and not k.startswith(("input.", "data."))}


def _put(joined: Joined, row: str, key: tuple[str, int], cell: Cell) -> None:
    column, seed = key
    before = joined.rows.setdefault(row, {}).setdefault(key, cell)
    if before.made != cell.made:
        raise DataError(
            f"{before.run / before.stage} and {cell.run / cell.stage} are both {ROWS[row].label} of {column}, seed "
            f"{seed}, but were made with other data or settings; give one of the runs"
        )
    other = joined.first.setdefault(column, cell)
    if other.test != cell.test:
        raise DataError(
            f"{other.run / other.stage} and {cell.run / cell.stage} were scored on different test files of {column}; "
            "run them again with one file, which trains nothing"
        )


def decisions(joined: Joined) -> dict[tuple[str, int, int], Json]:
    """(column, round, seed) -> the decisions of the hard stages that the method's scores stand on: Figure 2."""
    read: dict[tuple[str, int, int], Json] = {}
    for row in ("auto", "ours"):
        for (column, seed), cell in joined.rows.get(row, {}).items():
            for stage in _lineage(cell.run, cell.stage):
                if decision := read_decision(cell.run / stage, column.split()[0]):
                    read[column, int(decision["round"]), seed] = decision
    columns = COLUMNS[joined.kind]
    return dict(sorted(read.items(), key=lambda item: (columns.index(item[0][0]), *item[0][1:])))


def _lineage(folder: Path, stage: str) -> set[str]:
    inputs = read_json(folder / stage / "stage.json").get("inputs") or {}
    return {stage}.union(*(_lineage(folder, other) for other in inputs.values()))
