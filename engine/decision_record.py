"""`decision.json`: what a round decided, and what it rests on (docs/summary-schema.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels import Votes
from .config import SelfTrainConfig
from .decisions import Decision, Reason, SourceDecision
from .plan import Stage
from .thresholds import ThresholdChoice

REASONS = {
    Reason.DISAGREE: "voters-disagree",
    Reason.LOW_CONFIDENCE: "below-threshold",
    Reason.SPAN_INCOMPLETE: "entity-incomplete",
    Reason.SENTENCE_INCOMPLETE: "sentence-incomplete",
    Reason.NOT_A_NUMBER: "not-a-number",
}
BINS = 10


def decision_record(
    stage: Stage,
    table: SelfTrainConfig,
    choice: ThresholdChoice,
    labels: tuple[str, ...],
    source_votes: Votes,
    gold: np.ndarray,
    kept: SourceDecision,
    in_play: np.ndarray,
    target_votes: Votes,
    decision: Decision,
    target_items: np.ndarray,
) -> dict[str, Any]:
    """The decision as JSON values.

    Args:
        gold: source label per item, -100 for items that are not judged.
        in_play: bool per source example, kept before this round.
        target_items: bool per target item, part of the pool.
    """
    label, keep = decision.label[target_items], decision.keep[target_items]
    reason = decision.reason[target_items]
    items = np.bincount(label, minlength=len(labels))
    accepted = np.bincount(label[keep], minlength=len(labels))
    curve = choice.as_dict()
    judged = gold >= 0
    predicted = source_votes.mean_probability.argmax(dim=-1).numpy()
    confidence = source_votes.mean_probability.amax(dim=-1).numpy()
    wrong = judged & (predicted != gold)
    removed = in_play & ~kept.keep
    return {
        "round": stage.round,
        "alpha": None if table.target_filter == "none" else choice.alpha,
        "rule": choice.rule,
        "at_edge": choice.at_edge,
        "reason": choice.reason,
        "unit": table.target_filter,
        "curve": curve_columns(curve),
        "target_curve": None,
        "items": int(target_items.sum()),
        "accepted": int(keep.sum()),
        "rejected": {name: int((reason == code).sum()) for code, name in REASONS.items() if (reason == code).any()},
        "classes": {
            name: {"items": int(items[i]), "accepted": int(accepted[i])} for i, name in enumerate(labels)
        },
        "coverage_entity": _ratio(accepted[1:].sum(), items[1:].sum()) if labels[0] == "O" else None,
        "coverage_o": _ratio(accepted[0], items[0]) if labels[0] == "O" else None,
        "precision_if_gold": None,
        "voter_agreement": _ratio(target_votes.agree.numpy()[target_items].sum(), target_items.sum()),
        "calibration": {"source": _calibration(confidence[judged], (predicted == gold)[judged]), "target": None},
        "source": {
            "items": int(in_play.sum()),
            "kept": int(kept.keep.sum()),
            "removed": int(removed.sum()),
            "removed_per_class": {
                name: int(count)
                for name, count in zip(labels, np.bincount(gold[wrong], minlength=len(labels)), strict=True)
                if count
            },
        },
    }


def curve_columns(choice: dict[str, Any]) -> dict[str, Any]:
    """The curve of a threshold choice under the names of the schema."""
    curve = choice["curve"]
    names = ("thresholds", "kept", "accuracy", "coverage", "recall", "second_difference")
    return {name: curve[name] for name in names if name in curve}


def _calibration(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float | int]]:
    place = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    return [
        {
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(right[place == b].mean()),
            "count": int((place == b).sum()),
        }
        for b in range(BINS)
        if (place == b).any()
    ]


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None
