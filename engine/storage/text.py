"""How sizes, times, shares, lists and tables are written for people: the same in every message, table and page."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from typing import Any, Literal


def size_text(count: int, *, memory: bool = False) -> str:
    """Bytes: `1.5 GB`; of memory `850 MiB`."""
    step, units = (1024, ["bytes", "KiB", "MiB", "GiB", "TiB"]) if memory else (1000, ["bytes", "kB", "MB", "GB", "TB"])
    amount = float(count)
    while amount >= step and len(units) > 1:
        amount, units = amount / step, units[1:]
    return f"{amount:.0f} {units[0]}" if amount >= 100 else f"{amount:.1f}".removesuffix(".0") + f" {units[0]}"


def time_text(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """What counts down: `1:05` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(value: Any) -> str:
    """A fraction as a percentage, or a dash; never rounded up to 100 %."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "-"
    text = f"{100 * value:.0f} %"
    return f"{100 * value:.1f} %" if text in ("0 %", "100 %") and value not in (0, 1) else text


def points(share: float | None) -> str:
    """A fraction in points, with one decimal, or a dash."""
    return "-" if share is None else f"{100 * share:.1f}"


def counted(value: Any) -> str:
    """A whole number with its thousands apart, a dash for anything else."""
    return f"{value:,}" if isinstance(value, int) else "-"


def some(items: Iterable[str], most: int, between: str = ", ") -> str:
    """The first of some names, and how many there are beside them."""
    shown = list(items)
    return between.join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def text_table(
    rows: Sequence[Sequence[str]],
    *,
    right: Container[int] | None = None,
    rule: Literal["whole", "columns", "none"] = "whole",
) -> list[str]:
    """Aligned columns, two spaces between them.

    Args:
        rows: header first; all of one length.
        right: columns that are set to the right, the others to the left; all but the first when absent.
        rule: what stands under the header: one line, a line for each column, or nothing.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = range(1, len(widths)) if right is None else right
    lines = [
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rules = {"whole": ["-" * len(lines[0])], "columns": ["  ".join("-" * w for w in widths)], "none": []}
    head, *body = (line.rstrip() for line in lines)
    return [head, *rules[rule], *body]
