"""`thresholds`: what every rule for alpha would have chosen in a run, how far that is luck, and what it costs.

The labelled source items that chose alpha are drawn anew (whole examples, since the words of a sentence go together),
and every rule chooses on every draw. Where a labelled target file exists, the labels that each alpha accepts there are
compared with gold, and the best threshold of the grid is the oracle that nobody has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import DataError
from ....data import OUTSIDE, derive_seed
from ....tasks import has_spans
from ...pseudolabels.thresholds import ThresholdChoice, choose_threshold, choose_threshold_from_sweep, uniform_grid
from ...recipe.config.stages import AlphaConfig
from ...report.sections import THRESHOLDS
from ...stages.decision_files import LabelledVotes
from ...storage.files import atomic_write_json, delete
from ...storage.text import percent, text_table
from ...summary.seeds import mean
from ...summary.stage_folders import made_from
from .finished_run import FinishedRun

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COMPARED = ("second-difference", "slope", "abs2", "kappa", "kneedle", "precision:0.95", "fixed:0.9")
"""One rule of each kind that `engine.pseudolabels.thresholds` has."""
DRAWS = 200
LEVEL = 0.9
PAGE_DRAWS = 100
"""Of the bootstrap, for the page of the report."""
_RULES = ["rule", "alpha", f"{100 * LEVEL:.0f} % of draws", "edge", "accuracy", "coverage", "target coverage"]
_GOLD = ["label F1", "regret"]


@dataclass(frozen=True)
class GoldSweep:
    """Labels but `O` of a labelled target file: accepted at each threshold `[A]`, right of these, and there to find."""

    thresholds: Floats
    kept: Ints
    correct: Ints
    gold: int

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> GoldSweep | None:
        """From a `decision.json`; None where it has no gold."""
        sweep, classes = record.get("by_threshold_if_gold"), record.get("classes_if_gold")
        if not sweep or not classes:
            return None
        names = [name for name in sweep["kept"] if name != OUTSIDE]
        kept, correct = (np.sum([sweep[key][n] for n in names], axis=0) for key in ("kept", "correct"))
        return cls(np.asarray(sweep["thresholds"]), kept, correct, sum(classes[n]["gold"] for n in names))

    @property
    def label_f1(self) -> Floats:
        """`[A]`, 2 correct / (kept + gold): rewards labels that are right and labels that are there."""
        return 2 * self.correct / np.maximum(1, self.kept + self.gold)

    @property
    def precision(self) -> Floats:
        """`[A]`, NaN where nothing is kept."""
        return np.where(self.kept > 0, self.correct / np.maximum(1, self.kept), np.nan)

    def best(self) -> dict[str, float]:
        """The threshold of the highest label F1: `alpha`, and `precision` and `f1` there."""
        place = int(self.label_f1.argmax())
        values = {"alpha": self.thresholds, "precision": np.nan_to_num(self.precision), "f1": self.label_f1}
        return {name: float(array[place]) for name, array in values.items()}

    def at(self, alpha: float) -> dict[str, float | None]:
        """At alpha, by the names of `RuleResult`; nothing where it is none of the thresholds that were counted at."""
        place = int(np.abs(self.thresholds - alpha).argmin())
        if not np.isclose(self.thresholds[place], alpha, rtol=0, atol=1e-12):
            return {}
        f1 = float(self.label_f1[place])
        return {
            "target_precision": float(self.precision[place]) if self.kept[place] else None,
            "target_f1": f1,
            "regret": float(self.label_f1.max()) - f1,
        }


@dataclass(frozen=True)
class RuleResult:
    """What one rule makes of a decision; shares are 0-1, None where they are not known.

    Attributes:
        at_edge: the grid decided (docs/method.md); `edge_share` is how often it did over the draws.
        low, high: the middle `LEVEL` of alpha over the draws.
        target_coverage: share of the unlabelled target items that alpha keeps, before entities are put together.
        target_precision, target_f1: of the labels that alpha accepts on the labelled target file, at a threshold of
            the grid and at the run's own alpha; `regret` is how much lower `target_f1` is than at the best of them.
    """

    rule: str
    alpha: float
    at_edge: bool
    low: float
    high: float
    edge_share: float
    source_accuracy: float | None
    source_coverage: float | None
    target_coverage: float | None
    target_precision: float | None = None
    target_f1: float | None = None
    regret: float | None = None


def example_sweep(items: LabelledVotes, thresholds: Floats) -> tuple[Ints, Ints]:
    """Kept, and kept and correct, items of each example at each threshold: `[N, A]` each; rows sum to the curve."""
    number = np.unique(items.example, return_inverse=True)[1]
    limits = thresholds.astype(items.confidence.dtype)
    above = np.searchsorted(limits, items.confidence, side="left")
    width = thresholds.size + 1
    rows = int(number.max(initial=-1)) + 1

    def count(chosen: NDArray[np.bool_]) -> Ints:
        flat = np.bincount(number[chosen] * width + above[chosen], minlength=rows * width).reshape(rows, width)
        return flat[:, :0:-1].cumsum(axis=1)[:, ::-1].astype(np.int64)

    usable = items.agree & np.isfinite(items.confidence)
    return count(usable), count(usable & items.correct)


def bootstrap_alphas(
    items: LabelledVotes,
    settings: AlphaConfig,
    num_classes: int,
    rules: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Floats, NDArray[np.bool_]]:
    """Alpha of each rule on draws of the examples with replacement, `[draws, rules]`, and whether at the edge."""
    thresholds = uniform_grid(num_classes, step=settings.step, upper=settings.upper)
    kept, correct = (t.astype(np.float64) for t in example_sweep(items, thresholds))
    number = np.unique(items.example, return_inverse=True)[1]
    sizes = np.bincount(number, minlength=len(kept)).astype(np.float64)
    limits: dict[str, Any] = {"min_kept": settings.min_kept, "min_share": settings.min_share}
    generator = np.random.default_rng(derive_seed(seed, "threshold-study"))
    alphas, edges = np.full((draws, len(rules)), np.nan), np.zeros((draws, len(rules)), dtype=bool)
    for i in range(draws):
        times = np.bincount(generator.integers(len(kept), size=len(kept)), minlength=len(kept)).astype(np.float64)
        sums = [np.rint(times @ counts).astype(np.int64) for counts in (kept, correct, sizes[:, None])]
        for j, rule in enumerate(rules):
            choice = choose_threshold_from_sweep(
                thresholds, sums[0], sums[1], total=int(sums[2][0]), rule=rule, **limits
            )
            if choice.fallback and not sums[0][0]:  # no confidence reaches the grid: counts do not give its median
                repeats = times[number].astype(np.int64)
                drawn = LabelledVotes(**{name: np.repeat(values, repeats) for name, values in vars(items).items()})
                choice = _choose(drawn, settings, num_classes, rule)
            alphas[i, j], edges[i, j] = choice.alpha, choice.at_edge
    return alphas, edges


def _choose(items: LabelledVotes, settings: AlphaConfig, num_classes: int, rule: str) -> ThresholdChoice:
    rules = settings.threshold | {"rule": rule, "num_classes": num_classes}
    return choose_threshold(items.confidence, items.correct, agree=items.agree, **rules)


def compare_rules(
    items: LabelledVotes,
    settings: AlphaConfig,
    num_classes: int,
    *,
    rules: Sequence[str] = COMPARED,
    target: tuple[NDArray[Any], NDArray[np.bool_]] | None = None,
    gold: GoldSweep | None = None,
    draws: int = DRAWS,
) -> list[RuleResult]:
    """All rules on one decision.

    Args:
        target: lowest confidence and agreement of the unlabelled target items.
        gold: the labelled target file; it is compared with, nothing is chosen by it.
    """
    alphas, edges = bootstrap_alphas(items, settings, num_classes, rules, draws)
    results = []
    for rule, drawn, at_edge in zip(rules, alphas.T, edges.T, strict=True):
        choice = _choose(items, settings, num_classes, rule)
        passed = items.agree & _above(items.confidence, choice.alpha)
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        coverage = None
        if target is not None and target[0].size:
            coverage = float((target[1] & _above(target[0], choice.alpha)).mean())
        results.append(
            RuleResult(
                rule=choice.rule,
                alpha=choice.alpha,
                at_edge=choice.at_edge,
                low=float(low),
                high=float(high),
                edge_share=float(at_edge.mean()),
                source_accuracy=float(items.correct[passed].mean()) if passed.any() else None,
                source_coverage=float(passed.mean()) if passed.size else None,
                target_coverage=coverage,
                **(gold.at(choice.alpha) if gold is not None else {}),
            )
        )
    return results


def _above(confidence: NDArray[Any], alpha: float) -> NDArray[np.bool_]:
    # In the precision of the confidences, as `decide` compares.
    return np.asarray(confidence > confidence.dtype.type(alpha))


@dataclass(frozen=True)
class DecisionStudy:
    """The rules on one decision, whose `alpha` is None without a filter.

    Attributes:
        oracle: the best threshold by `target_f1`, its `precision` and `f1`; None without gold.
        tagging: whether there is a label `O`, which is not among the labels that `oracle` and the rules count.
    """

    pair: str
    round: int
    seed: int
    stage: str
    rule: str
    alpha: float | None
    results: tuple[RuleResult, ...]
    oracle: dict[str, float] | None
    tagging: bool = False


def study_thresholds(folder: str | Path, *, rules: Sequence[str] = COMPARED, draws: int = DRAWS) -> list[DecisionStudy]:
    """All rules on all decisions of a run, in the order of target, round and seed.

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
            LabelledVotes.from_arrays(arrays),
            AlphaConfig(**{f.name: stage.alpha(f.name) for f in fields(AlphaConfig)}),
            len(record["classes"]),
            rules=rules,
            target=(arrays["target.confidence"][voted], arrays["target.agree"][voted].astype(bool)),
            gold=gold,
            draws=draws,
        )
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
                tagging=has_spans(run.summary["task"]),
            )
        )
    return studies


