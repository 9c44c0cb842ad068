"""Named warnings of a run: what a stage, a check or a loop tells a person and `stage.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunWarning:
    """A named finding: `name` is stable and for machines, `message` says what it means and what to do."""

    name: str
    message: str
    values: dict[str, Any]
