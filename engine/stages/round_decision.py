"""The decision of a round: alpha from the source, then which labels stay in both languages, stored with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ... import ModelError
from ...data import OUTSIDE, TokenStore
from ...data.store.store import IGNORE
from ...model import TaskModel
from ..evaluation.voted import Voted, vote
from ..plan import Stage
from ..pseudolabels.diagnostics import (
    alpha_at_edge,
    class_collapse,
    class_shift,
    falling_acceptance,
    few_accepted_entities,
    heavy_source_drop,
    low_agreement,
    require_accepted,
)
from ..pseudolabels.filters import (
    REASONS,
    Decision,
    Reason,
    calibration_bins,
    class_counts,
    counts_by_threshold,
    source_consistency,
)
from ..pseudolabels.filters import decide as accept
from ..pseudolabels.round import RoundDecision
from ..pseudolabels.thresholds import ThresholdChoice, choose_threshold
from ..recipe.config import SelfTrainConfig
from ..storage.files import plain, read_json
from ..storage.names import FINISHED
from .context import Context
from .decision_files import DECISION, LabelledVotes
from .pool import Pool, by_target, correction, load_pool, pool_store


@dataclass(frozen=True)
class Rules:
    """How a recipe decides.

    Attributes:
        labels: names of the `C` classes.
    """

    table: SelfTrainConfig
    labels: tuple[str, ...]

    @classmethod
    def of(cls, context: Context) -> Rules:
        """Those of a run."""
        return cls(context.config.selftrain, context.data.labels)

    @property
    def threshold(self) -> dict[str, Any]:
        """Arguments of `choose_threshold`."""
        return self.table.alpha.threshold | {"num_classes": len(self.labels)}

    def labelled(self, voted: Voted) -> LabelledVotes:
        """The labelled items that alpha is chosen on; they are stored, so that other rules can be tried on them."""
        known, votes = voted.gold >= 0, voted.votes
        if self.table.alpha.items == "entities":
            known &= votes.label.numpy() != self.labels.index(OUTSIDE)
        correct = votes.label.numpy() == voted.gold
        return LabelledVotes(
            votes.min_confidence.numpy()[known], votes.agree.numpy()[known], correct[known], voted.example[known]
        )

    def accept(self, voted: Voted, alpha: float | None) -> Decision:
        """The filter on the items of a target text; without a filter alpha is not read."""
        if self.table.target_filter == "none":
            return accept(voted.votes, None)
        unit, labels = self.table.target_filter, self.labels
        return accept(voted.votes, alpha, unit=unit, sentence_of_item=voted.example, labels=labels)


@dataclass(frozen=True)
class RoundVotes:
    """What the labeller of a round says.

    Attributes:
        pool: the examples that are still in play.
        source: on the labelled source texts that alpha can be chosen on, by the values of `selftrain.alpha.data`.
        in_play: bool [N], the source examples that no round has removed; `source["kept"]` is on these.
        target: on the unlabelled examples in play.
        texts: `target`, by the target whose text it is.
    """

    pool: Pool
    source: dict[str, Voted]
    in_play: np.ndarray
    target: Voted
    texts: list[Voted]


@dataclass(frozen=True)
class StageDecision(RoundDecision):
    """What a hard stage decides.

    Attributes:
        alphas: by the values of `selftrain.alpha.data`; `choice` is that of the recipe.
        parts: of each target's text; `target` of all, end to end.
    """

    alphas: dict[str, float]
    parts: list[Decision]


def collect_votes(context: Context, stage: Stage, labeller: TaskModel) -> RoundVotes:
    """Has the labeller of a round vote on both languages."""
    pool, store, data = load_pool(context, stage), pool_store(context, stage), context.data
    context.progress.note(
        f"{stage.id}: votes on {len(data.source_train)} source and {len(pool.target)} target examples"
    )
    in_play = np.isin(np.arange(len(data.source_train)), pool.source)
    source = {"all": vote(labeller, data.source_train, **context.passes)}
    source["kept"] = source["all"] if in_play.all() else source["all"].of(in_play)
    if context.config.has_dev:
        source["dev"] = vote(labeller, data.source_dev, **context.passes)
    correct = correction(context, store)
    target = vote(labeller, store, pool.target, correct, **context.passes)
    texts = [target.of(np.isin(np.arange(len(store)), examples)) for examples in by_target(store)]
    return RoundVotes(pool, source, in_play, target, texts)


def decide(votes: RoundVotes, rules: Rules) -> StageDecision:
    """Alpha on the labelled source, then both languages at it (Eq. 3 and 4); each target is filtered by itself."""
    choices = dict[str, ThresholdChoice]()
    for name, voted in votes.source.items():
        if name == "kept" and voted is votes.source["all"]:
            choices[name] = choices["all"]
            continue
        items = rules.labelled(voted)
        choices[name] = choose_threshold(items.confidence, items.correct, agree=items.agree, **rules.threshold)
    choice = choices[rules.table.alpha.data]
    parts = [rules.accept(text, choice.alpha) for text in votes.texts]
    whole = Decision(**{n: np.concatenate([getattr(d, n) for d in parts]) for n in vars(parts[0])})
    kept, table = votes.source["kept"], rules.table
    source = source_consistency(
        kept.votes,
        kept.gold,
        kept=votes.in_play,
        example_of_item=kept.example,
        rule=table.source_filter,
        alpha=choice.alpha,
        labels=rules.labels,
    )
    return StageDecision(choice, whole, source, {name: each.alpha for name, each in choices.items()}, parts)


def record(
    context: Context, stage: Stage, rules: Rules, votes: RoundVotes, decision: StageDecision
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A decision as `decision.json` and as arrays, one entry per item or example; warns of what looks wrong.

    Raises:
        DataError: not one pseudo-label was accepted; the message says what would accept some.
    """
    target, texts, store = votes.target, votes.texts, votes.target.store
    found = _record(stage, rules, votes, decision)
    require_accepted(
        found["accepted"],
        target.votes.min_confidence,
        target.votes.agree,
        alpha=found["alpha"],
        where=stage.id,
        accepted_at=lambda lower: sum(int(rules.accept(text, lower).keep.sum()) for text in texts),
    )
    if len(texts) > 1:
        grid = decision.choice.curve.thresholds
        parts = [_accepted(rules, grid, t, d) for t, d in zip(texts, decision.parts, strict=True)]
        parts = [part | _place(store, examples) for part, examples in zip(parts, by_target(store), strict=True)]
        found["targets"] = dict(zip(stage.targets, parts, strict=True))
    _warn(context, stage, votes, decision, found)
    return found, _arrays(rules, votes, decision)


