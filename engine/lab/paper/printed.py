"""What arXiv 2310.04726 prints in its Tables 3 to 9, cell by cell, from `printed.toml`."""

from __future__ import annotations

import re
import statistics
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from ...recipe.config import RunConfig
from ...report.tracking.compare import AVERAGE

DOMAINS = ("books", "dvd", "music")
Kind = Literal["cls", "conll"]
RECIPES: dict[Kind, str] = {"cls": "cls-paper", "conll": "conll-paper"}


@dataclass(frozen=True)
class Printed:
    """One row as printed.

    Attributes:
        cells: column ("de" of CoNLL, "de books" of CLS) -> points.
        average: over the cells; None where the paper prints none (Tables 7 to 9).
        notes: names in `NOTES`.
    """

    cells: dict[str, float]
    average: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper: names of its rows, from `rows.ROWS` or `OTHERS`, and the one to compare with."""

    number: int
    title: str
    rows: tuple[str, ...]
    reference: str


def _row(columns: list[str], cells: list[float], average: float | None = None, notes: Iterable[str] = ()) -> Printed:
    return Printed(dict(zip(columns, cells, strict=True)), average, tuple(notes))


_FILE = tomllib.loads(resources.files(__package__).joinpath("printed.toml").read_text("utf-8"))
NOTES: dict[str, str] = _FILE["notes"]
OTHERS: dict[str, dict[str, Any]] = _FILE["others"]
"""Methods that the paper compares itself with: `label`, and `parallel`, whether they use parallel text in any way."""
PRINTED = {
    recipe: {name: _row(_FILE[recipe]["columns"], **row) for name, row in _FILE[recipe]["rows"].items()}
    for recipe in RECIPES.values()
}
COLUMNS = {kind: tuple(_FILE[recipe]["columns"]) for kind, recipe in RECIPES.items()}
TABLES = {
    kind: tuple(PaperTable(**entry | {"rows": tuple(entry["rows"])}) for entry in _FILE[recipe]["tables"])
    for kind, recipe in RECIPES.items()
}


def domain_of(config: RunConfig) -> str:
    """The domain of a run of cls-paper, by the words of its files' names and folders; empty for other runs."""
    paths = [config.source.train, *(target.test for target in config.targets)]
    words = {word for path in paths if path for part in path.parts[-3:] for word in re.split(r"[\W_]+", part)}
    return next((domain for domain in DOMAINS if domain in words), "")


def paper_average(row: Printed, columns: Iterable[str] | None = None) -> float:
    """The average as printed; where none is, or of some columns only, the mean of the cells, to two digits."""
    chosen = list(row.cells if columns is None else columns)
    if row.average is not None and chosen == list(row.cells):
        return row.average
    return round(statistics.fmean(row.cells[column] for column in chosen), 2)


def printed(recipe: str, row: str, domain: str = "") -> dict[str, Any] | None:
    """What the paper prints for a row of a recipe by that name, by language; None where it prints nothing.

    Args:
        domain: of a run of cls-paper.

    Returns:
        `points` (language or `AVERAGE` -> points) and `notes`.
    """
    values = PRINTED.get(recipe, {}).get(row)
    end = f" {domain}" if domain else ""
    columns = [c for c in values.cells if c.endswith(end) and " " not in c.removesuffix(end)] if values else []
    if values is None or not columns:
        return None
    points = {c.removesuffix(end): values.cells[c] for c in columns}
    return {"points": points | {AVERAGE: paper_average(values, columns)}, "notes": list(values.notes)}


def notes(recipe: str, rows: Iterable[str]) -> dict[str, str]:
    """The notes that some rows of a recipe need, by name, those about all of them first."""
    if recipe not in PRINTED:
        return {}
    named = [
        *_FILE[recipe]["notes"],
        *(note for row in rows if row in PRINTED[recipe] for note in PRINTED[recipe][row].notes),
    ]
    return {name: NOTES[name] for name in dict.fromkeys(named)}
