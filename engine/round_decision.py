"""The decision of a round: alpha from the source, then which labels stay in both languages, stored with reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import ModelError
from ..data import OUTSIDE, ItemView, TokenStore
from ..kernels import Votes, votes
from ..model import TaskModel
from .config import SelfTrainConfig
from .consistency import steady_labels
from .context import FINISHED, Context
from .datasets import capped
from .decisions import Bools, Decision, Reason, SourceDecision, doubts, source_consistency
from .diagnostics import (
    alpha_at_edge,
    class_collapse,
    class_shift,
    falling_acceptance,
    few_accepted_entities,
    heavy_source_drop,
    low_agreement,
    require_accepted,
)
from .distributed import World
from .files import read_json
from .inference import Poll, predict_logits
from .plan import Stage
from .quality import PseudoLabelQuality, calibration_bins, pseudo_label_quality
from .round_standard import Standard, choose_alpha, find_standard, options_record, options_warnings, rescaled
from .stages import stage_seed
from .thresholds import ThresholdChoice

REASONS = {
    Reason.DISAGREE: "voters-disagree",
    Reason.LOW_CONFIDENCE: "below-threshold",
    Reason.SPAN_INCOMPLETE: "entity-incomplete",
    Reason.SENTENCE_INCOMPLETE: "sentence-incomplete",
    Reason.NOT_A_NUMBER: "not-a-number",
    Reason.OVER_QUOTA: "above-class-share",
    Reason.OUTSIDE_RATIO: "outside-drawn-down",
    Reason.INCONSISTENT: "dropout-disagrees",
}
IGNORE = -100


@dataclass(frozen=True)
class Pool:
    """The examples that are still in: of the target text, and of the labelled source."""

    target: np.ndarray
    source: np.ndarray


@dataclass(frozen=True)
class Voted:
    """Votes on the items of some examples of a store.

    Attributes:
        items: int64 [K], where these items lie on the store's item axis.
        example: int64 [K], the example of each.
        gold: int64 [K], -100 where unknown.
        logits: [M, K, C], where they were asked for.
        steady: bool [K], whether passes with dropout give the same label; None where there are none.
    """

    store: TokenStore
    items: np.ndarray
    example: np.ndarray
    gold: np.ndarray
    votes: Votes
    logits: torch.Tensor | None = None
    steady: np.ndarray | None = None

    def of(self, examples: np.ndarray) -> Voted:
        """The votes on the items of some examples, bool [N]."""
        mask = examples[self.example]
        keep = torch.from_numpy(mask)
        parts = {name: getattr(self.votes, name)[keep] for name in self.votes._fields[:4]}
        return replace(
            self,
            items=self.items[mask],
            example=self.example[mask],
            gold=self.gold[mask],
            votes=self.votes._replace(**parts),
            logits=None if self.logits is None else self.logits[:, keep],
            steady=None if self.steady is None else self.steady[mask],
        )

    def spread(self, values: np.ndarray, fill: int) -> np.ndarray:
        """`values` [K] on the whole item axis of the store, `fill` elsewhere."""
        whole = np.full(int(self.store.item_offsets[-1]), fill, dtype=values.dtype)
        whole[self.items] = values
        return whole


@dataclass(frozen=True)
class RoundDecision:
    """What a hard stage trains on (`arrays`, one entry per item or example) and why (`record`, `decision.json`)."""

    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


def vote(
    model: TaskModel,
    store: TokenStore,
    examples: np.ndarray | None = None,
    *,
    precision: str = "fp32",
    poll: Poll = lambda: None,
    world: World | None = None,
    tokens: int = 0,
    keep_logits: bool = False,
    seed: int | None = None,
) -> Voted:
    """The votes of a model on some examples, or on all; with a seed under dropout."""
    chosen = np.zeros(len(store), dtype=bool)
    chosen[slice(None) if examples is None else examples] = True
    offsets = np.asarray(store.item_offsets, dtype=np.int64)
    example = np.repeat(np.arange(len(store)), offsets[1:] - offsets[:-1])
    items = np.flatnonzero(chosen[example])
    view = ItemView(store)
    logits = predict_logits(
        model, view, np.flatnonzero(chosen), precision=precision, poll=poll, world=world, tokens=tokens, seed=seed
    )
    gold = np.asarray(store.item_labels, dtype=np.int64)[items]
    chosen_logits = logits[:, torch.from_numpy(items)]
    found = Voted(store, items, example[items], gold, votes(chosen_logits))
    return replace(found, logits=chosen_logits) if keep_logits else found


def load_pool(context: Context, stage: Stage) -> Pool:
    """What the last hard stage left: source examples leave for good, target ones only where the recipe says so."""
    from safetensors.numpy import load_file

    data, config = context.data, context.config
    target = config.target(stage.target)
    if "previous" in stage.inputs:
        saved = load_file(context.folder(stage.inputs["previous"]) / "decision.safetensors")
        return Pool(np.flatnonzero(saved["target.pool"]), np.flatnonzero(saved["source.keep"]))
    chosen = capped(len(data.target_pool(target)), config.selftrain.cap, stage.seed, target.language)
    return Pool(chosen, np.arange(len(data.source_train)))


def decide_round(context: Context, stage: Stage, labeller: TaskModel) -> RoundDecision:
    """Chooses alpha on the labelled source, then filters both languages.

    Raises:
        DataError: not one pseudo-label was accepted; the message has a histogram of the confidences.
    """
    data, table = context.data, context.config.selftrain
    pool, target = load_pool(context, stage), context.config.target(stage.target)
    context.progress.note(
        f"{stage.id}: votes on {len(data.source_train)} source and {len(pool.target)} target examples"
    )
    voting: Callable[..., Voted] = partial(vote, **context.passes)
    ballot = partial(voting, labeller, keep_logits=table.alpha.calibrate != "none")
    in_play = np.zeros(len(data.source_train), dtype=bool)
    in_play[pool.source] = True
    curves = {"all": ballot(data.source_train)}
    curves["kept"] = curves["all"].of(in_play)
    if context.config.has_dev:
        curves["dev"] = ballot(data.source_dev)
    unlabelled = ballot(data.target_pool(target), pool.target)
    seed = stage_seed(stage, "accept")
    standard = find_standard(table, data.labels, curves[table.alpha.data], data.source_train, seed=seed)
    curves = {name: rescaled(voted, standard.temperature) for name, voted in curves.items()}
    source, judged = curves["kept"], curves[table.alpha.data]

    def ready(voted: Voted, examples: np.ndarray | None = None) -> Voted:
        voted = rescaled(voted, standard.temperature)
        if not table.consistency:
            return voted

        def disturbed(number: int) -> torch.Tensor:
            return voting(labeller, voted.store, examples, seed=number).votes.mean_probability

        steady = steady_labels(voted.votes.label, disturbed, passes=table.consistency, seed=seed)
        return replace(voted, steady=steady)

    unlabelled = ready(unlabelled, pool.target)
    decision = standard.accept(unlabelled)
    doubted = None
    if table.source_filter == "agreed":
        opinion = voting(context.load_task_model(stage, "first"), data.source_train, pool.source)
        doubted = doubts(opinion.votes, source.gold, standard.choice.alpha)
    kept = _filter_source(standard, source, in_play, doubted)
    alpha = None if table.target_filter == "none" else standard.choice.alpha
    seen = unlabelled.votes
    require_accepted(int(decision.keep.sum()), seen.min_confidence, seen.agree, alpha=alpha, where=stage.id)
    record = _record(stage, table, data.labels, standard.choice, source, kept, in_play, unlabelled, decision)
    record["alphas"] = {name: choose_alpha(table, voted, data.labels).alpha for name, voted in curves.items()}
    if options := options_record(standard, decision, kept, doubted):
        record["options"] = options
        context.warn(*options_warnings(options, record["accepted"], data.labels))
    if target.test is not None:
        test = ready(ballot(data.scored(target.test, target.language)))
        record |= _with_gold(standard, test, record)
    _warn(context, stage, standard.choice, record, kept, in_play, source, unlabelled)
    return RoundDecision(_arrays(table, pool, unlabelled, decision, kept) | _judged(judged), record)


def _filter_source(standard: Standard, source: Voted, in_play: np.ndarray, doubted: Bools | None) -> SourceDecision:
    return source_consistency(
        source.votes,
        source.gold,
        kept=in_play,
        example_of_item=source.example,
        rule=standard.table.source_filter,
        alpha=standard.alpha,
        labels=standard.labels,
        doubted=doubted,
    )


def _record(
    stage: Stage,
    table: SelfTrainConfig,
    labels: tuple[str, ...],
    choice: ThresholdChoice,
    source: Voted,
    kept: SourceDecision,
    in_play: np.ndarray,
    target: Voted,
    decision: Decision,
) -> dict[str, Any]:
    """The decision as JSON values (docs/summary-schema.md)."""
    quality = pseudo_label_quality(target.votes, decision, labels, thresholds=choice.curve.thresholds)
    predicted = source.votes.mean_probability.argmax(dim=-1).numpy()
    known = source.gold >= 0
    wrong = source.gold[known & (predicted != source.gold)]
    removed = np.bincount(wrong, minlength=len(labels))
    confidence = source.votes.mean_probability.amax(dim=-1).numpy()
    return {
        "round": stage.round,
        "alpha": None if table.target_filter == "none" else choice.alpha,
        "rule": choice.rule,
        "at_edge": choice.at_edge,
        "reason": choice.reason,
        "unit": table.target_filter,
        "curve": _curve(choice),
        "items": quality.overall.predicted,
        "accepted": quality.overall.accepted,
        "rejected": {REASONS[c]: quality.reasons[c.name.lower()] for c in REASONS if c.name.lower() in quality.reasons},
        "classes": {n: {"items": a.predicted, "accepted": a.accepted} for n, a in quality.per_class.items()},
        "by_threshold": quality.by_threshold,
        "coverage_entity": None if quality.entity is None else quality.entity.coverage,
        "coverage_o": None if quality.outside is None else quality.outside.coverage,
        "voter_agreement": float(target.votes.agree.float().mean()),
        "target_curve": None,
        "precision_if_gold": None,
        "calibration": {
            "source": calibration_bins(confidence[known], (predicted == source.gold)[known]),
            "target": None,
        },
        "source": {
            "items": int(in_play.sum()),
            "kept": int(kept.keep.sum()),
            "removed": int((in_play & ~kept.keep).sum()),
            "removed_per_class": {labels[i]: int(n) for i, n in enumerate(removed) if n},
            "guarded": int((kept.reason == Reason.KEPT_FOR_CLASS).sum()),
            "guarded_per_class": kept.guarded,
        },
    }


def _with_gold(standard: Standard, test: Voted, record: dict[str, Any]) -> dict[str, Any]:
    """The same rule on the target's labelled test file: for looking at, nothing reads it back."""
    quality: PseudoLabelQuality = pseudo_label_quality(
        test.votes,
        standard.accept(test),
        standard.labels,
        gold=test.gold,
        thresholds=standard.choice.curve.thresholds,
    )
    confidence = test.votes.mean_probability.amax(dim=-1).numpy()
    predicted = test.votes.mean_probability.argmax(dim=-1).numpy()
    known = test.gold >= 0
    bins = calibration_bins(confidence[known], (predicted == test.gold)[known])
    return {
        "target_curve": _curve(choose_alpha(standard.table, test, standard.labels)),
        "precision_if_gold": quality.overall.precision,
        "classes_if_gold": {
            n: {"items": a.predicted, "accepted": a.accepted, "correct": a.correct, "gold": a.gold}
            for n, a in quality.per_class.items()
        },
        "by_threshold_if_gold": quality.by_threshold,
        "calibration": record["calibration"] | {"target": bins},
    }


