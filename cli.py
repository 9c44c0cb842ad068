"""The command line: parse, call one engine function, print. Nothing here imports torch before a command runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from xlt_engine import PeerLostError, XltError, __version__
from xlt_engine.cli_bench import add_bench
from xlt_engine.cli_corpus import add_corpus
from xlt_engine.cli_lab import add_lab
from xlt_engine.cli_probe import add_probe
from xlt_engine.cli_why import add_why

if TYPE_CHECKING:
    from xlt_engine.engine import Progress

Device = Literal["auto", "cpu", "cuda"]
_TABLES = ("pretrain", "btf", "finetune", "selftrain.soft", "selftrain.hard")
_STOP = {"signal": 0, "polled": 0}
_FIRST = os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
"""Whether this process speaks for all that torchrun started."""
_say: Callable[..., None] = click.echo if _FIRST else lambda *_, **__: None


def _on_signal(number: int, frame: object) -> None:
    """The first signal asks a run for a clean stop, the second one ends the process; other commands end at once.

    torchrun hands signals on that its processes may have had already, and kills by itself what does not end.
    """
    if not _STOP["polled"]:
        raise SystemExit(128 + number)
    if _STOP["signal"] and "TORCHELASTIC_RUN_ID" not in os.environ:
        os._exit(128 + number)
    _STOP["signal"] = number


def should_stop() -> int:
    """Number of the signal that has arrived, or 0."""
    return _STOP["signal"]


def _progress(quiet: bool) -> Progress:
    from xlt_engine.engine import ConsoleProgress, Progress

    return Progress() if quiet else ConsoleProgress()


def _seeds(value: str | None, seed: int | None) -> tuple[int, ...] | None:
    if value is not None and seed is not None:
        raise click.UsageError("give --seed or --seeds, not both")
    if seed is not None:
        return (seed,)
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.UsageError(
            f"--seeds {value}: give whole numbers with commas between them, such as 0,1,2"
        ) from error


def _overrides(given: Sequence[str], micro_batch: str | None, **named: str | None) -> list[str]:
    """What options stand for, as `--set` takes it."""
    if micro_batch is not None:
        if micro_batch != "auto" and not micro_batch.isdecimal():
            raise click.UsageError(f"--micro-batch {micro_batch}: give a number of sequences, or auto")
        named |= {f"{table}.micro_batch": micro_batch for table in _TABLES}
    return [*given, *(f"{key}={value}" for key, value in named.items() if value is not None)]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="xlt-engine")
def main_group() -> None:
    """Zero-shot cross-lingual transfer without parallel corpora (arXiv 2310.04726)."""


_SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe's value; repeatable."
)
_TARGET = click.option(
    "--target", "targets", multiple=True, metavar="CODE", help="Only this target, and what all share; repeatable."
)
_QUIET = click.option("--quiet", is_flag=True, help="No progress.")
_ENCODING = click.option("--encoding", default="utf-8", show_default=True, help="Character encoding of the input.")
_TEXT = click.option("--text-column", default="text", show_default=True, help="Table or JSONL: column of the text.")
_PAIR = click.option("--pair-column", help="Table or JSONL: column of the second text.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@main_group.command()
@click.argument("recipe", required=False)
@click.option(
    "--stage",
    type=click.Choice(["pretrain", "btf", "finetune", "selftrain", "cotrain", "contrastive", "evaluate", "all"]),
    default="all",
    show_default=True,
    help="Make this stage's result exist, with all it needs.",
)
@_TARGET
@click.option("--run-dir", type=click.Path(path_type=Path), help="Folder of the run, or runs.  [default: runs/NAME]")
@_SET
@click.option("--seed", type=int, help="One seed instead of the recipe's.")
@click.option("--seeds", metavar="0,1,2", help="Several seeds instead of the recipe's.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]))
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
@click.option(
    "--reuse", type=click.Path(path_type=Path), multiple=True, help="Take finished stages of this run; repeatable."
)
@click.option("--dry-run", is_flag=True, help="Print stages, steps, parameters, memory and time; train nothing.")
@_QUIET
@_JSON
def run(
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
    chosen = _seeds(seeds, seed)
    values = _overrides(overrides, **settings)
    if dry_run:
        from xlt_engine.engine import estimate_all, render_estimates

        plans = estimate_all(recipe, overrides=values, stage=stage, targets=targets, seeds=chosen)
        _say(_one_or_all({name: p.as_dict() for name, p in plans.items()}) if as_json else render_estimates(plans))
        return
    _STOP["polled"] = 1
    from xlt_engine.engine import run_all, stage_table

    summaries: dict[str, Any] = {}
    for name, result in run_all(
        recipe,
        stage=stage,
        targets=targets,
        run_dir=run_dir,
        overrides=values,
        seeds=chosen,
        resume=resume == "auto",
        progress=_progress(quiet),
        should_stop=should_stop,
        reuse=reuse,
    ):
        summaries[name] = result.summary
        if as_json:
            continue
        if not result.done:
            _say(f"all {len(result.skipped)} stages are up to date")
        _say(stage_table(result.summary))
        _say(f"\nreport: {result.report}")
    if as_json:
        _say(_one_or_all(summaries))


def _one_or_all(found: dict[str, Any]) -> str:
    """JSON of a run, or of several by their names."""
    return json.dumps(found.get("", found), indent=2)


@main_group.command()
@click.option("--source", type=click.Path(path_type=Path), required=True, help="Labelled training file.")
@click.option(
    "--unlabelled", type=click.Path(path_type=Path), multiple=True, required=True, help="Target text; repeatable."
)
@click.option(
    "--test", type=click.Path(path_type=Path), multiple=True, help="Labelled target file to score on; repeatable."
)
@click.option("--source-test", type=click.Path(path_type=Path), help="Labelled source file to score on.")
@click.option("--model", type=click.Path(path_type=Path), help="Hugging Face folder of an encoder; none: one is made.")
@click.option("--language", help="Language of the source.")
@click.option("--target-language", multiple=True, help="Language of each unlabelled file; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("xlt.toml"), show_default=True)
@click.option("--force", is_flag=True, help="Overwrite the recipe if it is there.")
def init(
    source: Path,
    unlabelled: tuple[Path, ...],
    test: tuple[Path, ...],
    source_test: Path | None,
    model: Path | None,
    language: str | None,
    target_language: tuple[str, ...],
    out: Path,
    force: bool,
) -> None:
    """Look at your files and write a commented recipe for them."""
    from xlt_engine.engine import init_recipe

    if out.exists() and not force:
        raise click.UsageError(f"{out} is there already; use --force to overwrite it, or --out for another name")
    result = init_recipe(
        source,
        list(unlabelled),
        list(test),
        source_test=source_test,
        model=model,
        language=language,
        target_languages=list(target_language),
        folder=out.resolve().parent,
    )
    out.write_text(result.text, encoding="utf-8")
    for note in result.notes:
        click.echo(note)
    click.echo(f"wrote {out}; next: xlt-engine check {out}, then xlt-engine run {out}")


@main_group.command()
@click.argument("recipe", required=False)
@_TARGET
@_SET
@_JSON
def check(recipe: str | None, targets: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Find every error in a recipe and its data, before any training."""
    from xlt_engine.engine import check_all, render_checks

    reports = check_all(recipe, list(overrides), targets=targets)
    click.echo(_one_or_all({n: r.as_dict() for n, r in reports.items()}) if as_json else render_checks(reports))
    if codes := [report.exit_code for report in reports.values() if not report.ok]:
        raise SystemExit(min(codes))


