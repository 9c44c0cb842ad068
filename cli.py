"""The command line: the table of commands, signals and exit codes. Nothing here loads torch before a command runs."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from xlt_engine import PeerLostError, XltError, __version__
from xlt_engine.engine.commands.console import FIRST, StopRequest

COMMANDS = {
    "run": ("run", "Run a RECIPE: a file, the name of a packaged recipe, or nothing (xlt.toml here, else the demo)."),
    "init": ("init", "Look at your files and write a commented recipe for them."),
    "check": ("check", "Find every error in a recipe and its data, before any training."),
    "predict": (
        "predict",
        "Label FILE (or standard input) with MODEL, a folder; a line or sentence at a time, with confidences.",
    ),
    "evaluate": (
        "evaluate",
        "Score MODEL on labelled files: metrics per language, and the transfer gap to the first one.",
    ),
    "report": ("finished", "Write report.html, figures and summary.json of a run again."),
    "info": ("describe", "Say what a model folder is."),
    "env": ("describe", "Versions, devices and the kernels' path: what a bug report needs."),
    "bench": ("bench", "Measure speed on this machine."),
    "corpus": (
        "corpus",
        "Task text from raw text: target sentences that contain an entity of the source training set.",
    ),
    "ablate": ("ablate", "Run a RECIPE as it is and without each part of the method, and compare the results."),
    "tables": (
        "ablate",
        "Join finished RUNS into Tables 3 to 9 and Figure 2 of arXiv 2310.04726, beside the paper's cells.",
    ),
    "probe": (
        "probe",
        "How well two languages are aligned in the states of MODEL, by PAIRS: text, tab, translation on each line.",
    ),
    "rank-sources": (
        "probe",
        "Order candidate source languages for TARGET, unlabelled text, by overlap and by what models say about it.",
    ),
    "extend-vocabulary": (
        "vocabulary",
        "Give the encoder MODEL pieces for the words of another language; old ids and their weights stay.",
    ),
    "export": ("vocabulary", "Write the task model of STAGE, a folder of a run, to OUT in another form."),
    "thresholds": (
        "finished",
        "What every rule for alpha would have chosen in RUN, how far that is luck, and what it costs.",
    ),
    "why": (
        "finished",
        "The whole story of one example of RUN: what each voter said, accepted or not, removed or not, and why.",
    ),
    "trust": (
        "finished",
        "Estimate the target scores of RUN without target labels, with intervals that say how far to believe it.",
    ),
}
"""Name -> module of `engine/commands/`, whose function has the command's name, and the first sentence of its help."""
_STOP = StopRequest()


class _Commands(click.Group):
    """A group that imports a command when it is asked for, and lists all without importing any."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"xlt_engine.engine.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - 6 - max(map(len, COMMANDS))
        rows = [(name, self.commands[name].get_short_help_str(width)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=_Commands,
    commands={name: click.Command(name, help=text) for name, (_, text) in COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="xlt-engine")
def main_group() -> None:
    """Zero-shot cross-lingual transfer without parallel corpora (arXiv 2310.04726)."""


def _on_signal(number: int, frame: object) -> None:
    """The first signal asks a run for a clean stop, the second one ends the process; other commands end at once.

    torchrun hands signals on that its processes may have had already, and kills by itself what does not end.
    """
    if not _STOP.polled:
        raise SystemExit(128 + number)
    if _STOP.signal and "TORCHELASTIC_RUN_ID" not in os.environ:
        os._exit(128 + number)
    _STOP.signal = number


def _fail(error: XltError) -> int:
    if FIRST or not error.told:
        click.echo(f"{'' if FIRST else 'process ' + os.environ['RANK'] + ': '}error: {error}", err=True)
    if isinstance(error, PeerLostError):
        os._exit(error.exit_code)  # what waits on a GPU for the lost process would keep this one from ending
    return error.exit_code


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; ends the process with the codes of docs/errors.md."""
    _STOP.signal, _STOP.polled = 0, False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    code, stdout = 0, sys.stdout
    try:
        words = None if arguments is None else list(arguments)
        code = main_group.main(words, prog_name="xlt-engine", standalone_mode=False, obj=_STOP) or 0
    except XltError as error:
        code = _fail(error)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "xlt-engine"
        click.echo(f"error: {error.format_message().rstrip('.')}; see {command} --help", err=True)
        code = 2
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except SystemExit as error:
        # On a closed pipe click wraps the stream and exits with 1; who closes it, as `head` does, has all they want.
        closed = sys.stdout is not stdout
        code = 0 if closed else error.code if isinstance(error.code, int) else 1
    except Exception:  # a bug: the only place that may catch everything, to say so and to return the code for it
        traceback.print_exc()
        click.echo("error: this is a bug in xlt-engine; please report it with the lines above", err=True)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
