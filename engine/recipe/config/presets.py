"""What a preset says where a recipe leaves a key open: `paper` the method as printed, `best` what did best so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """One key of the preset `best`.

    Attributes:
        tasks: that it is for.
        why: in a line, for the recipe that `init` writes.
    """

    key: str
    value: str | float
    tasks: tuple[str, ...]
    why: str


BEST = (
    Choice("prediction", "valid", ("ner",), "scores of valid tags, as predict writes them"),
    Choice("selftrain.source_prior", 0.75, ("ner", "classification"), "classes as often as in the source"),
    Choice("selftrain.word_pooling", 0.6, ("ner", "classification"), "a word, or a text, knows of others like it"),
    Choice("selftrain.restore", "finetuned", ("ner", "classification"), "students start where fine-tuning ended"),
    Choice("selftrain.soft.teachers", "seeds", ("ner", "classification"), "with several seeds their teachers' mean"),
)
"""What each gains alone: docs/findings.md."""


def choices(preset: object, task: object) -> tuple[Choice, ...]:
    """Those of a preset for a task; none for `paper`, whose values are the defaults."""
    return tuple(choice for choice in BEST if task in choice.tasks) if preset == "best" else ()


def left_open(raw: Mapping[str, Any]) -> Iterator[Choice]:
    """The choices of a recipe's preset, for the keys that its tables do not give."""
    for choice in choices(raw.get("preset"), raw.get("task")):
        *tables, key = choice.key.split(".")
        below: Any = raw
        for name in tables:
            below = below.get(name, {}) if isinstance(below, Mapping) else None
        if isinstance(below, Mapping) and key not in below:
            yield choice
