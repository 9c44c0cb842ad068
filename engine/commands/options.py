"""The options and arguments that several commands have, each defined once."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click


def whole_numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """The numbers of an option such as `--seeds 0,1,2`, for its `callback`."""
    if value is None:
        return None
    parts = value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{value}: give whole numbers with commas between them, such as 0,1,2")
    return tuple(int(part) for part in parts)


def model_of(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """The folder of a model that an option or argument names, for its `callback`; heeds `DOWNLOAD`."""
    from ..recipe.hub import model_folder

    return None if value is None else model_folder(value, download=ctx.params.get("download", False))


READER_KEYS = {f"{name}_column": name for name in ("text", "pair", "label", "words", "tags")}
READER_KEYS |= {"tag_column": "label_column", "input_format": "format"}
"""Options of commands -> what the readers call them, where they do otherwise."""


class FileCommand(click.Command):
    """A command that reads files: its errors advise its options, where it has them, and not keys of a recipe."""

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the command."""
        from ...data.readers.problems import naming

        with naming(self._option):
            return super().invoke(ctx)

    def _option(self, key: str, value: str) -> str:
        found = next((p for p in self.params if READER_KEYS.get(str(p.name), p.name) == key), None)
        if found is None:
            return f"reader.{key}" + (f" = {value}" if value else "")
        flag = isinstance(found, click.Option) and found.is_flag
        word = json.loads(value) if value and not flag else ""
        return " ".join([found.opts[0], *([shlex.quote({"\t": "tab"}.get(word, str(word)))] if word != "" else [])])


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
DELIMITER = click.option(
    "--delimiter",
    type=click.Choice([",", ";", "|", "tab"]),
    callback=lambda ctx, param, value: "\t" if value == "tab" else value,
    help="CSV: what stands between the columns.  [default: as the model's training files]",
)
DOWNLOAD = click.option(
    "--download", is_flag=True, is_eager=True, help="Fetch the model of that name from the Hugging Face hub."
)
ENCODING = click.option("--encoding", default="utf-8", show_default=True, help="Character encoding of the input.")
JOBS = click.option(
    "--jobs", type=click.IntRange(1), help="Stages at once.  [default: cores / threads of the recipe; GPU: 1]"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
OVERRIDES = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe's value; repeatable."
)
PRESET = click.option(
    "--preset", type=click.Choice(["paper", "best"]), help="Method of keys that the recipe leaves open."
)
QUIET = click.option("--quiet", is_flag=True, help="No progress.")
REUSE = click.option("--reuse", type=PATH, multiple=True, help="Take finished stages of this run; repeatable.")
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Of every choice.")
SEEDS = click.option("--seeds", "--seed", callback=whole_numbers, metavar="0,1,2", help="Instead of the recipe's.")
TARGETS = click.option(
    "--target", "targets", multiple=True, metavar="CODE", help="Only this target, and what all share; repeatable."
)
TEXT_COLUMN = click.option(
    "--text-column", "text", default="text", show_default=True, help="Table or JSONL: column of the text."
)
