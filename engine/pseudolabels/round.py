"""One round of self-training on one screen (arXiv 2310.04726 section 3.2), for any trainer.

The soft and the hard stage of a run are the two halves of `self_training_round`, with files in between:
`stages/soft.py` has the student learn the teacher's probabilities, `stages/hard.py` decides and has it learn what was
kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ...kernels import Votes
from .filters import Decision, SourceDecision, decide, source_consistency
from .thresholds import ThresholdChoice, choose_threshold

Side = Literal["source", "target"]
Model = TypeVar("Model")


@dataclass(frozen=True)
class RoundDecision:
    """What a round decides.

    Attributes:
        choice: alpha, with the curve that it was chosen on.
        target: which labels of the unlabelled text are accepted.
        source: which labelled examples stay.
    """

    choice: ThresholdChoice
    target: Decision
    source: SourceDecision


def self_training_round(
    teacher: Model,
    student: Model,
    gold: Tensor,
    *,
    vote: Callable[[Model, Side], Votes],
    learn_soft: Callable[[Model, Tensor], None],
    learn_hard: Callable[[Model, RoundDecision], None],
    rule: str = "second-difference",
) -> RoundDecision:
    """One round: soft labels (Eq. 1), alpha on the source (Eq. 3), unanimous labels (Eq. 4), hard labels (Eq. 2).

    An item is an example of its own; tagging by entity or sentence is `decide(..., unit=...)`.

    Args:
        teacher: of the last round, or fine-tuned on the source in the first.
        student: on the restored encoder, with fresh voters. It is trained in place.
        gold: int64 [K], classes of the labelled source items.
        vote: a model's votes on all items of a side, without dropout.
        learn_soft: trains the student on the target with these probabilities, [items, C].
        learn_hard: trains the student on the source examples that stay and on the accepted target labels.
        rule: for alpha, as `choose_threshold` takes it.

    Returns:
        What was decided; the student is then the teacher of the next round.
    """
    learn_soft(student, vote(teacher, "target").mean_probability)
    source, target = vote(student, "source"), vote(student, "target")
    right, classes = source.label == gold, source.mean_probability.shape[-1]
    choice = choose_threshold(source.min_confidence, right, agree=source.agree, rule=rule, num_classes=classes)
    kept = source_consistency(source, gold, kept=torch.ones_like(gold, dtype=torch.bool))
    decision = RoundDecision(choice, decide(target, choice.alpha), kept)
    learn_hard(student, decision)
    return decision