def if_gold(context: Context, stage: Stage, labeller: TaskModel, record: Mapping[str, Any]) -> dict[str, Any]:
    """By target with a labelled test file, what a decision's rules and alpha make of that file: for looking at alone.

    Args:
        record: the `decision.json`; it knows nothing of test files, which may change.
    """
    rules, alpha = Rules.of(context), record["alpha"]
    grid = np.union1d(record["curve"]["thresholds"], [] if alpha is None else [alpha])
    found = {}
    for target in context.config.targets_of(stage.targets):
        if target.test is None:
            continue
        test = vote(labeller, context.data.scored(target.test, target.language), **context.passes)
        items, accepted = rules.labelled(test), rules.accept(test, alpha)
        choice = choose_threshold(items.confidence, items.correct, agree=items.agree, **rules.threshold)
        judged = accepted.keep & (test.gold != IGNORE)
        found[target.language] = {
            "target_curve": _curve(choice),
            "precision_if_gold": float((accepted.label == test.gold)[judged].mean()) if judged.any() else None,
            "classes_if_gold": class_counts(accepted, rules.labels, test.gold),
            "by_threshold_if_gold": counts_by_threshold(test.votes, rules.labels, grid, test.gold),
            "calibration": _calibration(test),
        }
    return found


def _record(stage: Stage, rules: Rules, votes: RoundVotes, decision: StageDecision) -> dict[str, Any]:
    """The decision as JSON values (docs/summary-schema.md)."""
    source, choice, labels = votes.source["kept"], decision.choice, rules.labels
    predicted = source.votes.mean_probability.argmax(dim=-1).numpy()
    wrong = source.gold[(source.gold >= 0) & (predicted != source.gold)]
    removed = np.bincount(wrong, minlength=len(labels))
    kept, in_play = decision.source, votes.in_play
    return {
        "round": stage.round,
        "alpha": None if rules.table.target_filter == "none" else choice.alpha,
        "rule": choice.rule,
        "at_edge": choice.at_edge,
        "reason": choice.reason,
        "alphas": decision.alphas,
        "unit": rules.table.target_filter,
        "curve": _curve(choice),
        **_accepted(rules, choice.curve.thresholds, votes.target, decision.target),
        "calibration": {"source": _calibration(source)},
        "source": {
            "items": int(in_play.sum()),
            "kept": int(kept.keep.sum()),
            "removed": int((in_play & ~kept.keep).sum()),
            "removed_per_class": {labels[i]: int(n) for i, n in enumerate(removed) if n},
            "guarded": int((kept.reason == Reason.KEPT_FOR_CLASS).sum()),
            "guarded_per_class": kept.guarded,
        },
    }