@main_group.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True), default=Path("-"))
@click.option(
    "--out", type=click.Path(path_type=Path, allow_dash=True), default=Path("-"), help="Output.  [default: stdout]"
)
@click.option("--abstain", is_flag=True, help="Give no label where the voters disagree or are not confident.")
@click.option("--alpha", type=click.FloatRange(0, 1), help="Confidence for --abstain.  [default: the model's own]")
@click.option(
    "--format", "file_format", type=click.Choice(["auto", "conll", "tsv", "csv", "jsonl", "text"]), default="auto"
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@_ENCODING
@_TEXT
@_PAIR
@_JSON
def predict(model: Path, file: Path, out: Path, **options: Any) -> None:
    """Label FILE (or standard input) with MODEL, a folder; a line or sentence at a time, with confidences.

    Every format gets a label and a confidence: conll, tsv and csv as two more columns, jsonl as more fields, text as
    lines with tabs. An abstention is "_", null in JSON.
    """
    from xlt_engine.engine import predict_file

    for note in predict_file(model, file, out, **options).notes():
        click.echo(note, err=True)


@main_group.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--language", multiple=True, help="Language of each file, in order; the first is the source.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@_ENCODING
@_TEXT
@_PAIR
@click.option("--label-column", default="label", show_default=True, help="Table or JSONL: column of the class.")
@_JSON
def evaluate(model: Path, data: tuple[Path, ...], language: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Score MODEL on labelled files: metrics per language, and the transfer gap to the first one."""
    from xlt_engine.engine import evaluate_files

    result = evaluate_files(model, data, language, **{n.removesuffix("_column"): v for n, v in options.items()})
    click.echo(json.dumps(result.as_dict(), indent=2) if as_json else result.render())


@main_group.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
def report(run_folder: Path) -> None:
    """Write report.html, figures and summary.json of a run again."""
    from xlt_engine.engine import stage_table, write_report, write_summary

    summary = write_summary(run_folder)
    click.echo(stage_table(summary))
    click.echo(f"\nreport: {write_report(run_folder)}")


@main_group.command()
@click.argument("model", type=click.Path(path_type=Path))
@_JSON
def info(model: Path, as_json: bool) -> None:
    """Say what a model folder is."""
    from xlt_engine.engine import describe_model

    facts = describe_model(model)
    click.echo(json.dumps(facts, indent=2) if as_json else _lines(facts))


@main_group.command()
@_JSON
def env(as_json: bool) -> None:
    """Versions, devices and the kernels' path: what a bug report needs."""
    from xlt_engine.engine import describe_environment

    facts: dict[str, Any] = describe_environment()
    click.echo(json.dumps(facts, indent=2) if as_json else _lines(facts))


add_bench(main_group)
add_corpus(main_group, _progress, should_stop, lambda: _STOP.update(polled=1))
add_lab(main_group, _progress, should_stop, lambda: _STOP.update(polled=1), _seeds)
add_probe(main_group)
add_why(main_group, _progress)


def _lines(facts: dict[str, Any]) -> str:
    """One fact a line."""
    return "\n".join(f"{name}: {_shown(value)}".replace(": \n", ":\n", 1) for name, value in facts.items())


def _shown(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, list):
        parts = [str(part) for part in value]
        return "".join(f"\n  {part}" for part in parts) if any(" " in part for part in parts) else ", ".join(parts)
    if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
        return "".join(f"\n  {name}: {_shown(part)}" for name, part in value.items())
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _fail(error: XltError) -> int:
    if _FIRST or not error.told:
        click.echo(f"{'' if _FIRST else 'process ' + os.environ['RANK'] + ': '}error: {error}", err=True)
    if isinstance(error, PeerLostError):
        os._exit(error.exit_code)  # what waits on a GPU for the lost process would keep this one from ending
    return error.exit_code


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script; ends the process with the codes of docs/errors.md."""
    _STOP.update(signal=0, polled=0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    code, stdout = 0, sys.stdout
    try:
        given = None if arguments is None else list(arguments)
        code = main_group.main(given, prog_name="xlt-engine", standalone_mode=False) or 0
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
