"""How sizes, times, shares and lists are written for people: the same in every message, table and page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


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


def counted(value: Any) -> str:
    """A whole number with its thousands apart, a dash for anything else."""
    return f"{value:,}" if isinstance(value, int) else "-"


def some(items: Iterable[str], most: int, between: str = ", ") -> str:
    """The first of some names, and how many there are beside them."""
    shown = list(items)
    return between.join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
