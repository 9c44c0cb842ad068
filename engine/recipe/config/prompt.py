"""The template that texts of a recipe are put into."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from .run import RunConfig


def prompt_of(config: RunConfig) -> str:
    """The template of every text that a classifier of the run reads; empty where texts are read as they are."""
    return config.cloze.template if config.finetune.head == "cloze" else ""


def with_prompt(config: RunConfig, prompt: str) -> RunConfig:
    """The recipe with another template for all texts, or without one where it is empty."""
    head: Literal["cloze", "linear"] = "cloze" if prompt else "linear"
    table = replace(config.cloze, template=prompt or config.cloze.template)
    return replace(config, finetune=replace(config.finetune, head=head), cloze=table)
