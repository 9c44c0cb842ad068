"""`tables`: the paper's tables with the cells of finished runs beside those that it prints (docs/laboratory.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...report import svg
from ...report.parts import columns_for, threshold_picture
from ...report.tracking.compare import (
    AVERAGE,
    Scored,
    Table,
    compare,
    stat_text,
    stat_values,
    step_text,
    step_values,
)
from ...storage.files import atomic_write_json, atomic_write_text, plain, storage_errors
from ...summary.stage_table import METRIC_NAMES, Cells, Json, per_seed
from ..ablation.rows import OURS, ROWS
from . import printed
from .printed import COLUMNS, RECIPES, Kind, PaperTable
from .run_cells import Joined, decisions, join

SCHEMA_VERSION = 1


def paper_tables(kind: Kind, runs: Sequence[str | Path], out: str | Path | None = None) -> Json:
    """The paper's tables, with the scores of finished runs.

    Args:
        runs: folders of `run` and `ablate`, or folders that hold them.
        out: a folder for tables.md, tables.json and, where a run has decisions, figure-2.svg.

    Returns:
        The content of tables.json.

    Raises:
        DataError: see `run_cells.join`.
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
                "label": ROWS[name].label if name in ROWS else printed.OTHERS[name].label,
                "uses_parallel_data": name in printed.OTHERS and printed.OTHERS[name].parallel,
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
    if 0 < len(domains) < len(printed.DOMAINS):
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
    return threshold_picture(list(panels.items()), sorted({seed for *_, seed in read}), *columns_for(len(panels)))
