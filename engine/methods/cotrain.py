"""Co-training and self-training by picks (Yu and Joty, EMNLP 2021, Algorithm 1).

Each of two models has a labelled set D, at first the labelled source, and a pool U, at first all unlabelled text. In an
iteration each picks, from its own pool, texts that it is confident of; they leave its pool, and with its label they
enter the other's D. So the pseudo-labels in D of one model are at any time what the other one has picked so far, and
the pool of the other one is the rest: one array says both. With one model it is its own other (Dong and de Melo, 2019).
Picks are made at the beginning of the iteration that learns from them, by a model of the iteration before, and are on
the disk before training begins.

The algorithm as printed scores U and never reads the pools; candidates are taken from the pool here, since the same
texts would be picked again and again otherwise. Where both models pick a text they need not agree: labels are crossed,
not compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from ... import ModelError
from ...data import ItemView, Part, TaskBatches, TokenStore, derive_seed, rng_for
from ...data.store.store import IGNORE
from ...model import TaskModel, load_pooler
from ..evaluation.voted import vote
from ..plan import Stage
from ..plan.stage import start_inputs
from ..pseudolabels.diagnostics import class_collapse, slow_learning_rate
from ..recipe.config import RunConfig
from ..stages.context import Context
from ..stages.datasets import capped
from ..stages.decision_files import decided_arrays
from ..stages.finetune import labelled_examples
from ..stages.kind import StageKind, StageRun, Training, register_kind, register_planner
from ..stages.models import new_task_model, warn_of_unseen
from ..storage.run_warning import RunWarning
from ..training.objectives import cross_entropy


@dataclass(frozen=True)
class Picks:
    """What one model picks in one iteration, and what that makes of the other's labelled set.

    Attributes:
        labels: int64 [U], the pseudo-labels in the other's labelled set, -100 where there is none.
        chosen: int64, ascending, what was picked now.
        candidates: how many of the pool were confident enough.
        pool: how many were in the pool before.
    """

    labels: np.ndarray
    chosen: np.ndarray
    candidates: int
    pool: int


def pick_limit(labelled: int, parts: int) -> int | None:
    """How many picks an iteration has at most: a third, for `parts` 3, of the labelled source (section 4.2), down.

    None, no limit, for 0 parts. The number of labelled examples is that of the source alone in every iteration.
    """
    return None if parts == 0 else labelled // parts


def no_picks(size: int) -> np.ndarray:
    """The pseudo-labels before the first picks, int64 [size]."""
    return np.full(size, IGNORE, dtype=np.int64)


def pick(
    before: np.ndarray,
    allowed: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    *,
    threshold: float,
    limit: int | None,
    seed: int,
) -> Picks:
    """One model's random choice from what it is confident of in its pool.

    Args:
        before: int64 [U], labels of what it has picked in earlier iterations, -100 for its pool.
        allowed: bool [U], what may be picked at all.
        predicted: int [U], its classes.
        confidence: float [U], of these; compared in fp32, as models give it, and strictly.
        threshold: what the confidence must exceed.
        limit: largest number of picks, or None.
        seed: of the choice, which is uniform over the candidates.
    """
    pool = allowed & (before == IGNORE)
    candidates = np.flatnonzero(pool & (confidence.astype(np.float32) > np.float32(threshold)))
    chosen = candidates
    if limit is not None and len(candidates) > limit:
        chosen = np.sort(rng_for(seed, "subset").permutation(candidates)[:limit])
    labels = before.copy()
    labels[chosen] = predicted[chosen]
    return Picks(labels, chosen, len(candidates), int(pool.sum()))


PICKS = "picks.json"
OTHER = {"a": "b", "b": "a"}
_ORDER = {"co-a": 2000, "co-b": 3000, "self-a": 4000, "self-b": 5000}


class Cotrain(StageKind):
    """Picks, by the newest state of the other model, then cross entropy on the source and all picks so far."""

    name = "cotrain"
    chosen_by = ("cotrain",)

    def also(self, config: RunConfig, stage: Stage) -> list[str]:
        return ["cotrain.threshold", "cotrain.parts", "cotrain.cap", "cotrain.restart"] if stage.round > 1 else []

    def head(self, config: RunConfig) -> str:
        return "linear"

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        stores = {"source": context.data.source_train}
        if stage.round > 1:
            stores |= {f"target.{language}": store for language, store in pools_of(context, stage).items()}
        return stores

    def build(self, run: StageRun) -> Training:
        context, stage = run.context, run.stage
        source = context.data.source_train
        parts = [Part(ItemView(source), labelled_examples(source), labels=np.asarray(source.item_labels))]
        record: dict[str, Any] = {}
        if stage.round == 1:
            warn_of_unseen(context, source, "source", context.config.source.language)
        else:
            if (decided := run.decided(PICKS)) is None:
                said = len(context.warnings)
                decided = run.keep(PICKS, *_choose(context, stage), said)
            record, data = decided
            parts += _picked_parts(context, stage, load_file(data)["labels"])
        model = _model(context, stage)
        batches = run.task_batches(parts)
        context.warn(slow_learning_rate(run.stage.training.lr, len(batches)))
        count = len(parts[0].examples)
        notes = {"source_examples": count} | {key: record[key] for key in ("picked", "labels") if record}
        line = f"{count} source examples"
        line += f", {record['picked']} picked of {record['candidates']}, {record['labels']} in all" if record else ""
        return Training(model, batches, cross_entropy, notes, lambda trace: line)

    def batches(self, run: StageRun) -> TaskBatches:
        source, *pools = self.inputs(run.context, run.stage).values()
        parts = [Part(ItemView(source), labelled_examples(source))]
        if not pools:
            return run.task_batches(parts)
        table = run.context.config.cotrain
        limit = pick_limit(len(parts[0].examples), table.parts)
        left = None if limit is None else limit * (run.stage.round - 1)
        for store in pools:
            most = min(len(store), table.cap or len(store), len(store) if left is None else left)
            parts.append(Part(ItemView(store), np.arange(most)))
            left = None if left is None else left - most
        return run.task_batches(parts)

    def at_most(self, context: Context, stage: Stage) -> bool:
        return stage.round > 1

    def reads(self, context: Context, stage: Stage) -> list[int]:
        """The texts that the teacher labels."""
        return [int(store.offsets[-1]) for store in pools_of(context, stage).values()] if stage.round > 1 else []


def _model(context: Context, stage: Stage) -> TaskModel:
    """The pre-trained or adapted encoder with a fresh head, in every iteration, unless weights are to go on."""
    table = context.config.cotrain
    if stage.round > 1 and table.restart == "previous":
        return context.load_task_model(stage, "previous")
    model = new_task_model(context, stage, "linear")
    if model.pooler is not None and table.start == "adapted":  # the adaptation has trained it, too
        model.pooler = load_pooler(context.input_folder(stage, "base")).to(context.device)
    return model


def _crossed(stage: Stage) -> bool:
    """Whether a stage learns the picks of the other model."""
    return stage.inputs.get("teacher") != stage.inputs.get("previous")


def _picked_parts(context: Context, stage: Stage, labels: np.ndarray) -> list[Part]:
    """The picks as training examples, store by store."""
    pools = list(pools_of(context, stage).values())
    ends = np.cumsum([len(store) for store in pools])
    return [
        Part(ItemView(store), np.flatnonzero(part != IGNORE), labels=part)
        for store, part in zip(pools, np.split(labels, ends[:-1]), strict=True)
    ]


def _choose(context: Context, stage: Stage) -> tuple[dict[str, Any], bytes]:
    """What the model of the iteration before picks from its pool: the other one's, or with one model its own."""
    table, letter_of_stage = context.config.cotrain, stage.options["model"]
    letter = OTHER[letter_of_stage] if _crossed(stage) else letter_of_stage
    pools = pools_of(context.of_model(letter), stage)
    sizes = [len(store) for store in pools.values()]
    if sizes != [len(store) for store in pools_of(context, stage).values()]:
        raise ModelError(f"{stage.id}: the two encoders see different numbers of unlabelled texts; this is a bug")
    before = no_picks(sum(sizes))
    if stage.round > 2:
        before = decided_arrays(context.folder(stage.inputs["previous"]), PICKS)["labels"]
    allowed = np.zeros(len(before), dtype=bool)
    starts = np.cumsum([0, *sizes[:-1]])
    for first, (language, store) in zip(starts, pools.items(), strict=True):
        allowed[first + capped(len(store), table.cap, stage.seed, language)] = True
    pool = allowed & (before == IGNORE)
    context.progress.note(f"{stage.id}: {stage.inputs['teacher']} labels {int(pool.sum())} texts")
    predicted, confidence = _predictions(context, stage, list(pools.values()), pool)
    limit = pick_limit(len(labelled_examples(context.data.source_train)), table.parts)
    seed = derive_seed(stage.seed, "picks", stage.round, letter, str(stage.pair))
    picks = pick(before, allowed, predicted, confidence, threshold=table.threshold, limit=limit, seed=seed)
    return _record(context, stage, picks, limit), save({"labels": picks.labels, "chosen": picks.chosen})


