"""How many stages can be made side by side: by the cores, by the graph, and by the memory that each needs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ... import ConfigError
from ...data import inference_tokens
from ...model import Encoder, MaskedLM, Pooler, TaskModel
from ..plan import Stage
from ..recipe.config import RunConfig
from ..stages.context import Context, freeze
from ..stages.kind import Planned, kind_of, planned
from ..stages.models import encoder_config, new_head
from ..storage.names import FINISHED
from ..storage.run_folder import cores
from ..storage.text import size_text
from ..training.device import choose_device

ADAM_BYTES = 16
"""Bytes of a parameter that trains: weight, gradient and two moments in fp32; a frozen one has 4."""
SCORES = 3
"""Matrices [L, L] beside what was kept, of the longest sequence, in the backward pass of attention in plain torch."""
BASE_BYTES = 450 * 2**20
"""Memory of a process that trains a model of no size: measured with torch 2.13 on Linux."""


def default_jobs(config: RunConfig) -> int:
    """As many processes as there are cores for the recipe's threads; one on a GPU, or where torch takes every core."""
    if choose_device(config.device).type != "cpu" or not config.threads:
        return 1
    return max(1, cores() // config.threads)


def choose_jobs(context: Context, plan: Sequence[Stage], asked: int | None, *, resume: bool) -> int:
    """How many stages a run makes side by side; a number that memory does not allow is lowered with a word.

    Args:
        asked: what the user wants; `default_jobs` when absent, and one under torchrun.

    Raises:
        ConfigError: several are asked for under torchrun.
    """
    if context.processes.size > 1:
        if asked is not None and asked > 1:
            raise ConfigError("--jobs is for a run of one process; torchrun makes a run of several already")
        return 1
    left = [stage for stage in plan if not (resume and (context.folder(stage.id) / FINISHED).exists())]
    jobs = min(asked or default_jobs(context.config), len(left))
    chain = all(before.id in stage.inputs.values() for before, stage in zip(left, left[1:], strict=False))
    if jobs < 2 or chain:  # there is never a choice
        return 1
    free = free_memory()
    if free is None or context.device.type != "cpu":
        return jobs
    # Other seeds need as much as the first one.
    needs = {stage.id.partition("/")[2]: stage for stage in left}
    sizes = {name: stage_memory(context.of_stage(stage), stage) for name, stage in needs.items()}
    largest = sorted((sizes[stage.id.partition("/")[2]] for stage in left), reverse=True)
    fitting = max((number for number in range(1, jobs + 1) if sum(largest[:number]) <= free), default=1)
    if fitting < jobs:
        needed, there = size_text(sum(largest[:jobs])), size_text(free)
        text = f"the largest {jobs} stages need about {needed} of memory together, and {there} are free"
        context.progress.note(f"--jobs {fitting} instead of {jobs}: {text}")
    return fitting


def free_memory() -> int | None:
    """Bytes that new processes can have, by the system and by the limits of the control group; None if unknown."""
    free = list[int]()
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        free.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with contextlib.suppress(OSError, ValueError, KeyError):  # "max" is no number
        group = Path("/sys/fs/cgroup")
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(used["active_file"]) + int(used["inactive_file"])  # of files, which gives way
        limit, current = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free.append(limit - current + cached)
    return min(free, default=None)


def stage_model(context: Context, stage: Stage, device: torch.device | str = "meta") -> nn.Module:
    """A model as a stage trains it, with what is frozen; nothing is allocated on the device "meta", else random."""
    config, shape, kind = context.config, encoder_config(context), kind_of(stage)
    seed = None if device == "meta" else 0
    with torch.device(device):
        encoder = Encoder(shape, seed=seed)
        model: nn.Module
        if kind.masked:
            model = MaskedLM(encoder, seed=seed)
        else:
            head = new_head(config, kind.head(config), encoder, len(context.data.labels), 0)
            pooler = Pooler(shape, seed=seed) if config.pooling == "pooler" else None
            model = TaskModel(encoder, head, config.task, context.data.labels, pooling=config.pooling, pooler=pooler)
    freeze(encoder, stage.training)
    return model


def count_parameters(model: nn.Module, plan: Planned) -> tuple[int, int]:
    """How many parameters of a stage's model train, and how many are frozen."""
    sizes = [(p.numel(), p.requires_grad and plan.steps > 0) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, trains in sizes if not trains)


def stage_memory(context: Context, stage: Stage) -> int:
    """Bytes of a process that makes a stage on a CPU: weights and moments exactly, the largest batch by formula.

    Not measured: it is asked before a run begins, and a step of a large encoder takes longer than that may. And the
    peak of the resident memory does not tell it in a process that has computed before: by it the same steps took
    168 MiB at first, and none after those of a larger model.

    Args:
        context: as the stage's encoder sees the run.
    """
    shape, plan, masked = encoder_config(context), planned(context, stage), kind_of(stage).masked
    trainable, frozen = count_parameters(stage_model(context, stage), plan)
    tokens, length = plan.largest.tokens, plan.largest.longest
    windows = (None,) * shape.num_layers if shape.pre_norm is None else shape.pre_norm.windows
    seen = sum(length if w is None else min(length, 2 * w + 1) for w in windows) / shape.num_layers
    inner = shape.intermediate_size * (1 if shape.pre_norm is None else 1.5)  # with gates it is three matrices, not two
    kept = round(8.5 * shape.hidden_size + 2 * inner + 1.25 * shape.num_heads * seen)  # of a token, by a layer
    lowest = stage.training.freeze_layers if stage.training.freeze_embeddings else 0
    layers = max(1, shape.num_layers - lowest)
    training = 4 * tokens * (kept + shape.hidden_size * layers if stage.training.recompute else kept * layers)
    if None in windows[lowest:]:
        training += 4 * SCORES * length**2
    training += 4 * plan.largest.items * shape.vocab_size * masked
    reading = 0 if masked else 4 * (context.config.inference_tokens or inference_tokens("cpu")) * kept
    return BASE_BYTES + ADAM_BYTES * trainable + 4 * frozen + max(training, reading)
