"""`extend-vocabulary`: a model with more pieces."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .console import show
from .options import ENCODING, JSON, MODEL, PATH, SEED, TEXT_COLUMN, FileCommand


@click.command(cls=FileCommand)
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
