"""The decision of a round: alpha from the source, then which labels stay in both languages, stored with reasons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import ModelError
from ...data import OUTSIDE, ItemView, TokenStore
from ...data.store.store import IGNORE
from ...kernels import Votes
from ...model import TaskModel
from ..evaluation.inference import predict_votes
from ..plan import Stage
from ..pseudolabels.acceptance import choose_accepted, count_dropped, count_units
from ..pseudolabels.diagnostics import (
    acceptance_cut,
    alpha_at_edge,
    class_collapse,
    class_shift,
    falling_acceptance,
    few_accepted_entities,
    heavy_source_drop,
    low_agreement,
    require_accepted,
)
from ..pseudolabels.filters import REASONS, Decision, Reason, SourceDecision, decide, source_consistency
from ..pseudolabels.quality import calibration_bins, pseudo_label_quality
from ..pseudolabels.round import judge
from ..pseudolabels.thresholds import ThresholdChoice, choose_threshold
from ..recipe.config import SelfTrainConfig
from ..storage.files import read_json
from ..storage.names import FINISHED
from .context import Context
from .outside import agreement, outside_labels, with_outside
from .pool import Pool, by_target, load_pool, pool_store


@dataclass(frozen=True)
class Voted:
    """Votes on the items of some examples of a store.

    Attributes:
        items: int64 [K], where these items lie on the store's item axis.
        example: int64 [K], the example of each.
        gold: int64 [K], -100 where unknown.
    """

    store: TokenStore
    items: np.ndarray
    example: np.ndarray
    gold: np.ndarray
    votes: Votes

    def of(self, examples: np.ndarray) -> Voted:
        """The votes on the items of some examples, bool [N]."""
        mask = examples[self.example]
        return replace(
            self,
            items=self.items[mask],
            example=self.example[mask],
            gold=self.gold[mask],
            votes=votes_of(self.votes, torch.from_numpy(mask)),
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


def vote(model: TaskModel, store: TokenStore, examples: np.ndarray | None = None, **passes: Any) -> Voted:
    """The votes of a model on some examples, or on all.

    Args:
        passes: as `predict_items` takes them.
    """
    chosen = np.zeros(len(store), dtype=bool)
    chosen[slice(None) if examples is None else examples] = True
    offsets = np.asarray(store.item_offsets, dtype=np.int64)
    example = np.repeat(np.arange(len(store)), offsets[1:] - offsets[:-1])
    items = np.flatnonzero(chosen[example])
    counted = predict_votes(model, ItemView(store), np.flatnonzero(chosen), **passes)
    gold = np.asarray(store.item_labels, dtype=np.int64)[items]
    return Voted(store, items, example[items], gold, votes_of(counted, torch.from_numpy(items)))


def votes_of(counted: Votes, items: torch.Tensor) -> Votes:
    """The votes on some items, by number or as bool [K]."""
    parts = {name: getattr(counted, name)[items] for name in counted._fields[:4]}
    return counted._replace(**parts)


def decide_round(context: Context, stage: Stage, labeller: TaskModel) -> RoundDecision:
    """Chooses alpha on the labelled source, then filters both languages.

    Raises:
        DataError: not one pseudo-label was accepted; the message says what would accept some.
    """
    data, table, labels = context.data, context.config.selftrain, context.data.labels
    pool, targets = load_pool(context, stage), context.config.targets_of(stage.targets)
    context.progress.note(
        f"{stage.id}: votes on {len(data.source_train)} source and {len(pool.target)} target examples"
    )
    vote_on: Callable[..., Voted] = partial(vote, labeller, **context.passes)
    in_play = np.zeros(len(data.source_train), dtype=bool)
    in_play[pool.source] = True
    curves = {"all": vote_on(data.source_train)}
    curves["kept"] = source = curves["all"].of(in_play)
    if context.config.has_dev:
        curves["dev"] = vote_on(data.source_dev)
    calibration = curves[table.alpha.data]
    accept = partial(accept_labels, table, labels, curves["all"])
    store = pool_store(context, stage)
    alone, texts_of, outside = vote_on(store, pool.target), by_target(store), outside_labels(context, stage)
    unlabelled = replace(alone, votes=with_outside(alone.votes, alone.items, outside))
    texts = [unlabelled.of(np.isin(np.arange(len(store)), examples)) for examples in texts_of]
    judgement = judge(
        lambda: choose_alpha(table, calibration, labels),
        lambda alpha: together([accept(text, alpha) for text in texts]),
        lambda alpha: keep_source(table, labels, source, in_play, alpha),
    )
    choice, decision, kept = judgement.choice, judgement.target, judgement.source
    alpha = None if table.target_filter == "none" else choice.alpha
    require_accepted(
        int(decision.keep.sum()),
        unlabelled.votes.min_confidence,
        unlabelled.votes.agree,
        alpha=alpha,
        where=stage.id,
        accepted_at=lambda lower: sum(int(accept(text, lower).keep.sum()) for text in texts),
    )
    record = _record(stage, table, labels, choice, source, kept, in_play, unlabelled, decision)
    record |= agreement(alone.votes, alone.items, outside, labels)
    record["alphas"] = {name: choose_alpha(table, voted, labels).alpha for name, voted in curves.items()}
    if table.accept != "threshold":
        dropped = count_dropped(decision, labels)
        total = sum(dropped.values())
        record["options"] = {"accept": {"rule": table.accept, "dropped": total, "per_class": dropped}}
        context.warn(acceptance_cut(table.accept, total, record["accepted"]))
    parts = [record]
    if len(targets) > 1:
        parts = [_accepted(labels, choice, t, accept(t, choice.alpha)) for t in texts]
        parts = [part | _place(store, examples) for part, examples in zip(parts, texts_of, strict=True)]
        record["targets"] = dict(zip(stage.targets, parts, strict=True))
    for target, part in zip(targets, parts, strict=True):
        if target.test is not None:
            test = vote_on(data.scored(target.test, target.language))
            part |= _with_gold(table, labels, choice, test, accept(test, choice.alpha))
            part["calibration"] = record["calibration"] | {"target": _calibration(test)}
    _warn(context, stage, choice, record, kept, in_play, source, alone)
    return RoundDecision(
        _arrays(table, pool, unlabelled, decision, source, kept) | _judged(table, calibration, labels), record
    )


def together(decisions: Sequence[Decision]) -> Decision:
    """The decisions on the text of one target after the other as one: each target is filtered by itself."""
    return Decision(**{n: np.concatenate([getattr(d, n) for d in decisions]) for n in vars(decisions[0])})


def choose_alpha(table: SelfTrainConfig, calibration: Voted, labels: Sequence[str]) -> ThresholdChoice:
    """Alpha by the recipe's rule from the labelled items of `calibration`."""
    judged = _judged(table, calibration, labels)
    return choose_threshold(
        judged["alpha.confidence"],
        judged["alpha.correct"],
        rule=table.alpha.rule,
        num_classes=len(labels),
        step=table.alpha.step,
        upper=table.alpha.upper,
        min_kept=table.alpha.min_kept,
        min_share=table.alpha.min_share,
        agree=judged["alpha.agree"],
    )


