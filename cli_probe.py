"""Commands for choosing languages and vocabularies: `probe`, `rank-sources`, `extend-vocabulary` and `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_ENCODING = click.option("--encoding", default="utf-8", show_default=True, help="Character encoding of the input.")
_DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
_TEXT = click.option(
    "--text-column", "text", default="text", show_default=True, help="Table or JSONL: column of the text."
)
_SEED = click.option("--seed", type=int, default=0, show_default=True, help="Of every choice.")


def add_probe(group: click.Group) -> None:
    """Give a group of commands these."""
    _add_probe(group)
    _add_rank_sources(group)
    _add_extend_vocabulary(group)
    _add_export(group)


def _numbers(value: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError as error:
        raise click.UsageError(
            f"--layers {value}: give whole numbers with commas between them, such as 0,6,12"
        ) from error


def _add_probe(group: click.Group) -> None:
    @group.command()
    @click.argument("model", type=click.Path(path_type=Path))
    @click.argument("pairs", type=click.Path(path_type=Path))
    @click.option("--layers", metavar="0,6,12", help="Layers to look at, 0 for the embeddings.  [default: all]")
    @click.option(
        "--cap", type=click.IntRange(0), default=2000, show_default=True, help="Largest number of pairs; 0: all."
    )
    @click.option(
        "--folds", type=click.IntRange(2), default=5, show_default=True, help="Parts; the map is tested on each."
    )
    @click.option("--neighbours", type=click.IntRange(1), default=10, show_default=True, help="Of CSLS.")
    @click.option("--figure", type=click.Path(path_type=Path), help="Write the curves over layers, an SVG file.")
    @_SEED
    @_DEVICE
    @_ENCODING
    @_JSON
    def probe(model: Path, pairs: Path, layers: str | None, figure: Path | None, as_json: bool, **options: Any) -> None:
        """How well two languages are aligned in the states of MODEL, by PAIRS: text, tab, translation on each line.

        For each layer: how often a text's nearest neighbour in the other language is its translation, by cosine and by
        CSLS, before and after the best rotation of one language onto the other. Uses parallel data; trains nothing.
        """
        from xlt_engine.engine.lab.probe import probe as probe_encoder

        report = probe_encoder(model, pairs, layers=_numbers(layers), **options)
        if figure is not None:
            from xlt_engine.engine.files import atomic_write_text

            atomic_write_text(figure, report.figure())
        click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.render())


def _named(values: tuple[str, ...], option: str) -> dict[str, list[Path]]:
    """Files by name, from NAME=FILE."""
    found: dict[str, list[Path]] = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not (name and equals and file):
            raise click.UsageError(f"{option} {value}: give NAME=PATH, such as de=task.de.txt")
        found.setdefault(name, []).append(Path(file))
    return found


def _add_rank_sources(group: click.Group) -> None:
    @group.command("rank-sources")
    @click.argument("target", type=click.Path(path_type=Path), nargs=-1, required=True)
    @click.option(
        "--source", multiple=True, required=True, metavar="NAME=FILE", help="Text of a candidate; repeatable."
    )
    @click.option(
        "--tokenizer", type=click.Path(path_type=Path), required=True, help="Folder of the encoder to be used."
    )
    @click.option("--model", multiple=True, metavar="NAME=FOLDER", help="Model fine-tuned on a candidate; repeatable.")
    @click.option("--words", type=click.IntRange(1), default=100_000, show_default=True, help="Compared of each text.")
    @click.option("--sample", type=click.IntRange(1), default=1000, show_default=True, help="Target texts to label.")
    @click.option(
        "--text-column", "text", default="text", show_default=True, help="Table or JSONL: column of the text."
    )
    @_SEED
    @_DEVICE
    @_ENCODING
    @_JSON
    def rank_sources(
        target: tuple[Path, ...], source: tuple[str, ...], model: tuple[str, ...], as_json: bool, **options: Any
    ) -> None:
        """Order candidate source languages for TARGET, unlabelled text, by overlap and by what models say about it.

        No label of the target is read.
        """
        from xlt_engine.engine.lab.rank_sources import rank_sources as rank

        folders = _named(model, "--model")
        if twice := [name for name, given in folders.items() if len(given) > 1]:
            raise click.UsageError(f"--model {twice[0]} is given twice; give one model for each source")
        models = {name: given[0] for name, given in folders.items()}
        ranking = rank(target, _named(source, "--source"), models=models, **options)
        click.echo(json.dumps(ranking.as_dict(), indent=2, ensure_ascii=False) if as_json else ranking.render())


def _add_extend_vocabulary(group: click.Group) -> None:
    @group.command("extend-vocabulary")
    @click.argument("model", type=click.Path(path_type=Path))
    @click.option(
        "--text", "texts", type=click.Path(path_type=Path), multiple=True, required=True, help="Text; repeatable."
    )
    @click.option("--add", type=click.IntRange(1), required=True, metavar="N", help="Pieces to add.")
    @click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to make.")
    @click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="Added to new embeddings.")
    @_TEXT
    @_SEED
    @_ENCODING
    @_JSON
    def extend_vocabulary(model: Path, texts: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
        """Give the encoder MODEL pieces for the words of another language; old ids and their weights stay.

        The new folder is for model.path of a recipe, whose bilingual task fitting then trains the new pieces.
        """
        from xlt_engine.engine.extend_vocabulary import extend_vocabulary as extend

        report = extend(model, texts, out, **options)
        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) if as_json else report.render())


def _add_export(group: click.Group) -> None:
    @group.command()
    @click.argument("stage", type=click.Path(path_type=Path))
    @click.argument("out", type=click.Path(path_type=Path))
    @click.option("--prune-vocab", is_flag=True, help="Leave out what the text does not need of the vocabulary.")
    @click.option(
        "--text",
        "texts",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Text; repeatable.  [default: the run's]",
    )
    @_TEXT
    @_ENCODING
    @_JSON
    def export(
        stage: Path, out: Path, prune_vocab: bool, texts: tuple[Path, ...], as_json: bool, **options: Any
    ) -> None:
        """Write the task model of STAGE, a folder of a run, to OUT in another form.

        With --prune-vocab it keeps the rows of its vocabulary that occur in the text, special tokens and characters.
        That tokens and predictions of the text stay equal to the bit is checked before OUT appears.
        """
        if not prune_vocab:
            raise click.UsageError("there is nothing to change; give --prune-vocab")
        from xlt_engine.engine.export.prune import prune_model

        report = prune_model(stage, out, texts, **options)
        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False) if as_json else report.render())
