"""Masked words learned beside self-training: the two stages of arXiv 2310.04726 as one (its section 7, future work)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...data import JointBatches, MlmBatches, PackedBatch, TaskBatches, TokenStore
from ...data.batches.batch import MASKED
from ...model import Encoder, MaskedLM, TaskModel, load_masked_lm
from ..plan import Stage
from ..recipe.config import RunConfig
from ..stages.context import Context
from ..stages.kind import Addition, Beside, StageRun, Training, largest_batch, register_addition
from ..stages.masked_lm import btf_stores, btf_text, masked_batches, masked_work
from ..training.batch_source import Objective
from ..training.objectives import masked_lm

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


class MaskedWordsBeside(Addition):
    """`selftrain.mlm_weight` times the masked-LM loss on the text of BTF, added to every step of a round.

    The transform and the decoder's bias are those of the base model. They train along, and are dropped with the end of
    the stage: what it leaves is a task model like any other, and the next stage begins with the base model's again.
    """

    key = "mlm"

    def settings(self, config: RunConfig, kind: str) -> dict[str, Any]:
        if kind not in ("soft", "hard") or not config.selftrain.mlm_weight:
            return {}
        names = ("batch_size", "mask_rate", "balance", "temperature", "cap", "sides")
        decides = {name: getattr(config.btf, name) for name in names} | {"weight": config.selftrain.mlm_weight}
        return {"text": "task", self.key: decides}

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        return btf_stores(context, stage)

    def join(self, run: StageRun, training: Training) -> Training:
        context, stage, model = run.context, run.stage, training.model
        assert isinstance(model, TaskModel)
        assert isinstance(training.batches, TaskBatches)
        assert training.objective is not None
        weight = context.config.selftrain.mlm_weight
        masked = load_masked_lm(context.input_folder(stage, "base")).to(context.device)
        masked.encoder = model.encoder
        # As a part of the model its weights train, and are in checkpoints; the encoder's are named there already.
        model.add_module(NAME, masked)
        beside = _batches(run, len(training.batches), model.config.vocab_size)
        return replace(
            training,
            batches=JointBatches(training.batches, beside, weight),
            objective=Joint(training.objective, masked),
            notes=training.notes | {"mlm_weight": weight},
            cleanup=lambda: delattr(model, NAME),
        )

    def work(self, context: Context, stage: Stage, steps: int) -> Beside:
        table, text = context.config.btf, btf_text(context, stage)
        batches = masked_work(text, table, stage.training).batches
        assert isinstance(batches, MlmBatches)
        mean = np.average([corpus.lengths.mean() for corpus in text.corpora], weights=batches.examples_per_epoch)
        return Beside(steps * table.batch_size * float(mean), largest_batch(batches, table.epochs))

    def modules(self, encoder: Encoder) -> list[nn.Module]:
        return [MaskedLM(encoder, seed=None)]


def _batches(run: StageRun, steps: int, vocab_size: int) -> MlmBatches:
    """Masked batches of the text of BTF for so many steps, with the settings of [btf] and draws of their own."""
    context, table = run.context, run.context.config.btf
    text = btf_text(context, run.stage)
    rest = {
        "special": context.special_tokens(vocab_size),
        "mask_id": context.tokenizer.mask_id,
        "seed": run.seed("mlm"),
        "micro_batch": context.processes.micro_batch(run.stage.training.fixed_micro_batch, table.batch_size),
    }
    once = masked_batches(text, table, run.stage.training, epochs=1, **rest)
    return masked_batches(text, table, run.stage.training, epochs=-(-steps // len(once)), **rest)


register_addition(MaskedWordsBeside())
