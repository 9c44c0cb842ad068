"""What a label must meet in a round: temperature, alpha, the classes' own alphas, dropout passes, balance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import OUTSIDE, TokenStore
from ..kernels import votes
from .acceptance import choose_accepted
from .calibration import Temperature, fit_temperature
from .class_thresholds import ClassThresholds, class_thresholds
from .config import SelfTrainConfig
from .decisions import Bools, Decision, Reason, SourceDecision, decide
from .diagnostics import Warning
from .diagnostics_options import (
    acceptance_cut,
    dropout_disagreement,
    shared_class_alphas,
    teacher_knows_all,
    temperature_at_bound,
)
from .thresholds import Floats, ThresholdChoice, choose_threshold

if TYPE_CHECKING:
    from .round_decision import Voted


@dataclass(frozen=True)
class Standard:
    """How the labels of a round are judged, in source, target and test alike.

    Attributes:
        choice: alpha and its curve, over all classes.
        temperature: by which all logits are divided before; None where the recipe does not ask for it.
        per_class: the classes' own thresholds; None likewise.
        source_gold: label of every item of the labelled source text, -100 where unknown, for the shares of its classes;
            `source_sentence` is the sentence of each.
        seed: of the draws.
    """

    table: SelfTrainConfig
    labels: tuple[str, ...]
    choice: ThresholdChoice
    temperature: Temperature | None
    per_class: ClassThresholds | None
    source_gold: NDArray[Any]
    source_sentence: NDArray[Any]
    seed: int

    @property
    def alpha(self) -> float | Floats:
        """What confidences must exceed: one number, or one for each predicted class."""
        return self.choice.alpha if self.per_class is None else self.per_class.alpha

    def accept(self, voted: Voted) -> Decision:
        """The decision on the items of a text."""
        table = self.table
        unfiltered = table.target_filter == "none"
        decision = decide(
            voted.votes,
            None if unfiltered else self.alpha,
            unit="item" if unfiltered else table.target_filter,
            sentence_of_item=voted.example,
            labels=self.labels,
            steady=voted.steady,
        )
        if table.accept == "threshold" and table.outside == "all":
            return decision
        return choose_accepted(
            decision,
            voted.votes.min_confidence.numpy(),
            self.labels,
            accept=table.accept,
            outside=table.outside,
            unit=table.target_filter,
            sentence_of_item=voted.example,
            source_gold=self.source_gold,
            source_sentence=self.source_sentence,
            seed=self.seed,
        )


def find_standard(
    table: SelfTrainConfig, labels: tuple[str, ...], judged: Voted, source: TokenStore, *, seed: int
) -> Standard:
    """Everything that is chosen on the labelled items of `judged`, which kept its logits where they are calibrated."""
    temperature = None
    if table.alpha.calibrate == "temperature":
        assert judged.logits is not None
        temperature = fit_temperature(judged.logits.numpy(), judged.gold)
    voted = rescaled(judged, temperature)
    choice = choose_alpha(table, voted, labels)
    per_class = _per_class(table, voted, choice, len(labels)) if table.alpha.per_class else None
    gold = np.asarray(source.item_labels, dtype=np.int64)
    sentence = np.repeat(np.arange(len(source)), _sizes(source))
    return Standard(table, labels, choice, temperature, per_class, gold, sentence, seed)


def _sizes(store: TokenStore) -> NDArray[np.int64]:
    """Items of each example."""
    offsets = np.asarray(store.item_offsets, dtype=np.int64)
    return offsets[1:] - offsets[:-1]


def rescaled(voted: Voted, temperature: Temperature | None) -> Voted:
    """The votes with all logits divided by a temperature; themselves without one."""
    if temperature is None:
        return voted
    assert voted.logits is not None
    return replace(voted, votes=votes(voted.logits / temperature.value))


def choose_alpha(table: SelfTrainConfig, judged: Voted, labels: Sequence[str]) -> ThresholdChoice:
    """Alpha by the recipe's rule from the labelled items of `judged`."""
    known = judged.gold >= 0
    if table.alpha.items == "entities":
        known &= judged.votes.label.numpy() != labels.index(OUTSIDE)
    keep = torch.from_numpy(known)
    return choose_threshold(
        judged.votes.min_confidence[keep],
        judged.votes.label[keep] == torch.from_numpy(judged.gold[known]),
        rule=table.alpha.rule,
        num_classes=len(labels),
        step=table.alpha.step,
        upper=table.alpha.upper,
        min_kept=max(table.alpha.min_kept, math.ceil(table.alpha.min_share * known.sum())),
        agree=judged.votes.agree[keep],
    )


