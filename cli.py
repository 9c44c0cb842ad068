"""The command line: the table of commands, signals and exit codes. Nothing here loads torch before a command runs."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from xlt_engine import ConfigError, PeerLostError, StorageError, XltError, __version__
from xlt_engine.engine.commands.console import FIRST, LOST, StopRequest, write

_MODULES = {
    "bench": ("bench",),
    "corpus": ("corpus",),
    "export": ("export", "extend-vocabulary"),
    "finished": ("ablate", "report", "tables", "thresholds", "verify", "why"),
    "predict": ("evaluate", "predict"),
    "preflight": ("check", "env", "info", "init", "probe"),
    "run": ("run",),
}
COMMANDS = {command: module for module, commands in _MODULES.items() for command in commands}
"""Name -> module of `engine/commands/`, whose function has the command's name."""
_STOP = StopRequest()


class _Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"xlt_engine.engine.commands.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


def _listen() -> None:
    """From now on a signal asks for a stop; a hang-up that `nohup` has had ignored stays ignored."""
    _STOP.signal, _STOP.polled = 0, False
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _fail(error: XltError) -> int:
    if FIRST or not error.told:
        write(f"{'' if FIRST else 'process ' + os.environ['RANK'] + ': '}error: {error}", err=True)
    if isinstance(error, PeerLostError):
        os._exit(error.exit_code)  # what waits on a GPU for the lost process would keep this one from ending
    return error.exit_code


def _refuse_bytes(words: Sequence[str]) -> None:
    """Raises a ConfigError for an argument, or a current folder, whose name is not UTF-8: records could not hold it."""
    for word in (*words, os.getcwd()):
        try:
            word.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(f"{os.fsencode(word)!r} is not UTF-8; rename the file or folder") from error


def _of_system(error: OSError) -> XltError:
    """What the system refused outside of the run's own files: a name, or the output."""
    if error.filename is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - else the rest is tried again at the end
        return StorageError(f"cannot write the output: {error.strerror}; free some space, or send it elsewhere")
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else str(error.filename)
    if error.errno == errno.ENAMETOOLONG:
        return ConfigError(f"{name[:80]}...: {error.strerror}; choose a shorter path")
    return StorageError(f"{name}: {error.strerror}; check the path and its permissions")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; ends the process with the codes of docs/errors.md."""
    _listen()
    LOST.clear()
    if sys.stdout is None:  # closed: nobody wants to hear
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    code, stdout = 0, sys.stdout
    try:
        words = sys.argv[1:] if arguments is None else list(arguments)
        _refuse_bytes(words)
        code = main_group.main(words, prog_name="xlt-engine", standalone_mode=False, obj=_STOP) or 0
        if LOST:
            raise LOST[0]
        sys.stdout.flush()
    except XltError as error:
        code = _fail(error)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        code = _fail(_of_system(error))
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "xlt-engine"
        write(f"error: {error.format_message().rstrip('.')}; see {command} --help", err=True)
        code = 2
    except click.ClickException as error:
        write(f"error: {error.format_message()}", err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except SystemExit as error:
        # On a closed pipe click wraps the stream and exits with 1; who closes it, as `head` does, has all they want.
        closed = sys.stdout is not stdout
        code = 0 if closed else error.code if isinstance(error.code, int) else 1
    except Exception:  # a bug: the only place that may catch everything, to say so and to return the code for it
        write(traceback.format_exc(), err=True)
        write("error: this is a bug in xlt-engine; please report it with the lines above", err=True)
        code = 1
    sys.exit(code)


if __name__ == "__main__":
    main()
