"""`evaluate`: scores of a model on labelled files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import DEVICE, ENCODING, JSON, MODEL, PAIR_COLUMN, PATH, TEXT_COLUMN


@click.command()
@MODEL
@click.argument("data", type=PATH, nargs=-1, required=True)
@click.option("--language", multiple=True, help="Language of each file, in order; the first is the source.")
@DEVICE
@ENCODING
@TEXT_COLUMN
@PAIR_COLUMN
@click.option("--label-column", default="label", show_default=True, help="Table or JSONL: column of the class.")
@JSON
def evaluate(model: Path, data: tuple[Path, ...], language: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Score MODEL on labelled files: metrics per language, and the transfer gap to the first one."""
    from .. import evaluate_files

    result = evaluate_files(model, data, language, **{n.removesuffix("_column"): v for n, v in options.items()})
    click.echo(json.dumps(result.as_dict(), indent=2) if as_json else result.render())
