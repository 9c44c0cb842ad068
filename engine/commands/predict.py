"""`predict` and `evaluate`: labels for a file, and scores of a model on labelled files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .console import show
from .options import DEVICE, ENCODING, JSON, MODEL, PAIR_COLUMN, PATH, TEXT_COLUMN

_PATH_OR_DASH = click.Path(path_type=Path, allow_dash=True)
_FORMATS = click.Choice(["auto", "conll", "tsv", "csv", "jsonl", "text"])


@click.command()
@MODEL
@click.argument("file", type=_PATH_OR_DASH, default=Path("-"))
@click.option("--out", type=_PATH_OR_DASH, default=Path("-"), help="Output.  [default: stdout]")
@click.option("--abstain", is_flag=True, help="Give no label where the voters disagree or are not confident.")
@click.option("--alpha", type=click.FloatRange(0, 1), help="Confidence for --abstain.  [default: the model's own]")
@click.option("--raw", is_flag=True, help="The tag of each word alone, valid or not, as a run scores them.")
@click.option("--format", "file_format", type=_FORMATS, default="auto")
@DEVICE
@ENCODING
@TEXT_COLUMN
@PAIR_COLUMN
@JSON
def predict(model: Path, file: Path, out: Path, **options: Any) -> None:
    """Label FILE (or standard input) with MODEL, a folder; a line or sentence at a time, with confidences.

    Every format gets a label and a confidence: conll, tsv and csv as two more columns, jsonl as more fields, text as
    lines with tabs. An abstention is "_", null in JSON.
    """
    from .. import predict_file

    for note in predict_file(model, file, out, **options).notes():
        click.echo(note, err=True)


@click.command()
@MODEL
@click.argument("data", type=PATH, nargs=-1, required=True)
@click.option("--language", multiple=True, help="Language of each file, in order; the first is the source.")
@DEVICE
@ENCODING
@TEXT_COLUMN
@PAIR_COLUMN
@click.option("--label-column", default="label", show_default=True, help="Table or JSONL: column of the class.")
@click.option("--scheme", type=click.Choice(["auto", "iob1", "bio"]), default="auto", help="Of the tags of the files.")
@click.option("--repair", is_flag=True, help="Read an I- that continues nothing as B-, as conlleval does.")
@JSON
def evaluate(model: Path, data: tuple[Path, ...], language: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Score MODEL on labelled files: metrics per language and class, and the transfer gap to the first one."""
    from .. import evaluate_files

    result = evaluate_files(model, data, language, **{n.removesuffix("_column"): v for n, v in options.items()})
    show(as_json, result.as_dict(), result.render())
