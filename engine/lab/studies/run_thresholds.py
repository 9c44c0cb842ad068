"""The threshold study of a whole run: every decision of every target, round and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .... import DataError
from ...pseudolabels.filters import decide
from ...pseudolabels.quality import pseudo_label_quality
from ...training.progress import Progress
from .finished import FinishedRun, Json, TaskStage
from .threshold_study import COMPARED, DRAWS, GoldSweep, JudgedItems, RuleResult, compare_rules


@dataclass(frozen=True)
class DecisionStudy:
    """The rules on one decision.

    Attributes:
        pair, round, seed, stage: whose decision.
        rule, alpha: what the recipe asked for, and what it gave (None without a filter).
        results: one entry for each rule compared.
        oracle: the best threshold by `target_f1`, its `precision` and `f1`; None without gold.
        curve_distance: mean difference of the accuracy curves of source and target (0-1); None without gold.
        recomputed: the votes were not stored, and the labelling model was asked again.
    """

    pair: str
    round: int
    seed: int
    stage: str
    rule: str
    alpha: float | None
    results: tuple[RuleResult, ...]
    oracle: dict[str, float] | None
    curve_distance: float | None
    recomputed: bool


def study_thresholds(
    folder: str | Path | FinishedRun,
    *,
    rules: Sequence[str] = COMPARED,
    draws: int = DRAWS,
    recompute: bool = True,
    progress: Progress | None = None,
) -> list[DecisionStudy]:
    """All rules on all decisions of a run, in the order of target, round and seed.

    Args:
        draws: of the bootstrap.
        recompute: ask the models again where a decision was made before its votes were stored; else leave it out.

    Raises:
        DataError: not a run, or one without decisions.
    """
    run = folder if isinstance(folder, FinishedRun) else FinishedRun.open(folder)
    decisions = run.decisions()
    if not decisions:
        raise DataError(f"{run.folder}: no hard stage of this run has ended, so that no threshold was chosen")
    found = []
    for stage, record in decisions:
        arrays = run.arrays(stage)
        items, gold = JudgedItems.from_arrays(arrays), GoldSweep.from_record(record)
        recomputed = items is None
        if items is None:
            if not recompute:
                continue
            (progress or Progress()).note(f"{stage.id}: its votes were not stored; the labelling model votes again")
            items, gold = judged_items(run, stage), _gold_sweep(run, stage, record)
        voted = arrays["target.reason"] >= 0
        results = compare_rules(
            items,
            np.asarray(record["curve"]["thresholds"], dtype=np.float64),
            min_kept=int(stage.fingerprint["alpha.min_kept"]),
            rules=rules,
            target=(arrays["target.confidence"][voted], arrays["target.agree"][voted].astype(bool)),
            gold=gold,
            draws=draws,
        )
        found.append(_study(stage, record, results, gold, recomputed))
    return found


def _study(
    stage: TaskStage, record: Json, results: Sequence[RuleResult], gold: GoldSweep | None, recomputed: bool
) -> DecisionStudy:
    oracle = None
    if gold is not None:
        best = int(gold.label_f1.argmax())
        oracle = {
            "alpha": float(gold.thresholds[best]),
            "precision": float(np.nan_to_num(gold.precision[best])),
            "f1": float(gold.label_f1[best]),
        }
    return DecisionStudy(
        pair=str(stage.pair),
        round=int(record["round"]),
        seed=stage.seed,
        stage=stage.stage,
        rule=str(record["rule"]),
        alpha=record["alpha"],
        results=tuple(results),
        oracle=oracle,
        curve_distance=curve_distance(record),
        recomputed=recomputed,
    )


def curve_distance(record: Json) -> float | None:
    """Mean absolute difference of the two accuracy curves of a decision over thresholds that both define."""
    if not record.get("target_curve"):
        return None
    first, second = (record[k]["accuracy"] for k in ("curve", "target_curve"))
    gaps = [abs(a - b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return float(np.mean(gaps)) if gaps else None


def judged_items(run: FinishedRun, stage: TaskStage) -> JudgedItems:
    """The labelled source items of a decision, from its labelling model again.

    Raises:
        DataError: the stage of that model is gone.
    """
    labeller = _labeller(run, stage)
    judged = stage.fingerprint["alpha.data"]
    if judged == "dev":
        voted = run.votes(labeller, run.store(stage.fingerprint["data.dev"]))
    else:
        chosen = np.flatnonzero(run.pool_before(stage)[1]) if judged == "kept" else None
        voted = run.votes(labeller, run.source_train(), chosen)
    known = voted.gold >= 0
    return JudgedItems(
        voted.votes.min_confidence.numpy()[known],
        voted.votes.agree.numpy()[known],
        (voted.votes.label.numpy() == voted.gold)[known],
        voted.example[known],
    )


def _gold_sweep(run: FinishedRun, stage: TaskStage, record: Json) -> GoldSweep | None:
    """The labelled target file through the labelling model again, None without one."""
    test = run.test(str(stage.pair))
    if test is None:
        return None
    labeller = _labeller(run, stage)
    voted, labels = run.votes(labeller, test), run.model(labeller).labels
    quality = pseudo_label_quality(
        voted.votes, decide(voted.votes, 0.0), labels, gold=voted.gold, thresholds=record["curve"]["thresholds"]
    )
    classes = {n: {"gold": a.gold} for n, a in quality.per_class.items()}
    return GoldSweep.from_record({"by_threshold_if_gold": quality.by_threshold, "classes_if_gold": classes})


def _labeller(run: FinishedRun, stage: TaskStage) -> TaskStage:
    labeller = run.labeller(stage)
    if labeller is None:
        raise DataError(f"{stage.folder}: the stage whose model made this decision is gone; run the recipe again")
    return labeller


def studies_as_dict(studies: Sequence[DecisionStudy]) -> list[dict[str, Any]]:
    """All of it as JSON values."""
    return [asdict(s) for s in studies]
