"""`thresholds`: what every rule for alpha would have chosen in a run, for each target, round and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from .... import DataError
from ....tasks import has_spans
from ...pseudolabels.judged import JudgedItems
from ...recipe.config.stages import AlphaConfig
from ...report.page import curve_distance
from ...report.parts import mean, percent
from ...report.sections.laboratory import THRESHOLDS
from ...report.stage_folders import made_from
from ...report.text_table import text_table
from ...storage.files import atomic_write_json, delete
from .finished_run import FinishedRun
from .threshold_rules import COMPARED, DRAWS, LEVEL, GoldSweep, RuleResult, compare_rules

PAGE_DRAWS = 100
"""Of the bootstrap, for the page of the report."""
_RULES = ["rule", "alpha", f"{100 * LEVEL:.0f} % of draws", "edge", "accuracy", "coverage", "target coverage"]
_GOLD = ["label F1", "regret"]


@dataclass(frozen=True)
class DecisionStudy:
    """The rules on one decision.

    Attributes:
        pair, round, seed, stage: whose decision.
        rule, alpha: what the recipe asked for, and what it gave (None without a filter).
        results: one entry for each rule compared.
        oracle: the best threshold by `target_f1`, its `precision` and `f1`; None without gold.
        curve_distance: mean difference of the accuracy curves of source and target (0-1); None without gold.
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
    tagging: bool = False
    """Whether there is a label `O`, which is not among the labels that `oracle` and the rules count."""


def study_thresholds(folder: str | Path, *, rules: Sequence[str] = COMPARED, draws: int = DRAWS) -> list[DecisionStudy]:
    """All rules on all decisions of a run, in the order of target, round and seed.

    Args:
        draws: of the bootstrap.

    Raises:
        DataError: not a run, or one without decisions.
    """
    run = FinishedRun.open(folder)
    decisions = run.decisions()
    if not decisions:
        raise DataError(f"{run.folder}: no hard stage of this run has ended; run it first")
    studies = []
    for stage, record, arrays in decisions:
        voted, gold = arrays["target.reason"] >= 0, GoldSweep.from_record(record)
        results = compare_rules(
            JudgedItems.from_arrays(arrays),
            AlphaConfig(**{f.name: stage.fingerprint[f"alpha.{f.name}"] for f in fields(AlphaConfig)}),
            len(record["classes"]),
            rules=rules,
            target=(arrays["target.confidence"][voted], arrays["target.agree"][voted].astype(bool)),
            gold=gold,
            draws=draws,
        )
        distance = curve_distance(record)
        studies.append(
            DecisionStudy(
                pair=str(stage.pair),
                round=int(record["round"]),
                seed=stage.seed,
                stage=stage.stage,
                rule=str(record["rule"]),
                alpha=record["alpha"],
                results=tuple(results),
                oracle=None if gold is None else gold.best(),
                curve_distance=None if math.isnan(distance) else distance,
                tagging=has_spans(run.summary["task"]),
            )
        )
    return studies


def write_thresholds(folder: str | Path) -> None:
    """Keep in `thresholds.json`, for the page of the report, what other rules would have chosen.

    Raises:
        StorageError: the disk refuses.
    """
    path = Path(folder) / THRESHOLDS
    try:
        studies = study_thresholds(folder, draws=PAGE_DRAWS)
    except DataError:  # nothing has ended, or nothing was decided; the page says so
        delete(path)
        return
    tables = [{"title": title, "header": header, "lines": lines} for title, header, lines in rule_tables(studies)]
    content = {"tables": tables, "notes": study_notes(studies), "made_from": made_from(path.parent)}
    atomic_write_json(path, content, indent=1)


def render_studies(name: str, studies: Sequence[DecisionStudy]) -> str:
    """The study for a terminal."""
    seeds = sorted({s.seed for s in studies})
    lines = [f"{name}: what each rule would have chosen, mean over seeds {', '.join(map(str, seeds))}"]
    for title, header, rows in rule_tables(studies):
        lines += ["", title, *text_table([header, *rows])]
    return "\n".join([*lines, "", *study_notes(studies)])


def rule_tables(studies: Sequence[DecisionStudy]) -> list[tuple[str, list[str], list[list[str]]]]:
    """One table for each target and round, means over seeds: title, header and lines."""
    tables = []
    for pair, number in sorted({(s.pair, s.round) for s in studies}):
        seeds = [s for s in studies if (s.pair, s.round) == (pair, number)]
        gold = [s.oracle for s in seeds if s.oracle]
        lines = [_rule_line(results, bool(gold)) for results in zip(*(s.results for s in seeds), strict=True)]
        if gold:
            ends = [percent(mean(o["precision"] for o in gold)), f"{mean(o['f1'] for o in gold):.3f}", "0.000"]
            lines.append(["best by gold", f"{mean(o['alpha'] for o in gold):.2f}", *[""] * (len(_RULES) - 2), *ends])
        alpha = ", ".join("none" if s.alpha is None else f"{s.alpha:.2f}" for s in seeds)
        title = f"{pair}, round {number}: alpha {alpha} by {seeds[0].rule}"
        if distances := [s.curve_distance for s in seeds if s.curve_distance is not None]:
            title += f"; curves of source and target {100 * mean(distances):.1f} points apart"
        precision = "precision" + ", without O" * seeds[0].tagging
        tables.append((title, [*_RULES, *([precision, *_GOLD] if gold else [])], lines))
    return tables


def _rule_line(results: Sequence[RuleResult], gold: bool) -> list[str]:
    def average(name: str) -> float:
        return mean(getattr(r, name) for r in results)

    def shown(name: str) -> str:
        return "-" if math.isnan(average(name)) else f"{average(name):.3f}"

    line = [results[0].rule, f"{average('alpha'):.2f}{'*' * any(r.at_edge for r in results)}"]
    line += [f"{average('low'):.2f} to {average('high'):.2f}", percent(average("edge_share"))]
    line += [percent(average(n)) for n in ("source_accuracy", "source_coverage", "target_coverage")]
    if gold:
        line += [percent(average("target_precision")), shown("target_f1"), shown("regret")]
    return line


def study_notes(studies: Sequence[DecisionStudy]) -> list[str]:
    """What the columns mean, in sentences."""
    notes = [
        "draws: the labelled source examples drawn anew with replacement; edge: how often the grid decided then; "
        "*: it decided here",
        "accuracy, coverage: at alpha on the labelled source",
    ]
    if any(s.oracle for s in studies):
        notes.append(
            "precision, label F1: of the labels (but O) that alpha accepts on the labelled target file; regret: label "
            "F1 below the best threshold's. For looking at only: what a student learns from them is not measured here"
        )
    return notes
