"""What a run will cost, before it starts: steps, parameters, memory and time of every stage.

Steps and parameters are exact where the text does not depend on what the run finds. Time and memory are estimates: the
time counts floating point operations and divides them by the speed of one matrix product of the encoder's own shape,
measured here for a second, on a CPU in seconds of the processor: other processes slow a run down, and not its estimate.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...data import BatchSize, inference_tokens
from ...model import Encoder, EncoderConfig, MaskedLM, Pooler, TaskModel, load_encoder_config
from ..plan import Stage
from ..recipe.load import Resolved, load_recipe, variants
from ..runs.graph import chosen_stages
from ..runs.prepare import make_context
from ..runs.synthetic_data import settled
from ..stages.context import Context, freeze
from ..stages.kind import kind_of, largest_batch, read_tokens
from ..stages.models import new_encoder_config, new_head
from ..storage.run_folder import RunDir
from ..training.precision import DTYPES
from ..training.progress import Progress
from .estimate_report import Estimate, StageEstimate

EFFICIENCY = {"cpu": 0.6, "cuda": 0.4}
"""Speed of a whole step relative to one large matrix product; the rest goes into softmax, LayerNorm and dropout."""
STEP_SECONDS = 0.012
"""Time of a step that does not depend on its size: some hundred small calls on the host."""
TICK = 0.01
"""Seconds that a measurement takes at least: the clock of a process may stand still for some milliseconds."""
NOTHING = BatchSize(0, 0, 0, 0)
STAGE_SECONDS = 1.5
"""What a stage takes however little it trains: weights are read, written and hashed, and predictions scored."""
ADAM_BYTES = 16
"""Bytes of a parameter that trains: weight, gradient and two moments in fp32; a frozen one has 4."""
SCORES = 3
"""Matrices [L, L] beside what was kept, of the longest sequence, in the backward pass of attention in plain torch."""
BASE_BYTES = 450 * 2**20
"""Memory of a process that trains a model of no size: measured with torch 2.13 on Linux."""


def estimate_all(
    recipe: str | Path | None = None, *, overrides: Sequence[str] = (), rate: float | None = None, **options: Any
) -> dict[str, Estimate]:
    """The cost of each run that a recipe stands for, by its name, as of `estimate`; one speed is measured for all."""
    estimates: dict[str, Estimate] = {}
    for name, chosen in variants(recipe, overrides):
        estimates[name] = estimate(recipe, overrides=chosen, rate=rate, **options)
        rate = estimates[name].rate
    return estimates


def estimate(
    recipe: Resolved | str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    stage: str = "all",
    targets: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    rate: float | None = None,
) -> Estimate:
    """The cost of a run. Reads all data and trains the vocabulary, if there is one to train, in a temporary folder.

    Args:
        recipe, overrides, stage, targets, seeds: as `run` takes them.
        rate: floating point operations per second; measured when absent.

    Raises:
        XltError: as `run`, for everything that is wrong before the first step.
    """
    resolved = recipe if isinstance(recipe, Resolved) else load_recipe(recipe, overrides)
    with tempfile.TemporaryDirectory(prefix="xlt-") as folder:
        home = RunDir(folder)
        config = settled(resolved.config, home.path)
        context = make_context(config, home, Progress())
        chosen = config.seeds if seeds is None else tuple(seeds)
        return estimate_plan(context, chosen_stages(config, chosen, stage, targets), rate=rate)


def estimate_plan(context: Context, plan: Sequence[Stage], *, rate: float | None = None) -> Estimate:
    """The cost of some stages, from the stores of a context.

    Raises:
        XltError: the data or the settings do not allow a stage to run.
    """
    shape = encoder_config(context)
    if rate is None:
        rate = measure_rate(shape, context.device, context.config.precision)
    return Estimate(
        tuple(_stage(context, shape, stage, rate) for stage in plan),
        rate,
        str(context.device),
        context.config.precision,
        torch.get_num_threads(),
        context.data.labels,
        shape.vocab_size,
    )


def encoder_config(context: Context) -> EncoderConfig:
    """The shape of the encoder that every stage trains."""
    model = context.config.model
    if model.path is not None:
        return load_encoder_config(model.path)
    return new_encoder_config(context.config, context.tokenizer)


def measure_rate(shape: EncoderConfig, device: torch.device, precision: str = "fp32", seconds: float = 1.0) -> float:
    """Floating point operations per second of the feed-forward product of an encoder: 1024 tokens at a time.

    On the CPU by the time that the processor gave to this process, shared among its threads: what an idle machine would
    do, whatever else runs here meanwhile. Nothing else of the process may compute.
    """
    dtype = DTYPES[precision]
    left = torch.ones(1024, shape.hidden_size, device=device, dtype=dtype)
    right = torch.ones(shape.hidden_size, shape.intermediate_size, device=device, dtype=dtype)

    def now() -> float:
        if device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    with torch.inference_mode():
        left @ right
        end, best, count, started = now() + seconds, float("inf"), 0, now()
        while started < end or best == float("inf"):
            for _ in range(4):
                left @ right
            count += 4
            if (spent := now() - started) >= TICK:
                best, count, started = min(best, spent / count), 0, now()
    return 2.0 * left.numel() * right.shape[1] / best


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


def _stage(context: Context, shape: EncoderConfig, stage: Stage, rate: float) -> StageEstimate:
    if (context_of_stage := context.of_stage(stage)) is not context:
        context, shape = context_of_stage, encoder_config(context_of_stage)
    trainable, frozen = count_parameters(context, stage)
    work, mlm = kind_of(stage).work(context, stage), kind_of(stage).masked
    passes = stage.training.passes
    steps = 0 if work.batches is None else passes * len(work.batches)
    if not steps:
        trainable, frozen = 0, trainable + frozen
    tokens = work.tokens(stage.training.batch_size)
    length = tokens / max(1.0, work.epochs(stage.training.batch_size) * sum(work.per_epoch))
    train_flops = passes * tokens * _flops(shape, stage, length, mlm, context, backward=True)
    read = sum(read_tokens(context, stage))
    flops = train_flops + read * _flops(shape, stage, length, False, context, backward=False)
    seconds = flops / (rate * EFFICIENCY[context.device.type]) + steps * STEP_SECONDS + STAGE_SECONDS
    memory = BASE_BYTES + ADAM_BYTES * trainable + 4 * frozen
    memory += _activations(context, shape, stage, largest_batch(work.batches, stage.training.epochs), mlm)
    return StageEstimate(
        stage.id,
        stage.kind,
        dict(stage.inputs),
        steps,
        work.at_most,
        round(passes * tokens),
        read,
        trainable,
        frozen,
        flops,
        seconds,
        memory,
    )


def _flops(shape: EncoderConfig, stage: Stage, length: float, mlm: bool, context: Context, *, backward: bool) -> float:
    """Operations per token; a layer's backward pass costs two forward passes, without a weight gradient one."""
    hidden = shape.hidden_size
    # Projections, feed-forward, and scores and mixing of attention over the sequence (2 operations a weight).
    inner = shape.intermediate_size * (1 if shape.pre_norm is None else 1.5)  # with gates it is three matrices, not two
    layer = 8 * hidden**2 + 4 * hidden * inner + 4 * hidden * _seen(shape, length)
    forward = layer * shape.num_layers
    lowest = stage.training.freeze_layers if stage.training.freeze_embeddings else 0
    through = shape.num_layers - lowest
    training = shape.num_layers - stage.training.freeze_layers
    total = forward + (layer * (through + training) if backward else 0.0)
    if mlm:
        table = context.config.pretrain if stage.kind == "pretrain" else context.config.btf
        decoder = 2 * hidden * shape.vocab_size
        factor = 3 if not table.freeze_embeddings else 2
        total += table.mask_rate * (6 * hidden**2 + factor * decoder)
    elif stage.kind in ("soft", "hard"):
        widths = context.config.selftrain.voters * hidden * 5 // 6
        total += 4 * hidden * widths * (3 if backward else 1)
    return total