def _per_class(table: SelfTrainConfig, judged: Voted, choice: ThresholdChoice, num_classes: int) -> ClassThresholds:
    known = judged.gold >= 0
    label = judged.votes.label.numpy()[known]
    return class_thresholds(
        judged.votes.min_confidence.numpy()[known],
        label,
        label == judged.gold[known],
        choice,
        num_classes=num_classes,
        min_kept=table.alpha.min_kept,
        agree=judged.votes.agree.numpy()[known],
    )


def options_record(
    standard: Standard, decision: Decision, kept: SourceDecision, doubted: Bools | None
) -> dict[str, Any]:
    """What the options beyond the paper did in a round, as `decision.json` has it; empty where none is on."""
    table, found = standard.table, {}
    by_reason = decision.reasons()

    def count(reason: Reason) -> int:
        return by_reason.get(reason.name.lower(), 0)

    if standard.temperature is not None:
        found["calibrate"] = standard.temperature.as_dict()
    if standard.per_class is not None:
        found["per_class"] = standard.per_class.as_dict(standard.labels)
    if table.consistency:
        found["consistency"] = {"passes": table.consistency, "dropped": count(Reason.INCONSISTENT)}
    if table.accept != "threshold":
        found["accept"] = {
            "rule": table.accept,
            "dropped": count(Reason.OVER_QUOTA),
            "per_class": _dropped(standard, decision),
        }
    if table.outside != "all":
        found["outside"] = {"rule": table.outside, "dropped": count(Reason.OUTSIDE_RATIO)}
    if table.source_filter == "agreed" and doubted is not None:
        reasons = kept.reasons()
        found["source_filter"] = {
            "contradicted_and_doubted": reasons.get("contradicted", 0),
            "contradicted_only": reasons.get("teacher_confirms", 0),
            "doubted_items": int(doubted.sum()),
            "items": int(doubted.size),
        }
    return found


def _dropped(standard: Standard, decision: Decision) -> dict[str, int]:
    over = decision.label[decision.reason == Reason.OVER_QUOTA]
    counts = np.bincount(over, minlength=len(standard.labels)).tolist()
    return {name: count for name, count in zip(standard.labels, counts, strict=True) if count}


def options_warnings(options: dict[str, Any], accepted: int, labels: Sequence[str]) -> list[Warning | None]:
    """What is odd about what the options did; `accepted` is what they left."""
    found: list[Warning | None] = []
    if "calibrate" in options:
        found.append(temperature_at_bound(options["calibrate"]["value"], options["calibrate"]["at_bound"]))
    if "per_class" in options:
        shared = [name for name in labels if not options["per_class"][name]["own"]]
        found.append(shared_class_alphas(shared, len(labels)))
    if "consistency" in options:
        found.append(dropout_disagreement(options["consistency"]["dropped"], accepted))
    for key in ("accept", "outside"):
        if key in options:
            found.append(acceptance_cut(f"{key} = {options[key]['rule']}", options[key]["dropped"], accepted))
    if "source_filter" in options:
        found.append(teacher_knows_all(options["source_filter"]["doubted_items"], options["source_filter"]["items"]))
    return found
