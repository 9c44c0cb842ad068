"""`extend-vocabulary` and `export`: a model with more pieces, or with fewer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .console import show
from .options import ENCODING, JSON, MODEL, PATH, SEED, TEXT_COLUMN


@click.command()
@MODEL
@click.option("--text", "texts", type=PATH, multiple=True, required=True, help="Text; repeatable.")
@click.option("--add", type=click.IntRange(1), required=True, metavar="N", help="Pieces to add.")
@click.option("--out", type=PATH, required=True, help="Folder to make.")
@click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Added to new embeddings.")
@TEXT_COLUMN
@SEED
@ENCODING
@JSON
def extend_vocabulary(
    model: Path, texts: tuple[Path, ...], out: Path, text_column: str, as_json: bool, **options: Any
) -> None:
    """Give the encoder MODEL pieces for the words of another language; old ids and their weights stay.

    The new folder is for model.path of a recipe, whose bilingual task fitting then trains the new pieces.
    """
    from ..vocabulary.extend import extend_vocabulary as extend

    report = extend(model, texts, out, text=text_column, **options)
    show(as_json, asdict(report), report.render())


@click.command()
@click.argument("stage", type=PATH)
@click.argument("out", type=PATH)
@click.option("--prune-vocab", is_flag=True, help="Leave out what the text does not need of the vocabulary.")
@click.option("--text", "texts", type=PATH, multiple=True, help="Text; repeatable.  [default: the run's]")
@TEXT_COLUMN
@ENCODING
@JSON
def export(
    stage: Path,
    out: Path,
    prune_vocab: bool,
    texts: tuple[Path, ...],
    text_column: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the task model of STAGE, a folder of a run, to OUT in another form.

    With --prune-vocab it keeps the rows of its vocabulary that occur in the text, special tokens and characters.
    That tokens and predictions of the text stay equal to the bit is checked before OUT appears.
    """
    if not prune_vocab:
        raise click.UsageError("there is nothing to change; give --prune-vocab")
    from ..vocabulary.prune import prune_model

    report = prune_model(stage, out, texts, text=text_column, **options)
    show(as_json, asdict(report), report.render())
