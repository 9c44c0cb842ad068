"""What a run will cost: data, and its rendering."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..storage.text import size_text, text_table, time_text


@dataclass(frozen=True)
class StageEstimate:
    """One stage.

    Attributes:
        steps: optimiser steps; `at_most` where the number depends on what the run accepts or drops.
        tokens: tokens read in training.
        read: tokens read without learning from them: pseudo-labelling and scoring.
        trainable, frozen: numbers of parameters.
        seconds, memory: estimates; memory in bytes, of the whole process.
    """

    id: str
    kind: str
    inputs: dict[str, str]
    steps: int
    at_most: bool
    tokens: int
    read: int
    trainable: int
    frozen: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Estimate:
    """All stages of a run, in the order in which they run; `rate` is tokens a second in training, over all of them."""

    stages: tuple[StageEstimate, ...]
    rate: float
    device: str
    precision: str
    threads: int
    labels: tuple[str, ...]
    vocab_size: int

    @property
    def seconds(self) -> float:
        return sum(s.seconds for s in self.stages)

    @property
    def memory(self) -> int:
        return max(s.memory for s in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"seconds": self.seconds, "memory": self.memory}

    def render(self) -> str:
        """A table for a person."""
        head = ("stage", "from", "steps", "tokens", "trains", "frozen", "memory", "time")
        rows = [
            (
                s.id,
                ", ".join(f"{role} {_short(s.id, other)}" for role, other in s.inputs.items()) or "the model",
                f"{'<= ' if s.at_most else ''}{s.steps:,}",
                f"{s.tokens:,}",
                f"{s.trainable:,}",
                f"{s.frozen:,}",
                size_text(s.memory, memory=True),
                time_text(s.seconds),
            )
            for s in self.stages
        ]
        lines = [
            f"{len(rows)} stages, about {time_text(self.seconds)} and {size_text(self.memory, memory=True)} on "
            f"{self.device} in {self.precision} ({self.threads} threads, {self.rate:,.0f} tokens/s in training).",
            f"{len(self.labels)} labels, vocabulary of {self.vocab_size:,}.",
            "Steps and parameters are those of a first run in an empty folder; '<=' depends on what the run accepts. "
            "Time (by the processor's clock, so that of an idle machine) and memory are estimates.",
        ]
        return "\n".join([*text_table([head, *rows], right=range(2, 8)), "", *lines])


def _short(stage_id: str, other: str) -> str:
    """The name of an input without the folders that it shares with the stage."""
    folder = stage_id.rpartition("/")[0]
    while folder and not other.startswith(f"{folder}/"):
        folder = folder.rpartition("/")[0]
    return other.removeprefix(f"{folder}/")
