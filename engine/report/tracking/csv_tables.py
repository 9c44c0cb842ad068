"""`report --csv`: what a run measured as tidy tables, a line for each value's place and a column for each field."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...storage.files import atomic_write_text, storage_errors
from ..parts import Run
from ..stage_table import Json


def write_csv(run: Run, folder: Path) -> None:
    """Write `scores.csv`, `losses.csv` and `thresholds.csv`.

    Columns are the fields of docs/summary-schema.md, numbers have all their digits, and a cell is empty for null.

    Raises:
        StorageError: the disk refuses.
    """
    with storage_errors(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
    scores = ({key: value for key, value in row.items() if key != "classes"} for row in run.summary["rows"])
    tables = {"scores": scores, "losses": _losses(run), "thresholds": _thresholds(run)}
    for name, rows in tables.items():
        atomic_write_text(folder / f"{name}.csv", _text(rows))


def _losses(run: Run) -> Iterator[Json]:
    for stage, trace in run.traces:
        place = {key: stage[key] for key in ("seed", "pair", "stage", "round")}
        yield from (place | line for line in _lines(trace, "steps", "step"))


def _thresholds(run: Run) -> Iterator[Json]:
    """The curves of the labelled source and, where there is a test file, of the target; `alpha` is what was chosen."""
    for (pair, number, seed), decision in run.decisions.items():
        chosen = {"alpha": decision.get("alpha"), "rule": decision.get("rule")}
        for name, side in (("curve", "source"), ("target_curve", "target")):
            place = {"seed": seed, "pair": pair, "round": number, "side": side} | chosen
            yield from (place | line for line in _lines(decision.get(name) or {}, "thresholds", "threshold"))


def _lines(columns: Json, many: str, one: str) -> Iterator[Json]:
    """A line for each place in parallel lists; the list called `many` is the field `one`."""
    lists = {one if name == many else name: values for name, values in columns.items()}
    return (dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True))


def _text(rows: Iterable[Json]) -> str:
    lines = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(key for line in lines for key in line), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
