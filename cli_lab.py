"""The laboratory's commands of the command line: their options, and what they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from xlt_engine.engine import Progress

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_QUIET = click.option("--quiet", is_flag=True, help="No progress.")


def add_lab(
    group: click.Group,
    progress: Callable[[bool], Progress],
    should_stop: Callable[[], int],
    begin: Callable[[], None],
    parse_seeds: Callable[[str | None, int | None], tuple[int, ...] | None],
) -> None:
    """Give a group of commands those of the laboratory; `begin` is called before work that can be stopped begins."""

    @group.command()
    @click.argument("recipe", required=False)
    @click.option("--rows", multiple=True, metavar="NAME,...", help="Rows and groups, or all.  [default: main]")
    @click.option("--seeds", metavar="0,1,2", help="Instead of the recipe's.")
    @click.option("--run-dir", type=click.Path(path_type=Path), help="Folder.  [default: runs/NAME-ablation]")
    @click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override for all rows; repeatable.")
    @click.option(
        "--reuse", type=click.Path(path_type=Path), multiple=True, help="Take finished stages of this run; repeatable."
    )
    @click.option("--jobs", type=click.IntRange(1), help="Processes.  [default: cores / threads of the recipe; GPU: 1]")
    @click.option("--samples", type=click.IntRange(1), default=1000, show_default=True, help="Draws of the bootstrap.")
    @click.option("--dry-run", is_flag=True, help="Print what would be made, what is shared, and the time.")
    @click.option("--list", "list_rows", is_flag=True, help="Print groups and rows with their meaning.")
    @_QUIET
    @_JSON
    def ablate(
        recipe: str | None,
        rows: tuple[str, ...],
        seeds: str | None,
        run_dir: Path | None,
        overrides: tuple[str, ...],
        reuse: tuple[Path, ...],
        jobs: int | None,
        samples: int,
        dry_run: bool,
        list_rows: bool,
        quiet: bool,
        as_json: bool,
    ) -> None:
        """Run a RECIPE as it is and without each part of the method, and compare the results.

        Rows share what they have in common. Killed or stopped, the same command goes on.
        """
        from xlt_engine.engine.lab import ablate as run_rows
        from xlt_engine.engine.lab import describe_rows, plan_ablation

        if list_rows:
            click.echo(describe_rows())
            return
        names = [name for given in rows for name in given.split(",") if name]
        chosen = parse_seeds(seeds, None)
        if dry_run:
            plan = plan_ablation(
                recipe, rows=names, seeds=chosen, run_dir=run_dir, overrides=overrides, reuse=reuse, jobs=jobs
            )
            click.echo(json.dumps(plan.as_dict(), indent=2) if as_json else plan.render())
            return
        begin()
        result = run_rows(
            recipe,
            rows=names,
            seeds=chosen,
            run_dir=run_dir,
            overrides=overrides,
            reuse=reuse,
            jobs=jobs,
            samples=samples,
            progress=progress(quiet),
            should_stop=should_stop,
        )
        click.echo(json.dumps(result.values, indent=2) if as_json else f"{result.text}\nreport: {result.report}")
        if result.failed:
            name, error = next(iter(result.failed.items()))
            raise type(error)(f"{len(result.failed)} of the rows failed; the first, {name}: {error}")
