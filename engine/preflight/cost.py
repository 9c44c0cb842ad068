"""What a run will cost, before it starts: steps, parameters, memory and time of every stage.

Steps and parameters are exact where the text does not depend on what the run finds. Time, and memory on a GPU, come
from a few steps of a model of each kind of stage, made here with random weights, on the run's device and in its
precision: a small batch and a larger one tell what a step takes by itself and what a token adds. On a CPU it is time of
the processor: other processes slow a run down, and not its estimate; memory is `runs.jobs.stage_memory`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...data import PackedBatch
from ...data.batches.batch import cut
from ..bench.harness import timed
from ..plan import Stage
from ..recipe.load import Resolved, load_recipe
from ..runs.graph import chosen_stages
from ..runs.jobs import count_parameters, stage_memory, stage_model
from ..runs.prepare import make_context
from ..runs.synthetic_data import settled
from ..stages.context import Context
from ..stages.kind import Planned, kind_of, planned, read_tokens
from ..stages.models import encoder_config
from ..storage.run_folder import RunDir
from ..storage.text import size_text, text_table, time_text
from ..training.loop import Loop
from ..training.objectives import cross_entropy, masked_lm
from ..training.progress import Progress


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


STAGE_SECONDS = 1.5
"""What a stage takes however little it trains: weights are read, written and hashed, and predictions scored."""
SMALL, LARGE, GPU = 128, 1024, 1 << 20
"""Tokens of the two batches that are timed, and of the larger one on a GPU: there all of the stage's largest."""
PATIENCE = 2.0
"""Seconds after which steps are not timed again."""


class Pace(NamedTuple):
    """What was measured of a kind of stage: seconds of a step without tokens, of a token, and of one that is read."""

    step: float
    token: float
    read: float
    memory: int | None = None


Paces = dict[tuple[Any, ...], Pace]
"""By all that tells models and steps apart."""


def estimate(
    recipe: Resolved | str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    stage: str = "all",
    targets: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    rate: float | None = None,
    paces: Paces | None = None,
) -> Estimate:
    """The cost of a run. Reads all data and trains the vocabulary, if there is one to train, in a temporary folder.

    Args:
        recipe: with `overrides`, `stage`, `targets` and `seeds`, as `run` takes them.
        rate: tokens a second, in training as in reading; measured when absent.
        paces: what was measured before; what is measured now is added.

    Raises:
        XltError: as `run`, for everything that is wrong before the first step.
    """
    resolved = recipe if isinstance(recipe, Resolved) else load_recipe(recipe, overrides)
    with tempfile.TemporaryDirectory(prefix="xlt-") as folder:
        home = RunDir(folder)
        config = settled(resolved.config, home.path)
        context = make_context(config, home, Progress())
        chosen = config.seeds if seeds is None else tuple(seeds)
        return estimate_plan(context, chosen_stages(config, chosen, stage, targets), rate=rate, paces=paces)


def estimate_plan(
    context: Context, plan: Sequence[Stage], *, rate: float | None = None, paces: Paces | None = None
) -> Estimate:
    """The cost of some stages, from the stores of a context; `rate` and `paces` as of `estimate`.

    Raises:
        XltError: the data or the settings do not allow a stage to run.
    """
    paces, training = {} if paces is None else paces, 0.0
    stages = []
    for stage in plan:
        of_stage = context.of_stage(stage)
        expected = planned(of_stage, stage)
        trainable, frozen = count_parameters(stage_model(of_stage, stage), expected)
        read = sum(read_tokens(of_stage, stage))
        pace = Pace(0.0, 1 / rate, 1 / rate) if rate else _pace(of_stage, stage, expected, (trainable, frozen), paces)
        seconds = expected.steps * pace.step + expected.tokens * pace.token
        training += seconds
        stages.append(
            StageEstimate(
                stage.id,
                stage.kind,
                dict(stage.inputs),
                expected.steps,
                kind_of(stage).at_most(of_stage, stage),
                expected.tokens,
                read,
                trainable,
                frozen,
                seconds + read * pace.read + STAGE_SECONDS,
                pace.memory or stage_memory(of_stage, stage),
            )
        )
    return Estimate(
        tuple(stages),
        sum(stage.tokens for stage in stages) / training if training else 0.0,
        str(context.device),
        context.config.precision,
        torch.get_num_threads(),
        context.data.labels,
        encoder_config(context).vocab_size,
    )


def _pace(context: Context, stage: Stage, plan: Planned, counts: tuple[int, int], paces: Paces) -> Pace:
    """Of the stage's kind of model and batches; measured once for all stages that have the same."""
    table, kind = stage.training, kind_of(stage)
    form = (repr(encoder_config(context)), kind.masked, kind.head(context.config), counts, str(context.device))
    key = (*form, context.config.precision, table.batch_size, table.fixed_micro_batch, table.recompute)
    if key not in paces:
        paces[key] = Pace(0.0, 0.0, 0.0) if plan.batches is None else _measure(context, stage, plan)
    return paces[key]


def _measure(context: Context, stage: Stage, plan: Planned) -> Pace:
    assert plan.batches is not None
    device, masked = context.device, kind_of(stage).masked
    cuda = device.type == "cuda"
    whole = max(plan.batches[plan.at], key=lambda batch: batch.num_tokens)
    if not masked:  # the labels are still to come
        labels = torch.zeros(len(whole.item_index), dtype=torch.int64)
        whole = replace(whole, labels=labels, soft_targets=None, weights=None, num_targets=len(labels))
    small, large = (_cut(whole, limit) for limit in (SMALL, GPU if cuda else LARGE))
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    steps = [[large], [small]] * 3
    objective: Any = masked_lm if masked else cross_entropy
    model, precision = stage_model(context, stage, device), context.config.precision
    loop = Loop(model, steps, objective, optimizer=stage.training, seed=0, precision=precision)
    try:
        seconds = [_seconds(loop.advance, context)]
        while loop.step < len(steps) and (sum(seconds) < PATIENCE or loop.step < 2):
            seconds.append(_seconds(loop.advance, context))
        memory = torch.cuda.max_memory_allocated(device) - before if cuda else None
        with torch.inference_mode():
            read = 0.0 if masked else min(_seconds(lambda: loop.model(large.to(device)), context) for _ in range(2))
    finally:
        loop.close()
    of_large, of_small = min(seconds[2::2], default=seconds[0]), min(seconds[1::2])
    more = large.num_tokens - small.num_tokens
    token = max(0.0, of_large - of_small) / more if more else of_large / large.num_tokens
    return Pace(max(0.0, of_large - token * large.num_tokens), token, read / large.num_tokens, memory)


def _cut(batch: PackedBatch, tokens: int) -> PackedBatch:
    """The first sequences, some of which have a target, up to about so many tokens."""
    count = max(1, int((batch.cu_seqlens <= tokens).sum()) - 1)
    parts = cut(batch, count)
    return parts[0] if parts[0].num_targets else batch


def _seconds(call: Any, context: Context) -> float:
    """Of the processor, by thread, on a CPU; else by the clock on the wall."""
    cpu, wall = timed(call, context.device)
    return cpu / torch.get_num_threads() if context.device.type == "cpu" else wall
