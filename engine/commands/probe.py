"""`probe` and `rank-sources`: what is known about languages before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .console import show
from .options import DEVICE, ENCODING, JSON, MODEL, PATH, SEED, TEXT_COLUMN, FileCommand, whole_numbers


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


@click.command(cls=FileCommand)
@click.argument("target", type=PATH, nargs=-1, required=True)
@click.option("--source", multiple=True, required=True, metavar="NAME=FILE", help="Text of a candidate; repeatable.")
@click.option("--tokenizer", type=PATH, required=True, help="Folder of the encoder to be used.")
@click.option("--model", multiple=True, metavar="NAME=FOLDER", help="Model fine-tuned on a candidate; repeatable.")
@click.option("--words", type=click.IntRange(1), default=100_000, show_default=True, help="Compared of each text.")
@click.option("--sample", type=click.IntRange(1), default=1000, show_default=True, help="Target texts to label.")
@TEXT_COLUMN
@SEED
@DEVICE
@ENCODING
@JSON
def rank_sources(
    target: tuple[Path, ...],
    source: tuple[str, ...],
    model: tuple[str, ...],
    text_column: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Order candidate source languages for TARGET, unlabelled text, by overlap and by what models say about it.

    No label of the target is read.
    """
    from ..lab.studies.rank_sources import rank_sources as rank

    folders = _paths_by_name(model, "--model")
    if twice := [name for name, paths in folders.items() if len(paths) > 1]:
        raise click.UsageError(f"--model {twice[0]} is given twice; give one model for each source")
    models = {name: paths[0] for name, paths in folders.items()}
    ranking = rank(target, _paths_by_name(source, "--source"), models=models, text=text_column, **options)
    show(as_json, ranking.as_dict(), ranking.render())


def _paths_by_name(values: tuple[str, ...], option: str) -> dict[str, list[Path]]:
    """From NAME=PATH."""
    paths: dict[str, list[Path]] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            raise click.UsageError(f"{option} {value}: give NAME=PATH, such as de=task.de.txt")
        paths.setdefault(name, []).append(Path(path))
    return paths
