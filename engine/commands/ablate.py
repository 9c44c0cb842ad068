"""`ablate` and `tables`: a recipe without each part of the method, and the paper's tables from finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from .console import StopRequest, make_progress, pass_stop, show, write
from .options import JOBS, JSON, OVERRIDES, PATH, QUIET, RECIPE, REUSE, SEEDS


@click.command()
@RECIPE
@click.option("--rows", multiple=True, metavar="NAME,...", help="Rows and groups, or all.  [default: main]")
@SEEDS
@click.option("--run-dir", type=PATH, help="Folder.  [default: runs/NAME-ablation]")
@OVERRIDES
@REUSE
@JOBS
@click.option("--dry-run", is_flag=True, help="Print what would be made, what is shared, and the time.")
@click.option("--list", "list_rows", is_flag=True, help="Print groups and rows with their meaning.")
@QUIET
@JSON
@pass_stop
def ablate(
    stop: StopRequest,
    /,
    recipe: str | None,
    rows: tuple[str, ...],
    dry_run: bool,
    list_rows: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a RECIPE as it is and without each part of the method, and compare the results.

    Rows share what they have in common. Killed or stopped, the same command goes on.
    """
    from ..lab.ablation.ablate import ablate as make_rows
    from ..lab.ablation.rows import describe_rows, forecast, render_forecast

    if list_rows:
        write(describe_rows())
        return
    options["rows"] = [name for listed in rows for name in listed.split(",") if name]
    if dry_run:
        expected = forecast(recipe, **options)
        show(as_json, expected, render_forecast(expected))
        return
    stop.begin()
    result = make_rows(recipe, **options, progress=make_progress(quiet), should_stop=stop.should_stop)
    show(as_json, result.values, f"{result.text}\nreport: {result.report}")
    if result.failed:
        name, error = next(iter(result.failed.items()))
        raise type(error)(f"{len(result.failed)} of the rows failed; the first, {name}: {error}")


@click.command()
@click.argument("kind", type=click.Choice(["cls", "conll"]))
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=PATH, help="Folder for tables.md, tables.json and Figure 2.")
@JSON
def tables(kind: Literal["cls", "conll"], runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Join finished RUNS into Tables 3 to 9 and Figure 2 of arXiv 2310.04726, beside the paper's cells.

    RUNS are folders of `run` and `ablate`, or folders that hold them. What no run has is named with the command
    that makes it.
    """
    from ..lab.paper.tables import paper_tables, render_tables

    values = paper_tables(kind, runs, out)
    show(as_json, values, render_tables(values))
