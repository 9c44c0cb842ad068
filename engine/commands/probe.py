"""`probe`: how well two languages are aligned before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .console import show
from .options import DEVICE, ENCODING, JSON, MODEL, PATH, SEED, FileCommand, whole_numbers


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
