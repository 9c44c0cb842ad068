"""How far from fp64 a result of this package may be: what `bench kernels` fails on."""

from __future__ import annotations

from typing import Any

BOUNDS = {"float32": (2e-5, 1e-2), "bfloat16": (2e-2, 1e-1), "float16": (4e-3, 5e-2)}
"""By the type of the result: relative error in all, and of its worst row. Twice to five times what rounding inputs,
intermediate values and the result leaves; a tile of a hundred that is wrong, or left out, is above."""

MARGIN = 3.0
"""How many times the error of eager torch in the same types is allowed where that is more: what cancels, cancels for
both."""

Row = dict[str, Any]


def add_bounds(rows: list[Row]) -> None:
    """Adds to each error of our rows its two bounds; a rival's errors are for reading."""
    eager: Row = next((row["error"] for row in rows if row["variant"] == "torch eager" and row.get("error")), {})
    for row in rows:
        if row["own"] or row["variant"] == "reference":
            for name, error in (row.get("error") or {}).items():
                usual = [eager.get(name, {}).get(measure) or 0.0 for measure in ("frobenius", "worst_row")]
                error["bounds"] = [max(b, MARGIN * u) for b, u in zip(BOUNDS[error["dtype"]], usual, strict=True)]


def beyond(row: Row) -> list[str]:
    """The results of a row that are above a bound, or not a number."""
    said = []
    for name, error in (row.get("error") or {}).items():
        for measure, bound in zip(("frobenius", "worst_row"), error.get("bounds", ()), strict=False):
            value = error[measure]
            if value is not None and not value <= bound:
                said.append(f"error of {name} ({measure.replace('_', ' ')}) {value:.1e}, bound {bound:.1e}")
    return said
