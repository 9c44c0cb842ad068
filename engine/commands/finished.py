"""`report`, `thresholds`, `why` and `verify` look into a finished run; `ablate` and `tables` compare several."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from .console import StopRequest, make_progress, pass_stop, say_result, show, write
from .options import JOBS, JSON, OVERRIDES, PATH, QUIET, RECIPE, REUSE, RUN, SEEDS


@click.command()
@RUN
@click.argument("other", metavar="[RUN_B]", type=PATH, required=False)
@click.option("--csv", "csv_folder", metavar="DIR", type=PATH, help="Scores, losses and thresholds, as tables.")
@click.option("--tensorboard", "event_folder", metavar="DIR", type=PATH, help="The same for TensorBoard, by stage.")
@click.option("--no-sentences", is_flag=True, help="A page that quotes nothing of the data.")
@JSON
def report(
    run_folder: Path,
    other: Path | None,
    csv_folder: Path | None,
    event_folder: Path | None,
    no_sentences: bool,
    as_json: bool,
) -> None:
    """Write report.html, figures and summary.json of a run again; of two runs, print how RUN_B differs from RUN."""
    from .. import write_report, write_summary
    from ..lab.studies.sentences import write_for_page
    from ..report.parts import load_run
    from ..report.tracking.compare import compare_runs, render_comparison
    from ..report.tracking.export import write_csv, write_events

    if other is not None:
        if csv_folder or event_folder:
            raise click.UsageError("--csv and --tensorboard are of one run; leave out the second")
        comparison = compare_runs(run_folder, other)
        show(as_json, comparison.as_dict(), render_comparison(comparison))
        return
    summary = write_summary(run_folder)
    write_for_page(run_folder, quoting=not no_sentences)
    page = write_report(run_folder)
    if csv_folder is not None:
        write_csv(load_run(run_folder), csv_folder)
    if event_folder is not None:
        write_events(load_run(run_folder), event_folder)
    if as_json:
        show(as_json, summary, "")
    else:
        say_result(summary, page)


@click.command()
@RUN
@click.option("--rule", "rules", multiple=True, help="Rules to compare; repeatable.  [default: one of each kind]")
@click.option("--draws", type=click.IntRange(2), default=200, show_default=True, help="Of the bootstrap.")
@JSON
def thresholds(run_folder: Path, rules: tuple[str, ...], draws: int, as_json: bool) -> None:
    """What every rule for alpha would have chosen in RUN, how far that is luck, and what it costs."""
    from ..lab.studies.thresholds import COMPARED, render_studies, study_thresholds

    studies = study_thresholds(run_folder, rules=rules or COMPARED, draws=draws)
    show(as_json, [asdict(study) for study in studies], render_studies(run_folder.name, studies))


@click.command()
@RUN
@click.argument("item", metavar="ID")
@click.option("--seed", type=int, help="Whose stages tell the story.  [default: the run's first]")
@click.option("--target", help="For source examples: whose models tell it.  [default: the first target]")
@JSON
def why(run_folder: Path, item: str, seed: int | None, target: str | None, as_json: bool) -> None:
    """The whole story of one example of RUN: what each voter said, accepted or not, removed or not, and why.

    ID is LANGUAGE:NUMBER, counted from 0, or FILE:LINE, such as de:12 or train.txt:345.
    """
    from ..lab.studies.example_story import example_story, render_story

    story = example_story(run_folder, item, seed=seed, target=target)
    show(as_json, asdict(story), render_story(story))


@click.command()
@RUN
@JSON
def verify(run_folder: Path, as_json: bool) -> None:
    """Compare every file of RUN with the hash of when it was written, and say what the next run would make anew."""
    from .. import verify_run

    found = verify_run(run_folder)
    show(as_json, found.as_dict(), found.render())
    if found.exit_code:
        raise SystemExit(found.exit_code)


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
