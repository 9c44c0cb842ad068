"""`corpus`: task text from raw text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import StopRequest, make_progress, pass_stop, show
from .options import JSON, PATH, QUIET, SEED

if TYPE_CHECKING:
    from ..corpus.config import CorpusConfig

_FILE = click.Path(path_type=Path, dir_okay=False)


def _file(name: str, help: str, kind: click.Path = _FILE, field: str = "", **more: Any) -> Callable[[Any], Any]:
    """An option for files; `field` is what the configuration calls it, where that is another name."""
    return click.option(name, *([field] if field else []), type=kind, metavar="FILE", help=help, **more)


@click.command()
@_file("--entities", "Labelled training file of the source language; repeatable.", multiple=True)
@_file(
    "--text", "Target text, a sentence or paragraph a line, or a folder of such files; repeatable.", PATH, multiple=True
)
@_file(
    "--target-dump",
    "Target text: pages-articles XML, WikiExtractor's JSON lines, or a folder of either; repeatable.",
    PATH,
    multiple=True,
)
@_file("--titles", "Table: title in the source language, tab, title in the target language.")
@_file("--source-dump", "pages-articles XML of the source wiki: pages, redirects, disambiguation pages.", field="dump")
@_file("--page", "Table page of the source wiki, in place of --source-dump (SQL).")
@_file("--redirect", "Table redirect, to go with --page (SQL).")
@_file("--page-props", "Table page_props, to go with --page: disambiguation pages (SQL).")
@_file("--langlinks", "Table langlinks of the source wiki (SQL).")
@_file("--wikidata", "Table wb_items_per_site of Wikidata, in place of --langlinks or beside it (SQL).", field="items")
@click.option("--out", type=_FILE, required=True, help="Corpus, a sentence a line; control and report go beside it.")
@click.option("--language", help="Language of the text.  [default: by the file names]")
@click.option("--source-language", help="Language of the entities.  [default: by the file names, else en]")
@_file("--exclude", "Evaluation file: none of its sentences is taken; repeatable.", multiple=True)
@click.option("--encoding", default="utf-8", show_default=True, help="Of the files of --entities and --exclude.")
@click.option("--cap", type=click.IntRange(1), default=60_000, show_default=True, help="Most sentences.")
@click.option("--min-chars", type=click.IntRange(1), help="Shortest sentence.  [default: 20; 8 without word spaces]")
@click.option("--max-chars", type=click.IntRange(1), help="Longest sentence.  [default: 500; 200 without word spaces]")
@click.option("--split/--no-split", default=True, help="Cut lines and paragraphs into sentences.  [default: split]")
@click.option(
    "--language-check/--no-language-check", default=True, help="Drop sentences in other languages.  [default: check]"
)
@click.option("--control/--no-control", default=True, help="Write as many random sentences.  [default: control]")
@click.option(
    "--boundaries",
    type=click.Choice(["auto", "words", "scripts", "none"]),
    default="auto",
    show_default=True,
    help="Where a title may begin and end: at words, only where a script has spaces, anywhere.",
)
@click.option("--redirects/--no-redirects", default=True, help="Follow redirects.  [default: redirects]")
@click.option(
    "--skip-disambiguation/--keep-disambiguation",
    "disambiguation",
    default=True,
    help="Skip entities whose page lists meanings.  [default: skip]",
)
@click.option(
    "--first-letter/--no-first-letter", default=True, help="Let a title begin with a small letter.  [default: let]"
)
@click.option("--strip-qualifier", is_flag=True, help="Look for Merkur where the title is Merkur (Planet).")
@click.option(
    "--target-redirects",
    "target_aliases",
    is_flag=True,
    help="Redirects of the target dump are names too (reads it twice).",
)
@SEED
@click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one for each processor]")
@QUIET
@JSON
@pass_stop
def corpus(stop: StopRequest, /, workers: int | None, quiet: bool, as_json: bool, **values: Any) -> None:
    """Task text from raw text: target sentences that contain an entity of the source training set.

    With the public dumps: --source-dump (or --page and --redirect) with --langlinks or --wikidata, and
    --target-dump. Without: --titles and --text. Killed, the same command goes on.
    """
    stop.begin()
    from .. import build_corpus

    report = build_corpus(_config(values), workers=workers, progress=make_progress(quiet), should_stop=stop.should_stop)
    show(as_json, report.values, report.render() if report.made else f"the corpus is up to date\n{report.render()}")


def _config(values: dict[str, Any]) -> CorpusConfig:
    from ..corpus.config import CorpusConfig, LinkRules, SourceFiles

    files = SourceFiles(**{field.name: values.pop(field.name) for field in fields(SourceFiles)})
    rules = LinkRules(**{field.name: values.pop(field.name) for field in fields(LinkRules)})
    given = {name: value for name, value in values.items() if value is not None}
    return CorpusConfig(source_wiki=files, rules=rules, **given)
