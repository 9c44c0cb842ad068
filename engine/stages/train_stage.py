"""What is the same for every kind of stage: freeze, lineage, training with checkpoints, what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...model import MaskedLM, TaskModel
from ..training.trace import Trace
from ..training.weight_hashes import tensors_hash
from .context import freeze
from .fit import Fit, Spent
from .kind import StageRun, additions_to, kind_of


@dataclass
class Outcome:
    """What a stage hands to `make_stage`, which saves, scores and seals it.

    Attributes:
        encoder_at_start: hash of the encoder's weights before the first step, for the lineage.
        notes: entries for `stage.json`.
        line: one line for a person.
    """

    model: MaskedLM | TaskModel
    trace: Trace
    spent: Spent
    encoder_at_start: str
    notes: dict[str, Any] = field(default_factory=dict)
    line: str = ""


def train_stage(run: StageRun) -> Outcome:
    """Builds what the stage's kind says and trains it, going on from the newest checkpoint.

    Raises:
        Interrupted: after a checkpoint, when the run was asked to stop.
        XltError: the kind's own; ModelError for a frozen weight that has changed, which is a bug.
    """
    training = kind_of(run.stage).build(run)
    for addition in additions_to(run.stage):
        training = addition.join(run, training)
    freeze(training.model.encoder, run.stage.optimiser)
    start = tensors_hash(dict(training.model.encoder.named_parameters()))
    trace, spent, kept = Trace(), Spent(), dict[str, Any]()
    try:
        if training.batches is not None and training.objective is not None:
            fit = Fit(run, training.model, training.batches, training.objective)
            trace = fit.loop.run(fit.after_step)
            spent, kept = fit.finish()
    finally:
        training.cleanup()
    notes = training.notes | kept | training.after(trace)
    return Outcome(training.model, trace, spent, start, notes, training.line(trace))
