"""A table as lines of text."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Literal


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
