"""Settings of the rounds that came after the method's own: several teachers, and masked words learned beside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...training.config import option
from .base import TaskConfig

Problems = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class TeachersConfig(TaskConfig):
    """Whose probabilities the student learns: those of one teacher, or the mean over several (W20b of S1:46)."""

    teachers: Literal["one", "seeds"] = option(
        "one", "the teacher of the same seed, or those of all seeds of the run, averaged"
    )
    teacher_folders: tuple[Path, ...] = option(
        (), "finished model folders of the same task and labels, whose probabilities are averaged in", decides=False
    )
    teacher_weights: tuple[float, ...] = option(
        (), "first that of each teacher of this run, then one for each folder; all alike when absent", above=0
    )

    def problems(self) -> Problems:
        found = super().problems()
        wanted = 1 + len(self.teacher_folders)
        if self.teacher_weights and len(self.teacher_weights) != wanted:
            message = (
                f"{len(self.teacher_weights)} given, expected {wanted}: of this run's teachers, and of each folder"
            )
            found.append(("teacher_weights", message))
        return found
