"""The commands of the command line that look into a finished run: `thresholds`, `why` and `trust`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from xlt_engine.engine import Progress

_RUN = click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_QUIET = click.option("--quiet", is_flag=True, help="No progress.")


def add_why(group: click.Group, progress: Callable[[bool], Progress]) -> None:
    """Give a group of commands those that look into a finished run."""
    _add_thresholds(group, progress)
    _add_why(group)
    _add_trust(group, progress)


def _add_thresholds(group: click.Group, progress: Callable[[bool], Progress]) -> None:
    @group.command()
    @_RUN
    @click.option("--rule", "rules", multiple=True, help="Rules to compare; repeatable.  [default: one of each kind]")
    @click.option("--draws", type=click.IntRange(2), default=200, show_default=True, help="Of the bootstrap.")
    @_QUIET
    @_JSON
    def thresholds(run_folder: Path, rules: tuple[str, ...], draws: int, quiet: bool, as_json: bool) -> None:
        """What every rule for alpha would have chosen in RUN, how far that is luck, and what it costs."""
        from xlt_engine.engine.lab.run_thresholds import studies_as_dict, study_thresholds
        from xlt_engine.engine.lab.study_text import render_studies
        from xlt_engine.engine.lab.threshold_study import COMPARED

        studies = study_thresholds(run_folder, rules=rules or COMPARED, draws=draws, progress=progress(quiet))
        shown = json.dumps(studies_as_dict(studies), indent=2) if as_json else render_studies(run_folder.name, studies)
        click.echo(shown)


def _add_why(group: click.Group) -> None:
    @group.command()
    @_RUN
    @click.argument("item", metavar="ID")
    @click.option("--seed", type=int, help="Whose stages tell the story.  [default: the run's first]")
    @click.option("--target", help="For source examples: whose models tell it.  [default: the first target]")
    @_JSON
    def why(run_folder: Path, item: str, seed: int | None, target: str | None, as_json: bool) -> None:
        """The whole story of one example of RUN: what each voter said, accepted or not, removed or not, and why.

        ID is LANGUAGE:NUMBER, counted from 0, or FILE:LINE, such as de:12 or train.txt:345.
        """
        from xlt_engine.engine.lab.item_story import item_story
        from xlt_engine.engine.lab.story_text import render_story

        story = item_story(run_folder, item, seed=seed, target=target)
        click.echo(json.dumps(story.as_dict(), indent=2, ensure_ascii=False) if as_json else render_story(story))


def _add_trust(group: click.Group, progress: Callable[[bool], Progress]) -> None:
    @group.command()
    @_RUN
    @click.option("--sample", type=click.IntRange(10), default=1000, show_default=True, help="Examples of each text.")
    @click.option("--no-truth", is_flag=True, help="Leave the column out that compares with test labels.")
    @_QUIET
    @_JSON
    def trust(run_folder: Path, sample: int, no_truth: bool, quiet: bool, as_json: bool) -> None:
        """Estimate the target scores of RUN without target labels, with intervals that say how far to believe it.

        The estimates are kept in RUN/trust.json, and shown in its report.
        """
        from xlt_engine.engine.lab.study_text import render_trust
        from xlt_engine.engine.lab.trust import trust as estimate
        from xlt_engine.engine.lab.trust import write_trust

        report = estimate(run_folder, sample=sample, truth=not no_truth, progress=progress(quiet))
        write_trust(run_folder, report)
        click.echo(json.dumps(report.as_dict(), indent=2) if as_json else render_trust(report))
