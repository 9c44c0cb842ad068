"""`run`: make the result of a recipe exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as given
from .console import StopRequest, make_progress, pass_stop, say, say_result, show

_SETTINGS = ("preset", "device", "precision", "deterministic", "training.micro_batch")
"""Keys of a recipe that have options of their own."""
_STAGES = click.Choice(["pretrain", "btf", "finetune", "selftrain", "cotrain", "contrastive", "evaluate", "all"])


@click.command()
@given.RECIPE
@click.option(
    "--stage", type=_STAGES, default="all", show_default=True, help="Make this stage's result exist, with all it needs."
)
@given.TARGETS
@click.option("--run-dir", type=given.PATH, help="Folder of the run, or runs.  [default: runs/NAME]")
@given.OVERRIDES
@given.PRESET
@given.SEEDS
@click.option("--device", type=given.DEVICES)
@click.option("--precision", type=given.PRECISIONS)
@click.option("--micro-batch", metavar="N|auto", help="Sequences in one forward pass; auto halves what does not fit.")
@click.option("--deterministic", flag_value="true", help="The same bits in every run, on a GPU too, or an error.")
@click.option(
    "--resume",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="auto skips what is done and goes on where a run was cut off; never makes the stages anew.",
)
@given.JOBS
@given.REUSE
@given.DOWNLOAD
@click.option("--dry-run", is_flag=True, help="Print stages, steps, parameters, memory and time; train nothing.")
@given.PROGRESS
@given.QUIET
@given.JSON
@pass_stop
def run(
    stop: StopRequest,
    /,
    recipe: str | None,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    resume: str,
    jobs: int | None,
    reuse: tuple[Path, ...],
    download: bool,
    dry_run: bool,
    listener: str | None,
    quiet: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Run a RECIPE: a file, the name of a packaged recipe, or nothing (xlt.toml here, else the demo).

    What exists and is unchanged is skipped; what was cut off goes on where it was, to the same result.
    """
    settings = {key: chosen.pop(key.rpartition(".")[2]) for key in _SETTINGS}
    values = [*overrides, *(f"{key}={value}" for key, value in settings.items() if value is not None)]
    if download:
        from ..recipe.hub import fetch_model
        from ..recipe.load import model_names

        for name in model_names(recipe, values):
            fetch_model(name)
    if dry_run:
        from .. import estimate

        plan = estimate(recipe, overrides=values, **chosen)
        show(as_json, plan.as_dict(), plan.render())
        return
    stop.begin()
    from .. import StagesFailedError
    from .. import run as run_recipe
    from ..lab.studies.sentences import write_for_page

    failure = None
    try:
        result = run_recipe(
            recipe,
            run_dir=run_dir,
            overrides=values,
            **chosen,
            resume=resume == "auto",
            jobs=jobs,
            progress=make_progress(quiet, listener),
            should_stop=stop.should_stop,
            reuse=reuse,
            before_report=write_for_page,
        )
    except StagesFailedError as error:
        failure, result = error, error.result
    if as_json:
        show(as_json, result.summary, "")
    else:
        if not result.done and not result.summary["failed"]:
            say(f"all {len(result.skipped)} stages are up to date")
        say_result(result.summary, result.report)
    if failure is not None:
        raise failure
