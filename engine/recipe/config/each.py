"""The [each] table: a recipe that stands for several runs, which differ in a word of their paths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""`{name}` in a path; `${NAME}` is a variable of the environment."""
_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def each_problems(each: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """What is wrong with the table itself, whatever the number of values."""
    for name, values in each.items():
        if not PLACEHOLDER.fullmatch(f"{{{name}}}"):
            yield "each", f"{name!r} cannot stand in braces in a path; use letters, digits and _"
            continue
        if not values:
            yield f"each.{name}", "is empty; give at least one value, or leave it out"
        if wrong := [value for value in values if not _VALUE.fullmatch(value)]:
            yield f"each.{name}", f"{wrong[0]!r} cannot be the name of a folder; use letters, digits, '.', '_' and '-'"
        if len(set(values)) < len(values):
            yield f"each.{name}", "has a value twice; every value is a run"


def several_problems(each: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """The names that make more than one run of a recipe, where one is wanted."""
    for name, values in each.items():
        if len(values) > 1:
            choice = f"""--set 'each.{name}=["{values[0]}"]'"""
            yield f"each.{name}", f"stands for {len(values)} runs ({', '.join(values)}); choose one here: {choice}"
