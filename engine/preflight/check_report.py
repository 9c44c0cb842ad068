"""The report of `check`: data, and its rendering."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..storage.run_warning import RunWarning
from ..storage.text import text_table
from .check_data import Coverage
from .estimate_report import Estimate


@dataclass(frozen=True)
class CheckProblem:
    """One error: where ("de.conll:12", "xlt.toml:7"), what, and the exit code of its kind."""

    where: str
    message: str
    code: int

    def __str__(self) -> str:
        return f"{self.where}: {self.message}".removesuffix(": ")


@dataclass(frozen=True)
class FileRow:
    """One file of the recipe: its examples, None where it cannot be read, and its labels (tags other than `O`)."""

    role: str
    language: str
    path: str
    examples: int | None
    labels: dict[str, int]


@dataclass
class CheckReport:
    """Errors, warnings, files, the tokenizer per language, and what the run will cost, None while there are errors."""

    problems: list[CheckProblem] = field(default_factory=list)
    warnings: list[RunWarning] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: list[FileRow] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    estimate: Estimate | None = None

    @property
    def ok(self) -> bool:
        """Whether the run can start."""
        return not self.problems

    @property
    def exit_code(self) -> int:
        """0, or the smallest code among the errors: the recipe's before the data's before the model's."""
        return min((p.code for p in self.problems), default=0)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        estimate = None if self.estimate is None else self.estimate.as_dict()
        return {"ok": self.ok, "exit_code": self.exit_code} | asdict(self) | {"estimate": estimate}

    def render(self) -> str:
        """Everything as text, errors last, where a terminal shows them; paths below the current folder without it."""
        here = f"{Path.cwd()}{os.sep}"
        files = [
            (
                f.role,
                f.language,
                f.path.removeprefix(here),
                "-" if f.examples is None else f"{f.examples:,}",
                _counts(f.labels),
            )
            for f in self.files
        ]
        coverage = [
            (c.language, f"{c.words:,}", f"{c.unknown:.2%}", f"{c.fertility:.2f}", f"{c.cut:.2%}", str(c.longest))
            for c in self.coverage
        ]
        numbers = ("tokenizer", "words tried", "unknown", "tokens/word", "cut", "longest")
        parts = [
            text_table([("file", "language", "path", "examples", "labels"), *files], right=(3,)) if files else [],
            text_table([numbers, *coverage]) if coverage else [],
            [] if self.estimate is None else [self.estimate.render()],
            [f"note: {note}" for note in self.notes],
            [f"warning: {w.name}: {w.message}" for w in self.warnings],
        ]
        if self.problems:
            count = f"{len(self.problems)} error{'s' * (len(self.problems) > 1)}:"
            parts.append([count, *(f"  {problem}" for problem in self.problems)])
        else:
            parts.append([f"no errors, {len(self.warnings)} warning{'s' * (len(self.warnings) != 1)}"])
        return "\n\n".join("\n".join(part) for part in parts if part).replace(here, "")


def _counts(counts: Mapping[str, int]) -> str:
    if len(counts) > 8:
        return f"{len(counts)} labels, {sum(counts.values()):,}"
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
