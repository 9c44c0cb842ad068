"""Scores over seeds as JSON values and as text, and Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..report.seeds import Stat, Step

Json = dict[str, Any]


def stat_values(stat: Stat | None) -> Json | None:
    """Mean, deviation and number; null without any."""
    return None if stat is None else {"mean": stat.mean, "std": stat.std, "n": stat.n}


def step_values(step: Step | None) -> Json | None:
    """The same of paired differences, and how many rose."""
    return None if step is None else {**(stat_values(step.stat) or {}), "up": step.up}


def stat_text(values: Json | None, nothing: str = "-") -> str:
    """What `stat_values` gave, for a person."""
    return nothing if values is None else str(Stat(values["mean"], values["std"], values["n"]))


def step_text(values: Json | None) -> list[str]:
    """What `step_values` gave, for a person: the difference, and how many of how many rose."""
    if values is None:
        return ["-", "-"]
    stat = Stat(values["mean"], values["std"], values["n"])
    return [str(Step(stat, values["up"], "")), f"{values['up']}/{values['n']}"]


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a table; all but the first `left` columns are set to the right."""
    rule = [*["---"] * left, *["---:"] * (len(header) - left)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (header, rule, *lines)]