def _predictions(
    context: Context, stage: Stage, pools: list[TokenStore], chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and confidences of the teacher, without dropout, for the wanted texts of all pools end to end."""
    teacher = context.load_task_model(stage, "teacher")
    predicted, confidence = no_picks(len(chosen)), np.zeros(len(chosen), dtype=np.float32)
    first = 0
    for store in pools:
        voted = vote(teacher, store, np.flatnonzero(chosen[first : first + len(store)]), **context.passes)
        predicted[first + voted.example] = voted.votes.label.numpy()
        confidence[first + voted.example] = voted.votes.min_confidence.numpy()
        first += len(store)
    return predicted, confidence


def _record(context: Context, stage: Stage, picks: Picks, limit: int | None) -> dict[str, Any]:
    """The picks as JSON values (docs/summary-schema.md), and what there is to warn of."""
    names, threshold = context.data.labels, context.config.cotrain.threshold
    gold = np.asarray(context.data.source_train.item_labels)
    known, now = (picks.labels[picks.labels != IGNORE], picks.labels[picks.chosen])
    counts = {
        key: dict(zip(names, np.bincount(values, minlength=len(names)).tolist(), strict=True))
        for key, values in (("now", now), ("all", known), ("source", gold[gold >= 0]))
    }
    if not len(picks.chosen):
        message = (
            f"none of {picks.pool} texts has a confidence above {threshold}: the iteration adds nothing; lower "
            "cotrain.threshold, or train longer before it"
        )
        context.warn(RunWarning("no-picks", message, {"pool": picks.pool, "threshold": threshold}))
    context.warn(class_collapse(counts["all"], counts["source"]))
    return {
        "round": stage.round,
        "teacher": stage.inputs["teacher"],
        "threshold": threshold,
        "limit": limit,
        "pool": picks.pool,
        "candidates": picks.candidates,
        "picked": len(picks.chosen),
        "remaining": picks.pool - len(picks.chosen),
        "labels": len(known),
        "classes": counts["now"],
    }


def cotrain_plan(config: RunConfig, seed: int, core: tuple[Stage, ...]) -> list[Stage]:
    """The iterations of every mode.

    The first iteration has seen the source alone: it serves all targets, and self-training, where both are asked for.
    What starts from adapted encoders has the adapted one as its base, which fingerprints hold.
    """
    table = config.cotrain
    if not table.on:
        return []
    stages, start = list[Stage](), start_inputs(config, seed)
    if table.start == "adapted":
        start = {"base": f"seed-{seed}/la"}
    bases = {"a": start, "b": start if table.model is None else {}}
    pairs: list[tuple[str, ...]] = [()] if table.pool == "all" or config.targets_together else config.pairs
    for mode in table.modes:
        letters = "ab" if mode == "co" else mode[-1]
        name = mode.partition("-")[0]
        method = "co" if "co" in table.modes else name
        made = {stage.id for stage in stages}
        begun = [_iteration(config, seed, method, 1, x, (), bases[x]) for x in letters]
        stages += [stage for stage in begun if stage.id not in made]
        first = {x: stage.id for x, stage in zip(letters, begun, strict=True)}
        for targets in pairs:
            newest = first
            for number in range(2, table.iterations + 1):
                learned = dict[str, Stage]()  # what the other one, or itself, has picked
                for letter, previous in newest.items():
                    inputs = bases[letter] | {"teacher": newest.get(OTHER[letter], previous), "previous": previous}
                    learned[letter] = _iteration(config, seed, name, number, letter, targets, inputs)
                stages += learned.values()
                newest = {letter: stage.id for letter, stage in learned.items()}
    return stages


def _iteration(
    config: RunConfig,
    seed: int,
    method: str,
    number: int,
    letter: str,
    targets: tuple[str, ...],
    inputs: dict[str, str],
) -> Stage:
    arm, name = f"{method}-{letter}", f"{method}{number}{letter}"
    return Stage(
        "/".join((f"seed-{seed}", *targets, name)),
        "cotrain",
        name,
        arm,
        seed,
        config.training_of(config.cotrain),
        targets,
        number,
        inputs,
        options={"model": letter},
        order=_ORDER[arm] + number,
        label=f"{method}-train {number} {letter}",
    )


def pools_of(context: Context, stage: Stage) -> dict[str, TokenStore]:
    """The unlabelled text that a stage may pick from: of its target, or of all of them."""
    targets = context.config.targets_of(stage.targets) or context.config.targets
    return {target.language: context.data.target_pool(target) for target in targets}


register_kind(Cotrain())
register_planner(cotrain_plan)
