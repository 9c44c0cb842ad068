"""What a run will cost: data, and its rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..report.text_table import text_table


@dataclass(frozen=True)
class StageEstimate:
    """One stage.

    Attributes:
        steps: optimiser steps; `at_most` where the number depends on what the run accepts or drops.
        tokens: tokens read in training.
        read: tokens read without learning from them: pseudo-labelling and scoring.
        trainable, frozen: numbers of parameters.
        flops: floating point operations of training, pseudo-labelling and scoring.
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
    flops: float
    seconds: float
    memory: int


@dataclass(frozen=True)
class Estimate:
    """All stages of a run, in the order in which they run.

    Attributes:
        rate: measured matrix product, in floating point operations per second.
        device: what it was measured on.
        labels: label set.
        vocab_size: rows of the word embedding.
        encoder: parameters of the encoder.
        heads: parameters of the linear head of a first teacher, and of the voters together that replace it in the
            students.
        voters: how many voters.
    """

    stages: tuple[StageEstimate, ...]
    rate: float
    device: str
    threads: int
    labels: tuple[str, ...]
    vocab_size: int
    encoder: int
    heads: tuple[int, int]
    voters: int

    @property
    def seconds(self) -> float:
        """Estimated seconds of all stages."""
        return sum(s.seconds for s in self.stages)

    @property
    def memory(self) -> int:
        """Estimated peak in bytes."""
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
                size_text(s.memory),
                time_text(s.seconds),
            )
            for s in self.stages
        ]
        total = (
            f"{len(rows)} stages, about {time_text(self.seconds)} and {size_text(self.memory)} on {self.device} "
            f"({self.threads} threads, {self.rate / 1e9:.0f} GFLOP/s in matrix products)."
        )
        note = (
            "Steps and parameters are those of a first run in an empty folder; '<=' depends on what the run accepts. "
            "Time (by the processor's clock, so that of an idle machine) and memory are estimates."
        )
        model = f"{len(self.labels)} labels, vocabulary of {self.vocab_size:,}."
        linear, voters = self.heads
        heads = (
            f"{self.voters} voters have {voters:,} weights beside the {self.encoder:,} of the encoder "
            f"({voters / self.encoder:.1%}), {voters - linear:,} more than a linear head."
        )
        lines = [
            total,
            *seed_lines([self]),
            model,
            *([heads] if voters > linear and any(s.kind in ("soft", "hard") for s in self.stages) else []),
            note,
        ]
        return "\n".join([*text_table([head, *rows], right=(2, 3, 4, 5, 6, 7), rule="columns"), "", *lines])


def seed_lines(estimates: Sequence[Estimate]) -> list[str]:
    """What one seed of some runs costs, and all of them; no line where there is one seed of one run."""
    stages = [stage for found in estimates for stage in found.stages]
    of = [stage.id.partition("/")[0].removeprefix("seed-") for stage in stages]
    seeds = list(dict.fromkeys(of))
    if len(seeds) < 2 and len(estimates) < 2:
        return []
    first = [stage for stage, seed in zip(stages, of, strict=True) if seed == seeds[0]]
    runs = f"{len(estimates)} runs, " if len(estimates) > 1 else ""
    parts = [f"--seed {seeds[0]}: {_cost(first)}"] if len(seeds) > 1 else []
    return ["; ".join([*parts, f"{runs}seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}: {_cost(stages)}"]) + "."]


def _cost(stages: Sequence[StageEstimate]) -> str:
    most = "at most " if any(stage.at_most for stage in stages) else ""
    hours, steps = sum(stage.seconds for stage in stages) / 3600, sum(stage.steps for stage in stages)
    return f"{len(stages)} stages, {most}{steps:,} steps, about {hours:,.{2 if hours < 10 else 0}f} h"


def render_estimates(estimates: Mapping[str, Estimate]) -> str:
    """The table of each run under its name, then what all of them cost."""
    if len(estimates) == 1:
        return next(iter(estimates.values())).render()
    parts = [f"{name}\n\n{found.render()}" for name, found in estimates.items()]
    return "\n\n".join([*parts, *seed_lines(list(estimates.values()))])


def time_text(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size_text(count: int) -> str:
    """`850 MiB` or `1.5 GiB`."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def _short(stage_id: str, other: str) -> str:
    """The name of an input without the folders that it shares with the stage."""
    parts, mine = other.split("/"), stage_id.split("/")
    shared = 0
    while shared < min(len(parts), len(mine)) - 1 and parts[shared] == mine[shared]:
        shared += 1
    return "/".join(parts[shared:])
