"""The terminal and the signals as the commands see them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...untrusted import printable

if TYPE_CHECKING:
    from ..training.progress import Progress

FIRST = os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
"""Whether this process speaks for all that torchrun started."""


def write(text: object = "", err: bool = False) -> None:
    """A line on the terminal, without what would command it: all that the commands print goes through here."""
    try:
        click.echo(printable(str(text)), err=err)
    except OSError:
        if not err:  # where stderr is gone, as with its terminal, the code has to do
            raise


LOST: list[OSError] = []
"""Why results could not be printed, for the exit code."""


def say(text: object = "") -> None:
    """A result on stdout, from the process that speaks; one that cannot be written ends no work."""
    try:
        if FIRST:
            write(text)
    except OSError as error:
        LOST.append(error)


@dataclass
class StopRequest:
    """The signal that has asked a command to stop, or 0.

    `polled`: the command looks for itself and ends cleanly; one that does not is ended by the signal at once.
    """

    signal: int = 0
    polled: bool = False

    def begin(self) -> None:
        """The command looks for signals from now on."""
        self.polled = True

    def should_stop(self) -> int:
        """Number of the signal that has arrived, or 0."""
        return self.signal


pass_stop = click.make_pass_decorator(StopRequest)


def make_progress(quiet: bool, name: str | None = None) -> Progress:
    """Progress on the console, none, or what `module:Class` hears, in the process that speaks for all."""
    from ..training.progress import ConsoleProgress, Progress, load_progress

    if name is not None:
        return load_progress(name) if FIRST else Progress()
    return Progress() if quiet else ConsoleProgress()


def show(as_json: bool, values: Any, text: str) -> None:
    """A result, as JSON or as text."""
    say(json.dumps(values, indent=2, ensure_ascii=False) if as_json else text)


def say_result(summary: dict[str, Any], page: Path) -> None:
    """The table of a run, what failed, its report, and last the model to take for each target."""
    from .. import answers, stage_table
    from ..summary.answer import command

    say(stage_table(summary))
    for failure in summary["failed"]:
        left = f"; left out: {', '.join(failure['left_out'])}" if failure["left_out"] else ""
        say(f"failed: {failure['folder']}{left}")
    say(f"\nreport: {page}")
    for language, answer in answers(page.parent).items():
        say(f"\nmodel for {language}: {answer.folder}\n  {answer.reason}")
        say(f"  {command(page.parent, language, answer)}")


def of_runs(values: dict[str, Any]) -> Any:
    """The values of the one run that a recipe stands for, or of several by their names."""
    return values.get("", values)
