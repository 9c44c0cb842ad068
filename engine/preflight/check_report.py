"""What `check` found: data, and its rendering."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..report.text_table import text_table
from ..storage.run_warning import RunWarning
from .check_data import Coverage
from .estimate_report import Estimate, seed_lines


@dataclass(frozen=True)
class CheckProblem:
    """One error: where ("de.conll:12", "xlt.toml:7"), what, and the exit code of its kind."""

    where: str
    message: str
    code: int

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class FileRow:
    """One file of the recipe: its examples, and how many labels (or words with a tag other than `O`) it has."""

    role: str
    language: str
    path: str
    examples: int | None
    labels: dict[str, int]


@dataclass
class CheckReport:
    """All that was found.

    Attributes:
        problems: errors; the run would stop at the first of them.
        warnings: what a run would go on with.
        files: the recipe's files; `examples` is None where a file cannot be read.
        coverage: the tokenizer per language.
        estimate: cost of the run; None while there are errors.
    """

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
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "problems": [asdict(p) for p in self.problems],
            "warnings": [w.as_dict() for w in self.warnings],
            "notes": self.notes,
            "files": [asdict(f) for f in self.files],
            "coverage": [asdict(c) for c in self.coverage],
            "estimate": None if self.estimate is None else self.estimate.as_dict(),
        }

    def render(self) -> str:
        """Everything as text, errors last, where a terminal shows them."""
        parts: list[list[str]] = []
        if self.files:
            rows = [
                (
                    f.role,
                    f.language,
                    _shown(f.path),
                    "-" if f.examples is None else f"{f.examples:,}",
                    _counts(f.labels),
                )
                for f in self.files
            ]
            parts.append(
                text_table([("file", "language", "path", "examples", "labels"), *rows], right=(3,), rule="columns")
            )
        if self.coverage:
            rows2 = [
                (c.language, f"{c.words:,}", f"{c.unknown:.2%}", f"{c.fertility:.2f}", f"{c.cut:.2%}", str(c.longest))
                for c in self.coverage
            ]
            head = ("tokenizer", "words tried", "unknown", "tokens/word", "cut", "longest")
            parts.append(text_table([head, *rows2], right=(1, 2, 3, 4, 5), rule="columns"))
        if self.estimate is not None:
            parts.append(self.estimate.render().split("\n"))
        parts += [[f"note: {_shown(note)}" for note in self.notes]] if self.notes else []
        if self.warnings:
            parts.append([f"warning: {w.name}: {_shown(w.message)}" for w in self.warnings])
        if self.problems:
            count = f"{len(self.problems)} error{'s' if len(self.problems) > 1 else ''}:"
            parts.append([count, *(f"  {_shown(str(p))}" for p in self.problems)])
        else:
            parts.append([f"no errors, {len(self.warnings)} warning{'' if len(self.warnings) == 1 else 's'}"])
        return "\n\n".join("\n".join(part) for part in parts)


def render_checks(reports: Mapping[str, CheckReport]) -> str:
    """What was found in each run that a recipe stands for, under its name, then what all of them cost."""
    if len(reports) == 1:
        return next(iter(reports.values())).render()
    parts = [f"{name}\n\n{report.render()}" for name, report in reports.items()]
    estimates = [report.estimate for report in reports.values() if report.estimate is not None]
    return "\n\n".join([*parts, *(seed_lines(estimates) if len(estimates) == len(reports) else [])])


def _counts(counts: Mapping[str, int]) -> str:
    if len(counts) > 8:
        return f"{len(counts)} labels, {sum(counts.values()):,}"
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _shown(text: str) -> str:
    """Paths below the current folder without it."""
    return text.replace(f"{Path.cwd()}{os.sep}", "")