def _accepted(rules: Rules, thresholds: np.ndarray, target: Voted, decision: Decision) -> dict[str, Any]:
    """How much of a target text was accepted."""
    reasons, tagged = decision.reasons(), OUTSIDE in rules.labels
    inside = decision.label != (rules.labels.index(OUTSIDE) if tagged else -1)
    return {
        "items": len(decision.keep),
        "accepted": int(decision.keep.sum()),
        "rejected": {REASONS[c]: reasons[c.name.lower()] for c in REASONS if c.name.lower() in reasons},
        "classes": class_counts(decision, rules.labels),
        "by_threshold": counts_by_threshold(target.votes, rules.labels, thresholds),
        "coverage_entity": _share(decision.keep[inside]) if tagged else None,
        "coverage_o": _share(decision.keep[~inside]) if tagged else None,
        "voter_agreement": float(target.votes.agree.float().mean()),
    }


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else 0.0


def _place(store: TokenStore, examples: np.ndarray) -> dict[str, list[int]]:
    """Where the examples of a target, and their items, lie in the text of all."""
    first, last = int(examples[0]), int(examples[-1]) + 1
    offsets = store.item_offsets
    return {"examples_at": [first, last], "items_at": [int(offsets[first]), int(offsets[last])]}


def _calibration(voted: Voted) -> list[dict[str, float | int]]:
    """Accuracy by confidence of the voters' mean, over the labelled items."""
    known, mean = voted.gold >= 0, voted.votes.mean_probability
    right = mean.argmax(dim=-1).numpy() == voted.gold
    return calibration_bins(mean.amax(dim=-1).numpy()[known], right[known])


def _curve(choice: ThresholdChoice) -> dict[str, Any]:
    curve = plain(choice.curve)
    names = ("thresholds", "kept", "correct", "accuracy", "coverage", "recall", "second_difference")
    return {name: curve[name] for name in names}


def _arrays(rules: Rules, votes: RoundVotes, decision: StageDecision) -> dict[str, np.ndarray]:
    target, accepted, source, table = votes.target, decision.target, votes.source["kept"], rules.table
    stays = np.zeros(len(target.store), dtype=np.uint8)
    stays[votes.pool.target if table.abandoned == "round" else np.unique(target.example[accepted.keep])] = 1
    return {
        "target.targets": target.spread(accepted.targets, IGNORE),
        "target.label": target.spread(accepted.label, IGNORE),
        "target.reason": target.spread(accepted.reason, -1),
        "target.agree": target.spread(target.votes.agree.numpy().astype(np.uint8), 0),
        "target.confidence": target.spread(target.votes.min_confidence.numpy(), 0),
        "target.pool": stays,
        "source.keep": decision.source.keep.astype(np.uint8),
        "source.reason": decision.source.reason,
        "source.label": source.spread(source.votes.mean_probability.argmax(dim=-1).numpy().astype(np.int16), IGNORE),
        **rules.labelled(votes.source[table.alpha.data]).as_arrays(),
    }


def _warn(context: Context, stage: Stage, votes: RoundVotes, decision: StageDecision, record: dict[str, Any]) -> None:
    labels, gold, kept = context.data.labels, votes.source["kept"].gold, decision.source
    prior = np.bincount(gold[gold >= 0], minlength=len(labels))
    share = dict(zip(labels, prior.tolist(), strict=True))
    earlier = earlier_records(context, stage)
    known_guarded = {label for before in earlier for label in before["source"]["guarded_per_class"]}  # has been said
    context.warn(
        *(warning for warning in kept.warnings if warning.values["label"] not in known_guarded),
        alpha_at_edge(decision.choice),
        low_agreement(votes.target.votes.agree),
        heavy_source_drop(record["source"]["items"], record["source"]["kept"]),
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
        records.insert(0, read_json(folder / DECISION, ModelError, needed=True))
        inputs = read_json(folder / FINISHED, None).get("inputs", {})
    return records
