"""`run`: make the result of a recipe exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .console import StopRequest, json_of_runs, make_progress, pass_stop, say
from .options import DEVICES, JSON, OVERRIDES, PATH, QUIET, RECIPE, REUSE, TARGETS, parse_seeds

_STAGE_TABLES = ("pretrain", "btf", "finetune", "selftrain.soft", "selftrain.hard")


@click.command()
@RECIPE
@click.option(
    "--stage",
    type=click.Choice(["pretrain", "btf", "finetune", "selftrain", "cotrain", "contrastive", "evaluate", "all"]),
    default="all",
    show_default=True,
    help="Make this stage's result exist, with all it needs.",
)
@TARGETS
@click.option("--run-dir", type=PATH, help="Folder of the run, or runs.  [default: runs/NAME]")
@OVERRIDES
@click.option("--seed", type=int, help="One seed instead of the recipe's.")
@click.option("--seeds", metavar="0,1,2", help="Several seeds instead of the recipe's.")
@click.option("--device", type=DEVICES)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]))
@click.option("--micro-batch", metavar="N|auto", help="Sequences in one forward pass; auto halves what does not fit.")
@click.option("--deterministic", flag_value="true", help="The same bits in every run, on a GPU too, or an error.")
@click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="auto skips what is done and goes on where a run was cut off; never makes the stages anew.",
)
@REUSE
@click.option("--dry-run", is_flag=True, help="Print stages, steps, parameters, memory and time; train nothing.")
@QUIET
@JSON
@pass_stop
def run(
    stop: StopRequest,
    /,
    recipe: str | None,
    stage: str,
    targets: tuple[str, ...],
    run_dir: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    seeds: str | None,
    resume: str,
    reuse: tuple[Path, ...],
    dry_run: bool,
    quiet: bool,
    as_json: bool,
    **settings: str | None,
) -> None:
    """Run a RECIPE: a file, the name of a packaged recipe, or nothing (xlt.toml here, else the demo).

    What exists and is unchanged is skipped; what was cut off goes on where it was, to the same result. A recipe with
    a table [each] makes several runs, one after the other.
    """
    chosen = _chosen_seeds(seeds, seed)
    values = _all_overrides(overrides, **settings)
    if dry_run:
        from .. import estimate_all, render_estimates

        plans = estimate_all(recipe, overrides=values, stage=stage, targets=targets, seeds=chosen)
        say(json_of_runs({name: p.as_dict() for name, p in plans.items()}) if as_json else render_estimates(plans))
        return
    stop.begin()
    from .. import each_run, stage_table
    from .. import run as run_recipe
    from ..lab.studies.run_files import write_thresholds

    summaries: dict[str, Any] = {}
    for name, place in each_run(recipe, run_dir=run_dir, overrides=values):
        result = run_recipe(
            recipe,
            **place,
            stage=stage,
            targets=targets,
            seeds=chosen,
            resume=resume == "auto",
            progress=make_progress(quiet),
            should_stop=stop.should_stop,
            reuse=reuse,
            before_report=write_thresholds,
        )
        summaries[name] = result.summary
        if as_json:
            continue
        if not result.done:
            say(f"all {len(result.skipped)} stages are up to date")
        say(stage_table(result.summary))
        say(f"\nreport: {result.report}")
    if as_json:
        say(json_of_runs(summaries))


def _chosen_seeds(seeds: str | None, seed: int | None) -> tuple[int, ...] | None:
    if seeds is not None and seed is not None:
        raise click.UsageError("give --seed or --seeds, not both")
    return parse_seeds(seeds) if seed is None else (seed,)


def _all_overrides(overrides: Sequence[str], micro_batch: str | None, **named: str | None) -> list[str]:
    """`--set`, and what other options stand for, as `--set` takes it."""
    if micro_batch is not None:
        if micro_batch != "auto" and not micro_batch.isdecimal():
            raise click.UsageError(f"--micro-batch {micro_batch}: give a number of sequences, or auto")
        named |= {f"{stage}.micro_batch": micro_batch for stage in _STAGE_TABLES}
    return [*overrides, *(f"{key}={value}" for key, value in named.items() if value is not None)]
