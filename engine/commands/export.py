"""`export` and `extend-vocabulary`: a model in another form, and one with more pieces."""

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
def extend_vocabulary(model: Path, texts: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Give the encoder MODEL pieces for the words of another language; old ids and their weights stay.

    The new folder is for model.path of a recipe, whose bilingual task fitting then trains the new pieces.
    """
    from ..vocabulary.extend import extend_vocabulary as extend

    report = extend(model, texts, out, **options)
    show(as_json, asdict(report), report.render())


@click.command(cls=FileCommand)
@click.argument("stage", type=PATH)
@click.argument("out", type=PATH)
@click.option("--to", type=click.Choice(["transformers", "linear", "onnx"]), help="A folder for other programs.")
@click.option("--int8", is_flag=True, help="With --to onnx: weights and activations in 8 bits.")
@click.option("--prune-vocab", is_flag=True, help="Leave out what the text does not need of the vocabulary.")
@click.option("--text", "texts", type=PATH, multiple=True, help="Text; repeatable.  [default: the run's]")
@TEXT_COLUMN
@ENCODING
@JSON
def export(
    stage: Path, out: Path, to: str | None, prune_vocab: bool, int8: bool, as_json: bool, **options: Any
) -> None:
    """Write the task model of STAGE, a folder of a run, to OUT in another form.

    \b
    --to transformers  exact; the voters' code lies beside them, open it with trust_remote_code=True
    --to linear        one linear head that learned what the voters say; opens without foreign code
    --to onnx          exact; a graph with all voters for onnxruntime; --int8 makes it smaller, and says what it costs
    --prune-vocab      for this engine, with the rows of the vocabulary that occur in the text

    OUT appears when what it says of the text has been compared with STAGE: logits, or with --prune-vocab tokens and
    predictions to the bit.
    """
    if (to is None) != prune_vocab:
        raise click.UsageError("say what to make: give either --to or --prune-vocab")
    if int8 and to != "onnx":
        raise click.UsageError("--int8 is for --to onnx")
    from ..export.export import export_model
    from ..vocabulary.prune import prune_model

    if to is None:
        pruned = prune_model(stage, out, **options)
        show(as_json, asdict(pruned), pruned.render())
    else:
        report = export_model(stage, out, to, int8=int8, **options)
        show(as_json, asdict(report), report.render())
