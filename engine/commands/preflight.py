"""`init`, `check`, `info`, `env` and `probe`: what is looked at before any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .console import show, write
from .options import (
    DEVICE,
    DOWNLOAD,
    ENCODING,
    JSON,
    MODEL,
    OVERRIDES,
    PATH,
    RECIPE,
    SEED,
    TARGETS,
    FileCommand,
    model_of,
    whole_numbers,
)


@click.command(cls=FileCommand)
@click.option("--source", type=PATH, required=True, help="Labelled training file.")
@click.option("--unlabelled", type=PATH, multiple=True, required=True, help="Target text; repeatable.")
@click.option("--test", type=PATH, multiple=True, help="Labelled target file to score on; repeatable.")
@click.option("--source-test", type=PATH, help="Labelled source file to score on.")
@click.option("--model", type=PATH, callback=model_of, help="Hugging Face folder or NAME; none: an encoder is made.")
@DOWNLOAD
@click.option("--language", help="Language of the source.")
@click.option("--target-language", "target_languages", multiple=True, help="Of each unlabelled file; repeatable.")
@click.option("--label-column", default="", metavar="NAME", help="Column or field of the labels, if it is not found.")
@click.option("--encoding", default="", metavar="NAME", help="Of files that are not UTF-8, if it is not found.")
@click.option("--no-header", "header", flag_value=False, default=True, help="No row of a table names its columns.")
@click.option("--out", type=PATH, default=Path("xlt.toml"), show_default=True)
@click.option("--force", is_flag=True, help="Overwrite the recipe if it is there.")
def init(out: Path, force: bool, download: bool, **files: Any) -> None:
    """Look at your files and write a commented recipe for them."""
    from .. import init_recipe

    if out.exists() and not force:
        raise click.UsageError(f"{out} is there already; use --force to overwrite it, or --out for another name")
    result = init_recipe(**files, folder=out.resolve().parent)
    out.write_text(result.text, encoding="utf-8")
    for note in result.notes:
        write(note)
    write(f"wrote {out}; next: xlt-engine check {out}, then xlt-engine run {out}")


@click.command()
@RECIPE
@TARGETS
@OVERRIDES
@JSON
def check(recipe: str | None, targets: tuple[str, ...], overrides: tuple[str, ...], as_json: bool) -> None:
    """Find every error in a recipe and its data, before any training."""
    from .. import check as look

    report = look(recipe, overrides, targets=targets)
    show(as_json, report.as_dict(), report.render())
    if not report.ok:
        raise SystemExit(report.exit_code)


@click.command()
@MODEL
@DOWNLOAD
@JSON
def info(model: Path, download: bool, as_json: bool) -> None:
    """Say what a model is: a folder, or a NAME in the Hugging Face cache."""
    from .. import describe_model

    facts = describe_model(model)
    show(as_json, facts, _lines(facts))


@click.command()
@JSON
def env(as_json: bool) -> None:
    """Versions, devices and the kernels' path: what a bug report needs."""
    from .. import describe_environment

    facts = describe_environment()
    show(as_json, facts, _lines(facts))


def _lines(facts: dict[str, Any]) -> str:
    """One fact a line."""
    return "\n".join(f"{name}: {_text(value)}".replace(": \n", ":\n", 1) for name, value in facts.items())


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, list):
        parts = [str(part) for part in value]
        return "".join(f"\n  {part}" for part in parts) if any(" " in part for part in parts) else ", ".join(parts)
    if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
        return "".join(f"\n  {name}: {_text(part)}" for name, part in value.items())
    return json.dumps(value) if isinstance(value, dict) else str(value)


@click.command(cls=FileCommand)
@MODEL
@click.argument("pairs", type=PATH)
@click.option("--layers", callback=whole_numbers, metavar="0,6,12", help="0 for the embeddings.  [default: all]")
@click.option("--cap", type=click.IntRange(0), default=2000, show_default=True, help="Largest number of pairs; 0: all.")
@click.option("--folds", type=click.IntRange(2), default=5, show_default=True, help="Parts; the map is tested on each.")
@click.option("--neighbours", type=click.IntRange(1), default=10, show_default=True, help="Of CSLS.")
@SEED
@DEVICE
@ENCODING
@JSON
def probe(model: Path, pairs: Path, layers: tuple[int, ...] | None, as_json: bool, **options: Any) -> None:
    """How well two languages are aligned in the states of MODEL, by PAIRS: text, tab, translation on each line.

    For each layer: how often a text's nearest neighbour in the other language is its translation, by cosine and by
    CSLS, before and after the best rotation of one language onto the other. Uses parallel data; trains nothing.
    """
    from ..lab.studies.probe import probe as probe_encoder

    report = probe_encoder(model, pairs, layers=layers or (), **options)
    show(as_json, report.as_dict(), report.render())
