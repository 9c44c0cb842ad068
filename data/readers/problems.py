"""Collecting every bad row of an input before raising one error."""

from __future__ import annotations

from ... import DataError
from ...untrusted import clip

LISTED = 20
_LONGEST = 2000


class Problems:
    """Faults of input files, each with its place; raised together."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.count = 0

    def add(self, place: str, what: str, fix: str) -> None:
        """Note one fault as `place: what; fix`, where place is `file:line` or `file:line:byte`."""
        self.count += 1
        if len(self.messages) < LISTED:
            self.messages.append(f"{place}: {clip(what, _LONGEST)}; {clip(fix, _LONGEST)}")

    def raise_if_any(self) -> None:
        """Raise a DataError that lists the first 20 faults and counts all."""
        if not self.count:
            return
        lines = list(self.messages)
        if self.count > len(lines):
            lines.append(f"... {self.count} faults in all, the first {len(lines)} listed")
        raise DataError("\n".join(lines))
