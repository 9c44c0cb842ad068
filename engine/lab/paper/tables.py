"""`tables`: the paper's tables with the cells of finished runs beside those that it prints (docs/laboratory.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from .... import ConfigError, DataError
from ...plan import Stage, fingerprint
from ...recipe.config import RunConfig
from ...recipe.load import load_recipe
from ...report import svg
from ...report.parts import columns_for, threshold_figure
from ...report.tracking.compare import (
    AVERAGE,
    Scored,
    Table,
    compare,
    flat,
    lineage,
    read_scores,
    stat_text,
    stat_values,
    step_text,
    step_values,
)
from ...runs.graph import make_plan
from ...runs.synthetic_data import settled
from ...storage.files import atomic_write_json, atomic_write_text, plain, read_json, storage_errors
from ...storage.names import STAMP
from ...storage.stage_files import paths_below
from ...summary.stage_folders import read_decision
from ...summary.stage_table import METRIC_NAMES, Cells, Json, per_seed
from ..ablation.rows import OURS, ROWS
from . import printed
from .printed import COLUMNS, RECIPES, TABLES, Kind, PaperTable, domain_of

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
    base = load_recipe(RECIPES[kind]).config
    for run in dict.fromkeys(run.resolve() for folder in folders for run in _runs_in(Path(folder))):
        _add(joined, base, run)
    return joined


def _runs_in(folder: Path) -> list[Path]:
    """The run folders in a folder, itself included.

    Raises:
        DataError: there is none.
    """
    found = (path for depth in range(_DEPTH + 1) for path in sorted(folder.glob("*/" * depth + "run.json")))
    runs = [p.parent for p in found if not any(name.startswith(".") for name in p.relative_to(folder).parts)]
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
            f"{folder}: no domain: its files must have books, dvd or music in their names, as those of cls-paper have"
        )
    names = [n for n in dict.fromkeys(n for table in TABLES[joined.kind] for n in table.rows) if n in ROWS]
    varied = dict.fromkeys(override.partition("=")[0] for name in names for override in ROWS[name].overrides)
    theirs = dict(flat(asdict(base)))
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
        for key, value in flat(asdict(config))
        if key not in varied and key.split(".")[0] not in _BESIDE and value != theirs.get(key)
    ]
    joined.runs.append(
        {"folder": str(folder), "version": (info.get("versions") or {}).get("xlt-engine"), "commit": info.get("git")}
        | {"numerics": numerics, "model": str(config.model.path or "made by the recipe")}
        | {"cells": count, "settings": settings}
    )


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


SCHEMA_VERSION = 1


def paper_tables(kind: Kind, runs: Sequence[str | Path], out: str | Path | None = None) -> Json:
    """The paper's tables, with the scores of finished runs.

    Args:
        runs: folders of `run` and `ablate`, or folders that hold them.
        out: a folder for tables.md, tables.json and, where a run has decisions, figure-2.svg.

    Returns:
        The content of tables.json.

    Raises:
        DataError: see `join`.
    """
    joined = join(kind, runs)
    tables = [_table(joined, table) for table in printed.TABLES[kind]]
    read = decisions(joined)
    values: Json = plain(
        {
            "schema_version": SCHEMA_VERSION,
            "paper": "arXiv 2310.04726",
            "kind": kind,
            "metric": "accuracy" if kind == "cls" else "entity_f1",
            "columns": COLUMNS[kind],
            "tables": tables,
            "figure_2": [
                {"column": c, "round": r, "seed": s, "alpha": d.get("alpha")} for (c, r, s), d in read.items()
            ],
            "runs": joined.runs,
            "skipped": sorted(joined.skipped),
            "paper_notes": printed.notes(RECIPES[kind], [row["name"] for table in tables for row in table["rows"]]),
        }
    )
    if out is not None:
        home = Path(out)
        with storage_errors(home, "create"):
            home.mkdir(parents=True, exist_ok=True)
        atomic_write_json(home / "tables.json", values, indent=1)
        atomic_write_text(home / "tables.md", render_tables(values))
        if picture := curves_picture(read):
            atomic_write_text(home / "figure-2.svg", svg.standalone(picture))
    return values


def _table(joined: Joined, table: PaperTable) -> Json:
    recipe, columns, reference = RECIPES[joined.kind], COLUMNS[joined.kind], table.reference
    base = _paper_values(printed.PRINTED[recipe][reference])
    scored = {name: joined.rows.get(name, Scored()) for name in table.rows}
    compared = compare(scored, reference, columns)
    rows = []
    for name in table.rows:
        cells, theirs = scored[name].values, _paper_values(printed.PRINTED[recipe][name])
        ours = {
            part: {
                "stat": stat_values(compared[name].stats.get(part)),
                "seeds": {str(s): v for s, v in per_seed(cells, columns if part == AVERAGE else [part]).items()},
                "difference": step_values(compared[name].steps.get(part)),
            }
            for part in (*columns, AVERAGE)
        }
        rows.append(
            {
                "name": name,
                "label": ROWS[name].label if name in ROWS else printed.OTHERS[name]["label"],
                "uses_parallel_data": name in printed.OTHERS and printed.OTHERS[name]["parallel"],
                "paper": {c: {"value": v, "difference": v - base[c]} for c, v in theirs.items()},
                "here": ours if name in ROWS else None,
                "runs": sorted({str(run) for (row, *_), (run, _) in joined.places.items() if row == name}),
                "command": _command(joined.kind, name, cells) if name in ROWS else None,
            }
        )
    return {"number": table.number, "title": table.title, "reference": reference, "rows": rows}


def _paper_values(row: printed.Printed) -> dict[str, float]:
    return row.cells | {AVERAGE: printed.paper_average(row)}


def _command(kind: Kind, name: str, cells: Cells) -> str | None:
    """What makes the cells that a row lacks; None where it lacks none."""
    lacking = [column for column in COLUMNS[kind] if column not in {column for column, _ in cells}]
    if not lacking and per_seed(cells, COLUMNS[kind]):
        return None
    recipe = RECIPES[kind]
    command = f"xlt-engine run {recipe}" if name == OURS else f"xlt-engine ablate {recipe} --rows {name}"
    domains = [d for d in printed.DOMAINS if any(column.endswith(f" {d}") for column in lacking)]
    if not domains:
        return command
    where = f"runs/{recipe}" if name == OURS else f"runs/{recipe}-ablation"
    return f"for d in {' '.join(domains)}; do DOMAIN=$d {command} --run-dir {where}/$d; done"


def render_tables(values: Json) -> str:
    """All tables in Markdown, with what is missing and what to know."""
    head = f"# The tables of {values['paper']} ({values['kind']})"
    parts = [head, "", _caption(values), ""]
    for table in values["tables"]:
        parts += [f"## Table {table['number']}. {table['title']}", "", *_markdown(values, table), ""]
    parts += ["## Figure 2. Accuracy and coverage over thresholds", "", _figure_text(values), "", "## Runs", ""]
    for run in values["runs"]:
        numerics = ", ".join(map(str, run["numerics"])) or "-"
        text = f"{run['cells']} cells; version {run['version']}, numerics {numerics}, commit {run['commit']}"
        parts.append(f"* `{run['folder']}`: {text}; encoder {run['model']}")
    remarks = list(_remarks(values))
    return "\n".join([*parts, "", *(f"* {line}" for line in remarks)]).rstrip() + "\n"


def _caption(values: Json) -> str:
    metric = METRIC_NAMES[values["metric"]]
    return (
        f"{metric[0].upper()}{metric[1:]}, points. *paper*: as printed, single runs; averages of Tables 7 to 9, which "
        "print none, are those of the cells. *here*: mean ± sample standard deviation over the seeds named, of each "
        "cell; the average is taken within a seed first, over seeds that have all cells. *minus*: difference to the "
        "table's reference; *here* paired, over all pairs of cell and seed that both rows have; *up*: how many rose."
    )


def _markdown(values: Json, table: Json) -> list[str]:
    columns = [*values["columns"], AVERAGE]
    reference = next(row["label"] for row in table["rows"] if row["name"] == table["reference"])
    lines: list[list[str]] = []
    marks: list[str] = []
    for row in table["rows"]:
        is_reference = row["name"] == table["reference"]
        label = row["label"] + (" [parallel data]" if row["uses_parallel_data"] else "")
        paper = row["paper"]
        minus = "" if is_reference else f"{paper[AVERAGE]['difference']:+.2f}"
        lines.append([label, "paper", *(f"{paper[c]['value']:.2f}" for c in columns), minus, "", ""])
        if row["here"] is None:
            continue
        mark = ""
        if row["command"] is not None:
            mark = f"[{len(marks) + 1}]"
            marks.append(f"* {mark} {row['label']}: `{row['command']}`")
        ours, step = row["here"], row["here"][AVERAGE]["difference"]
        seeds = sorted({int(seed) for c in values["columns"] for seed in ours[c]["seeds"]})
        shown = [stat_text(ours[c]["stat"], mark) for c in columns]
        lines.append(["", "here", *shown, *(step_text(step) if step else ["", ""]), ", ".join(map(str, seeds))])
    text = Table(["row", "", *columns, f"minus {reference}", "up", "seeds"], lines, left=2).markdown()
    return [*text, *(["", "No run that was given has these cells; what makes them:", "", *marks] if marks else [])]


def _figure_text(values: Json) -> str:
    decided = values["figure_2"]
    if not decided:
        command = f"xlt-engine run {RECIPES[values['kind']]}"
        return f"No run that was given has the curves of the method's hard stages; `{command}` makes them."
    alphas = (f"{d['column']}, round {d['round']}, seed {d['seed']}: alpha {d['alpha']}" for d in decided)
    return f"`--out FOLDER` draws the curves as figure-2.svg. {'; '.join(alphas)}."


def _remarks(values: Json) -> Iterator[str]:
    if values["skipped"]:
        yield f"The paper has no {', '.join(values['skipped'])}: left out."
    for run in values["runs"]:
        if not run["cells"]:
            yield f"`{run['folder']}` gives no cell: no finished stage of it is made as a row of these tables is."
    if len({tuple(run["numerics"]) for run in values["runs"] if run["cells"]}) > 1:
        yield "The runs are of different numerics versions: a difference between rows may be one between versions."
    every = [set(run["settings"]) for run in values["runs"]]
    common = set.intersection(*every)
    if common:
        yield f"Settings of all runs that are not the recipe's: {'; '.join(sorted(common))}."
    for run, settings in zip(values["runs"], every, strict=True):
        if more := settings - common:
            yield f"Settings of `{run['folder']}` that are not the recipe's: {'; '.join(sorted(more))}."
    yield from values["paper_notes"].values()


def curves_picture(read: dict[tuple[str, int, int], Json]) -> str | None:
    """Figure 2 as an SVG: a panel for each column and round, lines are means over seeds; None without a decision."""
    panels: dict[str, list[tuple[int, Json]]] = {}
    for (column, number, seed), decision in read.items():
        panels.setdefault(f"{column}, round {number}", []).append((seed, decision))
    seeds, shape = sorted({seed for *_, seed in read}), columns_for(len(panels))
    figure = threshold_figure(list(panels.items()), seeds, *shape, "Threshold curves", "")
    return None if figure is None else figure.svg
