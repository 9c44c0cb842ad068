"""The options and arguments that several commands have, each defined once."""

from __future__ import annotations

from pathlib import Path

import click


def whole_numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """The numbers of an option such as `--seeds 0,1,2`, for its `callback`."""
    try:
        return None if value is None else tuple(int(part) for part in value.split(","))
    except ValueError as error:
        message = f"{value}: give whole numbers with commas between them, such as 0,1,2"
        raise click.BadParameter(message) from error


def model_of(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """The folder of a model that an option or argument names, for its `callback`; heeds `DOWNLOAD`."""
    from ..recipe.hub import model_folder

    return None if value is None else model_folder(value, download=ctx.params.get("download", False))


PATH = click.Path(path_type=Path)
DEVICES = click.Choice(["auto", "cpu", "cuda"])
PRECISIONS = click.Choice(["auto", "fp32", "bf16", "fp16"])

MODEL = click.argument("model", type=PATH, callback=model_of)
RECIPE = click.argument("recipe", required=False)
PROGRESS = click.option(
    "--progress", "listener", metavar="MODULE:CLASS", help="A Progress of your own, such as a tracker, for the console."
)
RUN = click.argument("run_folder", metavar="RUN", type=PATH)

DEVICE = click.option("--device", type=DEVICES, default="auto")
PRECISION = click.option(
    "--precision",
    type=PRECISIONS,
    default="auto",
    help="What the model computes in.  [default: fp32 on a CPU; on a GPU as it was trained]",
)
DOWNLOAD = click.option(
    "--download", is_flag=True, is_eager=True, help="Fetch the model of that name from the Hugging Face hub."
)
ENCODING = click.option("--encoding", default="utf-8", show_default=True, help="Character encoding of the input.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
OVERRIDES = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe's value; repeatable."
)
QUIET = click.option("--quiet", is_flag=True, help="No progress.")
REUSE = click.option("--reuse", type=PATH, multiple=True, help="Take finished stages of this run; repeatable.")
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Of every choice.")
SEEDS = click.option("--seeds", "--seed", callback=whole_numbers, metavar="0,1,2", help="Instead of the recipe's.")
TARGETS = click.option(
    "--target", "targets", multiple=True, metavar="CODE", help="Only this target, and what all share; repeatable."
)
TEXT_COLUMN = click.option(
    "--text-column", default="text", show_default=True, help="Table or JSONL: column of the text."
)
