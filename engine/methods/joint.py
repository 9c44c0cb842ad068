"""Masked words learned beside self-training: the two stages of arXiv 2310.04726 as one (its section 7, future work)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data import JointBatches, MlmBatches, PackedBatch, TaskBatches
from ...data.batches.batch import MASKED
from ...model import MaskedLM, TaskModel, load_masked_lm
from ..plan import Stage
from ..stages.btf_text import btf_text
from ..stages.common import stage_seed
from ..stages.context import Context
from ..stages.fit import Spent
from ..training.batch_source import Objective
from ..training.objectives import masked_lm
from ..training.trace import Trace

NAME = "masked_lm"


@dataclass(frozen=True)
class Joint:
    """The task's loss on its batches, the masked-LM loss on the masked ones; `JointBatches` has the weights of both.

    Attributes:
        masked: a masked LM on the encoder of the model that trains.
    """

    task: Objective
    masked: MaskedLM

    def __call__(self, model: TaskModel, batch: PackedBatch, seed: int | Tensor) -> Tensor:
        return masked_lm(self.masked, batch, seed) if batch.kind == MASKED else self.task(model, batch, seed)


def fit_jointly(
    context: Context,
    stage: Stage,
    fingerprint: Mapping[str, Any],
    model: TaskModel,
    batches: TaskBatches,
    objective: Objective,
    *,
    seed: int,
) -> tuple[Trace, Spent, dict[str, Any]]:
    """`Context.fit`, with `selftrain.mlm_weight` times the masked-LM loss on the text of BTF added to every step.

    The transform and the decoder's bias are those of the base model. They train along, and are dropped with the end of
    the stage: what it leaves is a task model like any other, and the next stage begins with the base model's again.
    """
    weight = context.config.selftrain.mlm_weight
    if not weight:
        return context.fit(stage, fingerprint, model, batches, objective, seed=seed)
    masked = load_masked_lm(context.input_folder(stage, "base")).to(context.device)
    masked.encoder = model.encoder
    # As a part of the model its weights train, and are in checkpoints; those of the encoder are named there already.
    model.add_module(NAME, masked)
    both = JointBatches(batches, masked_batches(context, stage, len(batches), model.config.vocab_size), weight)
    try:
        trace, spent, notes = context.fit(stage, fingerprint, model, both, Joint(objective, masked), seed=seed)
    finally:
        delattr(model, NAME)
    return trace, spent, notes | {"mlm_weight": weight}


def masked_batches(context: Context, stage: Stage, steps: int, vocab_size: int) -> MlmBatches:
    """Masked batches of the text of BTF for so many steps, with the settings of [btf] and draws of their own."""
    table, text = context.config.btf, btf_text(context, stage, context.config.target(stage.target))

    def over(epochs: float) -> MlmBatches:
        return MlmBatches(
            text.corpora,
            special=context.special_tokens(vocab_size),
            mask_id=context.tokenizer.mask_id,
            batch_size=table.batch_size,
            epochs=epochs,
            seed=stage_seed(stage, "mlm"),
            rate=table.mask_rate,
            balance=table.balance,
            temperature=table.temperature,
            counts=text.counts,
            sort=table.order == "sorted",
            micro_batch=context.processes.micro_batch(stage.optimiser.fixed_micro_batch, table.batch_size),
        )

    return over(-(-steps // len(over(1))))