def _curve(choice: ThresholdChoice) -> dict[str, Any]:
    curve = choice.as_dict()["curve"]
    names = ("thresholds", "kept", "correct", "accuracy", "coverage", "recall", "second_difference")
    return {name: curve[name] for name in names}


def _judged(judged: Voted) -> dict[str, np.ndarray]:
    """The labelled source items that alpha was chosen on, so that other rules can be tried on them later."""
    known = judged.gold >= 0
    votes = judged.votes
    return {
        "alpha.confidence": votes.min_confidence.numpy()[known],
        "alpha.agree": votes.agree.numpy()[known].astype(np.uint8),
        "alpha.correct": (votes.label.numpy() == judged.gold)[known].astype(np.uint8),
        "alpha.example": judged.example[known].astype(np.int32),
    }


def _arrays(
    table: SelfTrainConfig, pool: Pool, target: Voted, decision: Decision, kept: SourceDecision
) -> dict[str, np.ndarray]:
    stays = np.zeros(len(target.store), dtype=np.uint8)
    stays[pool.target if table.abandoned == "round" else np.unique(target.example[decision.keep])] = 1
    return {
        "target.targets": target.spread(decision.targets, IGNORE),
        "target.label": target.spread(decision.label, IGNORE),
        "target.reason": target.spread(decision.reason, -1),
        "target.agree": target.spread(target.votes.agree.numpy().astype(np.uint8), 0),
        "target.confidence": target.spread(target.votes.min_confidence.numpy(), 0),
        "target.pool": stays,
        "source.keep": kept.keep.astype(np.uint8),
        "source.reason": kept.reason,
    }


