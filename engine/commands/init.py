"""`init`: a recipe for the user's own files."""

from __future__ import annotations

from pathlib import Path

import click

from .options import PATH


@click.command()
@click.option("--source", type=PATH, required=True, help="Labelled training file.")
@click.option("--unlabelled", type=PATH, multiple=True, required=True, help="Target text; repeatable.")
@click.option("--test", type=PATH, multiple=True, help="Labelled target file to score on; repeatable.")
@click.option("--source-test", type=PATH, help="Labelled source file to score on.")
@click.option("--model", type=PATH, help="Hugging Face folder of an encoder; none: one is made.")
@click.option("--language", help="Language of the source.")
@click.option("--target-language", multiple=True, help="Language of each unlabelled file; repeatable.")
@click.option("--out", type=PATH, default=Path("xlt.toml"), show_default=True)
@click.option("--force", is_flag=True, help="Overwrite the recipe if it is there.")
def init(
    source: Path,
    unlabelled: tuple[Path, ...],
    test: tuple[Path, ...],
    source_test: Path | None,
    model: Path | None,
    language: str | None,
    target_language: tuple[str, ...],
    out: Path,
    force: bool,
) -> None:
    """Look at your files and write a commented recipe for them."""
    from .. import init_recipe

    if out.exists() and not force:
        raise click.UsageError(f"{out} is there already; use --force to overwrite it, or --out for another name")
    result = init_recipe(
        source,
        list(unlabelled),
        list(test),
        source_test=source_test,
        model=model,
        language=language,
        target_languages=list(target_language),
        folder=out.resolve().parent,
    )
    out.write_text(result.text, encoding="utf-8")
    for note in result.notes:
        click.echo(note)
    click.echo(f"wrote {out}; next: xlt-engine check {out}, then xlt-engine run {out}")
