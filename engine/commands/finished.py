"""The commands that look into a finished run: `report`, `thresholds`, `why` and `verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .console import say_result, show
from .options import JSON, PATH, RUN


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
    for folder, write in ((csv_folder, write_csv), (event_folder, write_events)):
        if folder is not None:
            write(load_run(run_folder), folder)
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