def write_thresholds(folder: str | Path) -> None:
    """Keep in `thresholds.json`, for the page of the report, what other rules would have chosen."""
    path = Path(folder) / THRESHOLDS
    try:
        studies = study_thresholds(folder, draws=PAGE_DRAWS)
    except DataError:  # nothing has ended, or nothing was decided; the page says so
        delete(path)
        return
    content = {"tables": rule_tables(studies), "notes": study_notes(studies), "made_from": made_from(path.parent)}
    atomic_write_json(path, content, indent=1)


def render_studies(name: str, studies: Sequence[DecisionStudy]) -> str:
    """The study for a terminal."""
    seeds = sorted({s.seed for s in studies})
    lines = [f"{name}: what each rule would have chosen, mean over seeds {', '.join(map(str, seeds))}"]
    for table in rule_tables(studies):
        lines += ["", table["title"], *text_table([table["header"], *table["lines"]])]
    return "\n".join([*lines, "", *study_notes(studies)])


def rule_tables(studies: Sequence[DecisionStudy]) -> list[dict[str, Any]]:
    """One table for each target and round, means over seeds: `title`, `header` and `lines`."""
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
        precision = "precision" + ", without O" * seeds[0].tagging
        header = [*_RULES, *([precision, *_GOLD] if gold else [])]
        tables.append({"title": title, "header": header, "lines": lines})
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
