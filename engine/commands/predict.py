"""`predict` and `evaluate`: labels for a file, and scores of a model on labelled files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .console import make_progress, show, write
from .options import DELIMITER, DEVICE, ENCODING, JSON, MODEL, PATH, PRECISION, QUIET, READER_KEYS, FileCommand

_PATH_OR_DASH = click.Path(path_type=Path, allow_dash=True)
_INPUTS = click.Choice(["auto", "conll", "conllu", "tsv", "csv", "jsonl", "spans", "arrow", "text"])
_FORMATS = click.Choice([*_INPUTS.choices, "xnli", "webis-cls", "marc"])
_OUTPUTS = click.Choice(["same", "conll", "jsonl", "tsv", "entities", "spacy", "brat"])
_SPLIT = click.option(
    "--split",
    type=click.Choice(["punctuation", "whitespace", "characters"]),
    help="Where text is cut into words.  [default: as the model's training text]",
)


_AS_TRAINED = "[default: as the model's training files]"


def _column(name: str, of: str, files: str = "Table or JSONL", **more: Any) -> Callable[..., Any]:
    """An option for a column or field."""
    return click.option(f"--{name}-column", help=f"{files}: column of the {of}.  {_AS_TRAINED}", **more)


_TEXT, _PAIR, _LABEL = _column("text", "text"), _column("pair", "second text"), _column("label", "class")
_WORDS, _TAGS = _column("words", "words", "JSONL"), _column("tags", "tags", "JSONL")
_TOKEN = _column("token", "words, from 0", "CoNLL", type=int, metavar="N")
_TAG = _column("tag", "tags, from 0", "CoNLL", type=int, metavar="N")
_HEADER = click.option(
    "--no-header",
    "header",
    flag_value=False,
    default=None,
    help=f"Tables: no row of names; columns have numbers from 0.  {_AS_TRAINED}",
)


@click.command(cls=FileCommand)
@MODEL
@click.argument("file", type=_PATH_OR_DASH, default=Path("-"))
@click.option("--language", metavar="CODE", help="Of a run folder, the model for this target.")
@click.option("--out", type=_PATH_OR_DASH, default=Path("-"), help="Output.  [default: stdout]")
@click.option("--format", "output_format", type=_OUTPUTS, default="same", help="Of the output.  [default: as FILE]")
@click.option("--entities", is_flag=True, help="As --format entities: JSON lines with character offsets.")
@click.option("--json", "as_json", is_flag=True, help="As --format jsonl.")
@click.option("--input-format", type=_INPUTS, default="auto")
@_SPLIT
@click.option("--raw", is_flag=True, help="The tag of each word alone, valid or not, as a run scores them.")
@click.option("--abstain", is_flag=True, help="Give no label where the voters disagree or are not confident.")
@click.option("--alpha", type=click.FloatRange(0, 1), help="Confidence for --abstain.  [default: the model's own]")
@click.option(
    "--word-pooling",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="WEIGHT",
    help="How far words and texts of FILE know of others like them, such as 0.6.  [default: 0]",
)
@DEVICE
@PRECISION
@ENCODING
@_TEXT
@_PAIR
@_WORDS
@_TOKEN
@DELIMITER
@_HEADER
@QUIET
def predict(
    model: Path,
    file: Path,
    out: Path,
    language: str | None,
    output_format: str,
    entities: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Label FILE (or standard input) with MODEL, a folder, or a run folder with --language, in the same order.

    The file comes back with a label and a confidence: conll, tsv and csv with two more columns, jsonl with more
    fields, text as lines with tabs. An abstention is "_", null in JSON. --format gives other forms; `evaluate` reads
    them, and `init` conll and jsonl. A file that was not finished is gone on with by the same command.
    """
    from .. import chosen_model, predict_file

    if language is not None:
        model = chosen_model(model, language)
        if not quiet:
            write(f"model for {language}: {model}", err=True)
    form: Any = "entities" if entities else "jsonl" if as_json else output_format
    predictor = predict_file(model, file, out, output_format=form, progress=make_progress(quiet), **options)
    warnings = [f"warning: {w.name}: {w.message}" for w in predictor.warnings] if quiet else []
    for note in [*warnings, *predictor.notes()]:
        write(note, err=True)


@click.command(cls=FileCommand)
@MODEL
@click.argument("data", type=PATH, nargs=-1, required=True)
@click.option("--language", multiple=True, help="Language of each file, in order; the first is the source.")
@DEVICE
@PRECISION
@ENCODING
@_TEXT
@_PAIR
@_LABEL
@_WORDS
@_TAGS
@_TOKEN
@_TAG
@DELIMITER
@_HEADER
@click.option("--input-format", type=_FORMATS, default="auto", help="Of the files.  [default: by their names]")
@_SPLIT
@click.option(
    "--cut-spans",
    type=click.Choice(["error", "expand", "drop"]),
    help="What an entity is that ends within a word.  [default: error]",
)
@click.option(
    "--scheme",
    type=click.Choice(["auto", "iob1", "bio", "bioes", "bilou"]),
    default="auto",
    help="Of the tags of the files.",
)
@click.option("--repair", is_flag=True, help="Read an I- that continues nothing as B-, as conlleval does.")
@JSON
def evaluate(model: Path, data: tuple[Path, ...], language: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Score MODEL on labelled files: metrics per language and class, and the transfer gap to the first one.

    What `predict --format` writes is read, too (docs/data-formats.md says by which columns); --split is for its files
    of entities.
    """
    from .. import evaluate_files

    keys = READER_KEYS | {"input_format": "file_format"}
    result = evaluate_files(model, data, language, **{keys.get(n, n): v for n, v in options.items()})
    show(as_json, result.as_dict(), result.render())