def _seen(shape: EncoderConfig, length: float) -> float:
    """Tokens that a token of a sequence of this length attends to, over the layers."""
    return sum(length if w is None else min(length, 2 * w + 1) for w in _windows(shape)) / shape.num_layers


def _windows(shape: EncoderConfig) -> Sequence[int | None]:
    return (None,) * shape.num_layers if shape.pre_norm is None else shape.pre_norm.windows


def _activations(context: Context, shape: EncoderConfig, stage: Stage, largest: BatchSize, mlm: bool) -> int:
    """Bytes of the largest batch: what the layers that train keep, in fp32, and the widest temporary."""
    tokens, length = largest.tokens, largest.longest
    inner = shape.intermediate_size * (1 if shape.pre_norm is None else 1.5)
    kept = round(8.5 * shape.hidden_size + 2 * inner + 1.25 * shape.num_heads * _seen(shape, length))
    lowest = stage.training.freeze_layers if stage.training.freeze_embeddings else 0
    layers = max(1, shape.num_layers - lowest)
    training = 4 * tokens * (kept + shape.hidden_size * layers if stage.training.recompute else kept * layers)
    if None in _windows(shape)[lowest:] and context.device.type == "cpu":
        training += 4 * SCORES * length**2
    if mlm:
        training += 4 * largest.items * shape.vocab_size
    reading = 0 if mlm else 4 * (context.config.inference_tokens or inference_tokens(context.device.type)) * kept
    return max(training, reading)
