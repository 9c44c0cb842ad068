"""What a preset says where a recipe leaves a key open: `paper` the method as printed, `best` what did best so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ....tasks import has_spans, per_word


class Choice(NamedTuple):
    """One key of the preset `best`.

    Attributes:
        spans: it is for named entities alone; else for all tagging.
        why: in a line, for the recipe that `init` writes.
    """

    key: str
    value: str | float
    spans: bool
    why: str


BEST = (
    Choice("prediction", "valid", True, "scores of valid tags, as predict writes them"),
    Choice("selftrain.soft.word_pooling", 0.6, False, "a word knows of the same word elsewhere"),
    Choice("selftrain.soft.outside_prior", 0.75, True, "not more names than the source has"),
)
"""What each gains alone: docs/findings.md."""


def choices(preset: object, task: object) -> tuple[Choice, ...]:
    """Those of a preset for a task; none for `paper`, whose values are the defaults."""
    if preset != "best" or not isinstance(task, str) or not per_word(task):
        return ()
    return tuple(choice for choice in BEST if has_spans(task) or not choice.spans)


def left_open(raw: Mapping[str, Any]) -> Iterator[Choice]:
    """The choices of a recipe's preset, for the keys that its tables do not give."""
    for choice in choices(raw.get("preset"), raw.get("task")):
        *tables, key = choice.key.split(".")
        below: Any = raw
        for name in tables:
            below = below.get(name, {}) if isinstance(below, Mapping) else None
        if isinstance(below, Mapping) and key not in below:
            yield choice
