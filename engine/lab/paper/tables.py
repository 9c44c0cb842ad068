"""`tables`: the paper's tables with the cells of finished runs beside those that it prints (docs/laboratory.md)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...report import svg
from ...report.parts import columns_for, threshold_picture
from ...report.seeds import Stat, Step, stat
from ...report.stage_table import METRIC_NAMES, Cells, per_seed, step_between
from ...storage.files import atomic_write_json, atomic_write_text, plain, storage_errors
from ..ablation.rows import ROWS
from .cells import Joined, decisions, join, made_by_run
from .values import (
    AVERAGE,
    COLUMNS,
    DOMAINS,
    OTHERS,
    PRINTED,
    RECIPES,
    TABLES,
    Kind,
    PaperTable,
    notes,
    paper_average,
)

Json = dict[str, Any]
SCHEMA_VERSION = 1
_CURVES = ("kept", "accuracy", "coverage", "recall")


def paper_tables(kind: Kind, runs: Sequence[str | Path], out: str | Path | None = None) -> Json:
    """The paper's tables, with the scores of finished runs.

    Args:
        runs: folders of `run` and `ablate`, or folders that hold them.
        out: a folder for tables.md, tables.json, tables.csv, figure-2.csv and figure-2.svg; none of them if absent.

    Returns:
        The content of tables.json.

    Raises:
        DataError: see `paper_cells.join`.
    """
    found = join(kind, runs)
    made = made_by_run(kind)
    tables = [_table(found, table, made) for table in TABLES[kind]]
    shown = [row["name"] for table in tables for row in table["rows"]]
    read = decisions(found)
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
            "runs": found.runs,
            "skipped": sorted(found.skipped),
            "paper_notes": notes(RECIPES[kind], shown),
        }
    )
    if out is not None:
        home = Path(out)
        with storage_errors(home, "create"):
            home.mkdir(parents=True, exist_ok=True)
        atomic_write_json(home / "tables.json", values, indent=1)
        atomic_write_text(home / "tables.md", render_tables(values))
        atomic_write_text(home / "tables.csv", csv_text(values))
        atomic_write_text(home / "figure-2.csv", curves_csv(read))
        if picture := curves_picture(kind, read):
            atomic_write_text(home / "figure-2.svg", svg.standalone(picture))
    return values


def _table(found: Joined, table: PaperTable, made: set[str]) -> Json:
    kind, columns, reference = found.kind, COLUMNS[found.kind], table.reference
    printed = PRINTED[RECIPES[kind]]
    rows = []
    for name in table.rows:
        theirs, base, cells = printed[name], printed[reference], found.values(name)
        here: Json = {}
        for column in (*columns, AVERAGE):
            one = cells if column == AVERAGE else {k: v for k, v in cells.items() if k[0] == column}
            seeds = per_seed(cells, columns) if column == AVERAGE else {k[1]: v for k, v in sorted(one.items())}
            step = None if name == reference else step_between(one, found.values(reference), reference)
            here[column] = {
                "stat": _stat(stat(seeds.values())),
                "seeds": {str(seed): value for seed, value in seeds.items()},
                "difference": None if step is None else {**(_stat(step.stat) or {}), "up": step.up},
            }
        averages = paper_average(theirs), paper_average(base)
        paper = {c: {"value": theirs.cells[c], "difference": theirs.cells[c] - base.cells[c]} for c in columns}
        paper[AVERAGE] = {"value": averages[0], "difference": averages[0] - averages[1]}
        rows.append(
            {
                "name": name,
                "label": ROWS[name].label if name in ROWS else OTHERS[name].label,
                "uses_parallel_data": name in OTHERS and OTHERS[name].parallel,
                "paper": paper,
                "here": here if name in ROWS else None,
                "runs": sorted({str(cell.run) for cell in found.rows.get(name, {}).values()}),
                "command": _command(kind, name, cells, made) if name in ROWS else None,
            }
        )
    return {"number": table.number, "title": table.title, "reference": reference, "rows": rows}


def _stat(found: Stat | None) -> Json | None:
    return None if found is None else {"mean": found.mean, "std": found.std, "n": found.n}


def _command(kind: Kind, name: str, cells: Cells, made: set[str]) -> str | None:
    """What makes the cells that a row lacks; None where it lacks none."""
    have = {column for column, _ in cells}
    lacking = [column for column in COLUMNS[kind] if column not in have]
    if not lacking and per_seed(cells, COLUMNS[kind]):
        return None
    recipe = RECIPES[kind]
    command = f"xlt-engine run {recipe}" if name in made else f"xlt-engine ablate {recipe} --rows {name}"
    domains = [d for d in DOMAINS if any(column.endswith(f" {d}") for column in lacking)]
    if 0 < len(domains) < len(DOMAINS):
        command += f""" --set 'each.domain=[{", ".join(f'"{d}"' for d in domains)}]'"""
    return command


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
    lines = [["row", "", *columns, f"minus {reference}", "up", "seeds"]]
    lines.append(["---", "---", *("---:" for _ in lines[0][2:])])
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
            marks.append(f"* [{len(marks) + 1}] {row['label']}: `{row['command']}`")
            mark = f"[{len(marks)}]"
        here, step = row["here"], row["here"][AVERAGE]["difference"]
        shown = [_text(here[c]["stat"]) or mark for c in columns]
        seeds = sorted({int(seed) for c in values["columns"] for seed in here[c]["seeds"]})
        last = ["", ""] if step is None else [_step(step), f"{step['up']}/{step['n']}"]
        lines.append(["", "here", *shown, *last, ", ".join(map(str, seeds))])
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return [*text, *(["", "No run that was given has these cells; what makes them:", "", *marks] if marks else [])]


def _text(found: Json | None) -> str:
    return "" if found is None else str(Stat(found["mean"], found["std"], found["n"]))


def _step(found: Json) -> str:
    return str(Step(Stat(found["mean"], found["std"], found["n"]), found["up"], ""))


def _figure_text(values: Json) -> str:
    found = values["figure_2"]
    if not found:
        command = f"xlt-engine run {RECIPES[values['kind']]}"
        return f"No run that was given has the curves of the method's hard stages; `{command}` makes them."
    alphas = (f"{f['column']}, round {f['round']}, seed {f['seed']}: alpha {f['alpha']}" for f in found)
    return f"`--out FOLDER` writes the curves as figure-2.csv and figure-2.svg. {'; '.join(alphas)}."


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
    for run, own in zip(values["runs"], every, strict=True):
        if more := own - common:
            yield f"Settings of `{run['folder']}` that are not the recipe's: {'; '.join(sorted(more))}."
    yield from values["paper_notes"].values()


_CSV = ("table", "row", "label", "column", "paper", "paper_difference", "mean", "std", "n", "seeds", "reference")
_CSV_STEP = ("difference", "difference_std", "pairs", "up", "command")


def csv_text(values: Json) -> str:
    """One line per table, row and column, and one for the average; numbers unrounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, (*_CSV, *_CSV_STEP), lineterminator="\n")
    writer.writeheader()
    for table in values["tables"]:
        for row in table["rows"]:
            for column in (*values["columns"], AVERAGE):
                here = (row["here"] or {}).get(column) or {"stat": None, "seeds": {}, "difference": None}
                found, step = here["stat"] or {}, here["difference"] or {}
                writer.writerow(
                    {"table": table["number"], "row": row["name"], "label": row["label"], "column": column}
                    | {"paper": row["paper"][column]["value"], "paper_difference": row["paper"][column]["difference"]}
                    | {"seeds": " ".join(here["seeds"]), "reference": table["reference"]}
                    | {name: found.get(name) for name in ("mean", "std", "n")}
                    | {"difference": step.get("mean"), "difference_std": step.get("std"), "pairs": step.get("n")}
                    | {"up": step.get("up"), "command": None if found else row["command"]}
                )
    return out.getvalue()


def curves_csv(read: dict[tuple[str, int, int], Json]) -> str:
    """The threshold curves of decisions, a line per threshold, unrounded; alpha is that of the decision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("column", "round", "seed", "alpha", "side", "threshold", *_CURVES))
    for key, decision in read.items():
        for side, name in (("source", "curve"), ("target", "target_curve")):
            curve = decision.get(name) or {"thresholds": []}
            for i, threshold in enumerate(curve["thresholds"]):
                writer.writerow((*key, decision.get("alpha"), side, threshold, *(curve[n][i] for n in _CURVES)))
    return out.getvalue()


def curves_picture(kind: Kind, read: dict[tuple[str, int, int], Json]) -> str | None:
    """Figure 2 as an SVG: a panel for each column and round, lines are means over seeds; None without a decision."""
    seeds = sorted({seed for _, _, seed in read})
    panels = dict.fromkeys((column, number) for column, number, _ in read)
    cells = [(f"{c}, round {r}", [(s, d) for (*key, s), d in read.items() if tuple(key) == (c, r)]) for c, r in panels]
    columns, width = columns_for(len(panels))
    return threshold_picture(cells, seeds, columns, width)
