"""How many stages can be made side by side: by the cores, by the graph, and by the memory that each needs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ... import ConfigError
from ...data import BatchSize, inference_tokens
from ...model import Encoder, EncoderConfig, MaskedLM, Pooler, TaskModel, load_encoder_config
from ..plan import Stage
from ..recipe.config import RunConfig
from ..stages.context import Context, freeze
from ..stages.kind import Work, kind_of, largest_batch
from ..stages.models import new_encoder_config, new_head
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
    if jobs < 2 or _is_a_chain(left):
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


def _is_a_chain(stages: Sequence[Stage]) -> bool:
    """Whether each stage needs the one before it, so that there is never a choice."""
    return all(before.id in stage.inputs.values() for before, stage in zip(stages, stages[1:], strict=False))


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


def encoder_config(context: Context) -> EncoderConfig:
    """The shape of the encoder that every stage trains."""
    model = context.config.model
    if model.path is not None:
        return load_encoder_config(model.path)
    return new_encoder_config(context.config, context.tokenizer)


def count_parameters(context: Context, stage: Stage) -> tuple[int, int]:
    """How many parameters of a stage's model train, and how many are frozen; nothing is allocated."""
    config, shape = context.config, encoder_config(context)
    with torch.device("meta"):
        encoder = Encoder(shape, seed=None)
        model: nn.Module
        if kind_of(stage).masked:
            model = MaskedLM(encoder, seed=None)
        else:
            head = new_head(config, kind_of(stage).head(config), encoder, len(context.data.labels), 0)
            pooler = Pooler(shape, seed=None) if config.pooling == "pooler" else None
            model = TaskModel(encoder, head, config.task, context.data.labels, pooling=config.pooling, pooler=pooler)
    freeze(encoder, stage.training)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, trains in sizes if not trains)


def stage_memory(context: Context, stage: Stage, shape: EncoderConfig | None = None, work: Work | None = None) -> int:
    """Bytes that a process takes that makes a stage, as an estimate: weights, moments and the largest batch.

    Args:
        context: as the stage's encoder sees the run.
        shape, work: what `encoder_config` and the kind say, where that is known.
    """
    shape, work = shape or encoder_config(context), work or kind_of(stage).work(context, stage)
    trainable, frozen = count_parameters(context, stage)
    if work.batches is None or not len(work.batches):
        trainable, frozen = 0, trainable + frozen
    largest = largest_batch(work.batches, stage.training.epochs)
    memory = BASE_BYTES + ADAM_BYTES * trainable + 4 * frozen
    return memory + _activations(context, shape, stage, largest, kind_of(stage).masked)


def seen_tokens(shape: EncoderConfig, length: float) -> float:
    """Tokens that a token of a sequence of this length attends to, over the layers."""
    return sum(length if w is None else min(length, 2 * w + 1) for w in _windows(shape)) / shape.num_layers


def _windows(shape: EncoderConfig) -> Sequence[int | None]:
    return (None,) * shape.num_layers if shape.pre_norm is None else shape.pre_norm.windows


def _activations(context: Context, shape: EncoderConfig, stage: Stage, largest: BatchSize, mlm: bool) -> int:
    """Bytes of the largest batch: what the layers that train keep, in fp32, and the widest temporary."""
    tokens, length = largest.tokens, largest.longest
    inner = shape.intermediate_size * (1 if shape.pre_norm is None else 1.5)
    kept = round(8.5 * shape.hidden_size + 2 * inner + 1.25 * shape.num_heads * seen_tokens(shape, length))
    lowest = stage.training.freeze_layers if stage.training.freeze_embeddings else 0
    layers = max(1, shape.num_layers - lowest)
    training = 4 * tokens * (kept + shape.hidden_size * layers if stage.training.recompute else kept * layers)
    if None in _windows(shape)[lowest:] and context.device.type == "cpu":
        training += 4 * SCORES * length**2
    if mlm:
        training += 4 * largest.items * shape.vocab_size
    reading = 0 if mlm else 4 * (context.config.inference_tokens or inference_tokens(context.device.type)) * kept
    return max(training, reading)
