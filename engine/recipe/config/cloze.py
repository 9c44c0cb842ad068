"""The [cloze] table: classification by filling in a blank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ....data.augment.prompt import template_problem
from ...config_fields import option
from .reader import all_readers

if TYPE_CHECKING:
    from .run import RunConfig


@dataclass(frozen=True, kw_only=True)
class ClozeConfig:
    """What finetune.head = "cloze" reads: texts in a template, classes as words in its blank."""

    template: str = option("{text} It was {mask}.", "what a text is put into; {pair} for pairs of texts")
    verbaliser: tuple[Path, ...] = option(
        (), "files with a class, a tab and words for it, with commas between them; several files add up"
    )


def prompt_of(config: RunConfig) -> str:
    """The template of every text that a classifier of the run reads; empty where texts are read as they are."""
    return config.cloze.template if config.finetune.head == "cloze" else ""


def with_prompt(config: RunConfig, prompt: str) -> RunConfig:
    """The recipe with another template for all texts, or without one where it is empty."""
    head: Literal["cloze", "linear"] = "cloze" if prompt else "linear"
    table = replace(config.cloze, template=prompt or config.cloze.template)
    return replace(config, finetune=replace(config.finetune, head=head), cloze=table)


def cloze_problems(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What does not fit between the table and the rest of a recipe."""
    table = config.cloze
    if config.finetune.head != "cloze":
        if table.verbaliser:
            yield "cloze.verbaliser", 'is given, but nothing reads it; set finetune.head = "cloze"'
        return
    if config.task != "classification":
        yield "finetune.head", "is cloze, which is for classification; use linear"
    if config.pooling != "cls":
        yield "pooling", f'is {config.pooling}, but with finetune.head = "cloze" heads read the mask; leave it out'
    if not table.verbaliser:
        yield "cloze.verbaliser", "is missing: a file with a class, a tab and words for it"
    if (problem := template_problem(table.template)) is not None:
        yield "cloze.template", problem
    elif any(
        ("{pair}" in table.template) != bool(reader.pair) and reader.format not in ("auto", "xnli")
        for reader in (all_readers(config) or [config.reader])
    ):
        yield "cloze.template", "has {pair} where the texts have none, or the other way round; see reader.pair"