def _warn(
    context: Context,
    stage: Stage,
    choice: ThresholdChoice,
    record: dict[str, Any],
    kept: SourceDecision,
    in_play: np.ndarray,
    source: Voted,
    target: Voted,
) -> None:
    labels, classes = context.data.labels, record["classes"]
    accepted = {name: entry["accepted"] for name, entry in classes.items()}
    prior = np.bincount(source.gold[source.gold >= 0], minlength=len(labels))
    share = dict(zip(labels, prior.tolist(), strict=True))
    told = _guarded_before(context, stage)
    context.warn(
        *(warning for warning in kept.warnings if warning.values["label"] not in told),
        alpha_at_edge(choice),
        low_agreement(target.votes.agree),
        class_collapse(accepted, share),
        class_shift(accepted, share),
        heavy_source_drop(int(in_play.sum()), int(kept.keep.sum())),
        falling_acceptance([*_earlier_coverages(context, stage), record["accepted"] / max(1, record["items"])]),
    )
    if labels[0] == OUTSIDE:
        entity = [name for name in labels if name != OUTSIDE]
        context.warn(few_accepted_entities(sum(accepted[n] for n in entity), sum(classes[n]["items"] for n in entity)))


def _guarded_before(context: Context, stage: Stage) -> set[str]:
    """The classes that the guard of the source filter kept alive in any earlier round, which has said so."""
    guarded: set[str] = set()
    inputs = stage.inputs
    while "previous" in inputs:
        folder = context.folder(inputs["previous"])
        guarded |= set(read_record(folder)["source"]["guarded_per_class"])
        inputs = read_json(folder / FINISHED, None).get("inputs", {})
    return guarded


def _earlier_coverages(context: Context, stage: Stage) -> list[float]:
    if "previous" not in stage.inputs:
        return []
    record = read_record(context.folder(stage.inputs["previous"]))
    return [record["accepted"] / max(1, record["items"])]


def read_record(folder: Path) -> dict[str, Any]:
    """The `decision.json` of a hard stage.

    Raises:
        ModelError: it is missing or damaged.
    """
    return read_json(folder / "decision.json", ModelError, f"delete the folder {folder} and run again", needed=True)
