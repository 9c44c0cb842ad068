"""Finished runs as cells of the paper's tables: which row a stage stands for, by what it was made with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from .... import ConfigError, DataError
from ...plan import Stage, fingerprint
from ...recipe.config import RunConfig
from ...recipe.load import load_recipe, variants
from ...report.tracking.compare import Scored, lineage, read_scores
from ...runs.graph import make_plan
from ...runs.synthetic_data import settled
from ...storage.files import read_json
from ...storage.names import STAMP
from ...storage.stage_files import paths_below
from ...summary.stage_folders import read_decision
from ...summary.stage_table import Json
from ..ablation.rows import ROWS
from .printed import COLUMNS, RECIPES, TABLES, Kind, domain_of

_DEPTH = 4
"""Folders below one that is named in which runs are looked for: an ablation of each domain holds rows/NAME."""
_BESIDE = (
    *("name", "each", "seeds", "device", "threads", "sources", "targets", "checkpoint", "performance"),
    *("model", "reader", "arms", "world"),
)
"""Keys that make no other experiment of a recipe."""


@dataclass
class Joined:
    """What some runs hold together.

    Attributes:
        rows: row -> its scores by (column, seed); `places`: (row, column, seed) -> folder of the stage.
        first: column -> the first stage with a score there, and its test file.
        runs: of every run: folder, versions, numerics, model, how many cells it has, and `settings`: "key = value
            (recipe's)" of all that is neither the packaged recipe's nor a row's.
        skipped: languages that the paper does not have.
    """

    kind: Kind
    rows: dict[str, Scored] = field(default_factory=dict)
    places: dict[tuple[str, str, int], tuple[Path, str]] = field(default_factory=dict)
    first: dict[str, tuple[Path, str]] = field(default_factory=dict)
    runs: list[Json] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)


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
        plan = make_plan(settled(changed, folder), seeds)
        stages = {s.id: s for s in plan}
        held = dict[tuple[str, int], str]()
        for target, seed in product((t.language for t in changed.targets), seeds):
            if f"{target} {domain}".strip() not in COLUMNS[joined.kind]:
                joined.skipped.add(f"{target} {domain}".strip())
            elif _made_like(stages, stage := ROWS[name].reported(plan, target, seed), folder):
                held[target, seed] = stage
        scored = read_scores(folder, held)
        for cell in scored.values:
            _put(joined, name, f"{cell[0]} {domain}".strip(), scored, cell, folder)
        count += len(scored.values)
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


def _made_like(stages: Mapping[str, Stage], stage_id: str, folder: Path) -> bool:
    """Whether a stage of a plan, and all that it stands on, are in a run folder with the plan's settings."""
    stage = stages[stage_id]
    record, stamp = read_json(folder / stage_id / "stage.json"), read_json(folder / stage_id / STAMP)
    if not record or (record.get("inputs") or {}) != stage.inputs:
        return False
    if _settings(stamp) != _settings(fingerprint(stage, {}, {})):
        return False
    return all(_made_like(stages, other, folder) for other in stage.inputs.values())


def _settings(stamp: Mapping[str, Any]) -> Json:
    """What a fingerprint says of a stage itself: without its data, its inputs and the version of the numerics."""
    return {k: v for k, v in stamp.items() if k != "numerics" and not k.startswith(("input.", "data."))}


def _put(joined: Joined, name: str, column: str, scored: Scored, cell: tuple[str, int], folder: Path) -> None:
    """Adds a cell of a run to those of its row."""
    row, key, place = joined.rows.setdefault(name, Scored()), (column, cell[1]), folder / scored.stages[cell]
    if row.made.setdefault(key, scored.made[cell]) != scored.made[cell]:
        run, stage = joined.places[name, *key]
        raise DataError(
            f"{run / stage} and {place} are both {ROWS[name].label} of {column}, seed "
            f"{key[1]}, but were made with other data or settings; give one of the runs"
        )
    joined.places.setdefault((name, *key), (folder, scored.stages[cell]))
    row.values.setdefault(key, scored.values[cell])
    other, test = joined.first.setdefault(column, (place, scored.tests[cell]))
    if test != scored.tests[cell]:
        raise DataError(
            f"{other} and {place} were scored on different test files of {column}; "
            "run them again with one file, which trains nothing"
        )


def decisions(joined: Joined) -> dict[tuple[str, int, int], Json]:
    """(column, round, seed) -> the decisions of the hard stages that the method's scores stand on: Figure 2."""
    read: dict[tuple[str, int, int], Json] = {}
    for row in ("auto", "ours"):
        for (name, column, seed), (run, reported) in joined.places.items():
            for stage in lineage(run, reported) if name == row else ():
                if decision := read_decision(run / stage, column.split()[0]):
                    read[column, int(decision["round"]), seed] = decision
    columns = COLUMNS[joined.kind]
    return dict(sorted(read.items(), key=lambda item: (columns.index(item[0][0]), *item[0][1:])))