def accept_labels(table: SelfTrainConfig, labels: Sequence[str], source: Voted, voted: Voted, alpha: float) -> Decision:
    """The recipe's filter on the items of a target text.

    Args:
        source: all of the labelled source text, for the shares of its classes.
    """
    if table.target_filter == "none":
        return decide(voted.votes, None)
    unit = table.target_filter
    decision = decide(voted.votes, alpha, unit=unit, sentence_of_item=voted.example, labels=labels)
    if table.accept == "threshold":
        return decision
    units = count_units(decision.label, labels, unit=unit, sentence_of_item=voted.example)
    known = source.gold >= 0
    counts = count_units(source.gold[known], labels, unit=unit, sentence_of_item=source.example[known]).counts()
    return choose_accepted(table.accept, decision, voted.votes.min_confidence.numpy(), units, counts)


def keep_source(
    table: SelfTrainConfig, labels: Sequence[str], source: Voted, in_play: np.ndarray, alpha: float
) -> SourceDecision:
    """The recipe's filter on the labelled source examples that are still in play, bool [N]."""
    return source_consistency(
        source.votes,
        source.gold,
        kept=in_play,
        example_of_item=source.example,
        rule=table.source_filter,
        alpha=alpha,
        labels=labels,
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
    predicted = source.votes.mean_probability.argmax(dim=-1).numpy()
    known = source.gold >= 0
    wrong = source.gold[known & (predicted != source.gold)]
    removed = np.bincount(wrong, minlength=len(labels))
    return {
        "round": stage.round,
        "alpha": None if table.target_filter == "none" else choice.alpha,
        "rule": choice.rule,
        "at_edge": choice.at_edge,
        "reason": choice.reason,
        "unit": table.target_filter,
        "curve": _curve(choice),
        **_accepted(labels, choice, target, decision),
        "target_curve": None,
        "precision_if_gold": None,
        "calibration": {"source": _calibration(source), "target": None},
        "source": {
            "items": int(in_play.sum()),
            "kept": int(kept.keep.sum()),
            "removed": int((in_play & ~kept.keep).sum()),
            "removed_per_class": {labels[i]: int(n) for i, n in enumerate(removed) if n},
            "guarded": int((kept.reason == Reason.KEPT_FOR_CLASS).sum()),
            "guarded_per_class": kept.guarded,
        },
    }


def _accepted(labels: tuple[str, ...], choice: ThresholdChoice, target: Voted, decision: Decision) -> dict[str, Any]:
    """How much of a target text was accepted."""
    quality = pseudo_label_quality(target.votes, decision, labels, thresholds=choice.curve.thresholds)
    return {
        "items": quality.overall.predicted,
        "accepted": quality.overall.accepted,
        "rejected": {REASONS[c]: quality.reasons[c.name.lower()] for c in REASONS if c.name.lower() in quality.reasons},
        "classes": {n: {"items": a.predicted, "accepted": a.accepted} for n, a in quality.per_class.items()},
        "by_threshold": quality.by_threshold,
        "coverage_entity": None if quality.entity is None else quality.entity.coverage,
        "coverage_o": None if quality.outside is None else quality.outside.coverage,
        "voter_agreement": float(target.votes.agree.float().mean()),
    }


def _place(store: TokenStore, examples: np.ndarray) -> dict[str, list[int]]:
    """Where the examples of a target, and their items, lie in the text of all."""
    first, last = int(examples[0]), int(examples[-1]) + 1
    offsets = store.item_offsets
    return {"examples_at": [first, last], "items_at": [int(offsets[first]), int(offsets[last])]}


def _with_gold(
    table: SelfTrainConfig, labels: tuple[str, ...], choice: ThresholdChoice, test: Voted, decision: Decision
) -> dict[str, Any]:
    """The same rule on the target's labelled test file: for looking at, nothing reads it back."""
    quality = pseudo_label_quality(test.votes, decision, labels, gold=test.gold, thresholds=choice.curve.thresholds)
    return {
        "target_curve": _curve(choose_alpha(table, test, labels)),
        "precision_if_gold": quality.overall.precision,
        "classes_if_gold": {
            n: {"items": a.predicted, "accepted": a.accepted, "correct": a.correct, "gold": a.gold}
            for n, a in quality.per_class.items()
        },
        "by_threshold_if_gold": quality.by_threshold,
    }


def _calibration(voted: Voted) -> list[dict[str, float | int]]:
    """Accuracy by confidence of the voters' mean, over the labelled items."""
    known, mean = voted.gold >= 0, voted.votes.mean_probability
    right = mean.argmax(dim=-1).numpy() == voted.gold
    return calibration_bins(mean.amax(dim=-1).numpy()[known], right[known])


def _curve(choice: ThresholdChoice) -> dict[str, Any]:
    curve = choice.as_dict()["curve"]
    names = ("thresholds", "kept", "correct", "accuracy", "coverage", "recall", "second_difference")
    return {name: curve[name] for name in names}


def _judged(table: SelfTrainConfig, calibration: Voted, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """The labelled items that alpha is chosen on; they are stored, so that other rules can be tried on them later."""
    known, votes = calibration.gold >= 0, calibration.votes
    if table.alpha.items == "entities":
        known &= votes.label.numpy() != labels.index(OUTSIDE)
    return {
        "alpha.confidence": votes.min_confidence.numpy()[known],
        "alpha.agree": votes.agree.numpy()[known].astype(np.uint8),
        "alpha.correct": (votes.label.numpy() == calibration.gold)[known].astype(np.uint8),
        "alpha.example": calibration.example[known].astype(np.int32),
    }


def _arrays(
    table: SelfTrainConfig, pool: Pool, target: Voted, decision: Decision, source: Voted, kept: SourceDecision
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
        "source.label": source.spread(source.votes.mean_probability.argmax(dim=-1).numpy().astype(np.int16), IGNORE),
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
    labels = context.data.labels
    prior = np.bincount(source.gold[source.gold >= 0], minlength=len(labels))
    share = dict(zip(labels, prior.tolist(), strict=True))
    earlier = earlier_records(context, stage)
    known_guarded = {label for before in earlier for label in before["source"]["guarded_per_class"]}  # has been said
    context.warn(
        *(warning for warning in kept.warnings if warning.values["label"] not in known_guarded),
        alpha_at_edge(choice),
        low_agreement(target.votes.agree),
        heavy_source_drop(int(in_play.sum()), int(kept.keep.sum())),
        falling_acceptance([each["accepted"] / max(1, each["items"]) for each in (*earlier, record)]),
    )
    for language, part in (record.get("targets") or {"": record}).items():
        accepted, items = ({n: entry[k] for n, entry in part["classes"].items()} for k in ("accepted", "items"))
        found = [class_collapse(accepted, share), class_shift(accepted, share)]
        if labels[0] == OUTSIDE:
            found.append(few_accepted_entities(*(sum(n.values()) - n[OUTSIDE] for n in (accepted, items))))
        context.warn(*(w and replace(w, message=f"{language}: {w.message}" if language else w.message) for w in found))


def earlier_records(context: Context, stage: Stage) -> list[dict[str, Any]]:
    """The `decision.json` of all rounds before, the first one first."""
    records: list[dict[str, Any]] = []
    inputs = stage.inputs
    while "previous" in inputs:
        folder = context.folder(inputs["previous"])
        records.insert(0, read_record(folder))
        inputs = read_json(folder / FINISHED, None).get("inputs", {})
    return records


def read_record(folder: Path) -> dict[str, Any]:
    """The `decision.json` of a hard stage.

    Raises:
        ModelError: it is missing or damaged.
    """
    return read_json(folder / "decision.json", ModelError, f"delete the folder {folder} and run again", needed=True)
