"""The threshold study and the trust report as tables: for a terminal, and as cells for the page of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...report.parts import mean, percent
from ...report.stage_table import METRIC_NAMES
from ...report.text_table import text_table
from .run_thresholds import DecisionStudy
from .threshold_study import LEVEL, RuleResult
from .trust import StageTrust, TrustReport
from .trust_record import LEVEL as TRUST_LEVEL
from .trust_record import WIDEST, track_record

_RULES = ["rule", "alpha", f"{100 * LEVEL:.0f} % of draws", "edge", "accuracy", "coverage", "target coverage"]
_GOLD = ["precision", "label F1", "regret"]


def rule_tables(studies: Sequence[DecisionStudy]) -> list[tuple[str, list[str], list[list[str]]]]:
    """One table for each target and round, means over seeds: title, header and lines."""
    found = []
    for pair, number in sorted({(s.pair, s.round) for s in studies}):
        own = [s for s in studies if (s.pair, s.round) == (pair, number)]
        gold = [s.oracle for s in own if s.oracle]
        lines = [_rule_line([s.results[i] for s in own], bool(gold)) for i in range(len(own[0].results))]
        if gold:
            ends = [percent(mean(o["precision"] for o in gold)), f"{mean(o['f1'] for o in gold):.3f}", "0.000"]
            lines.append(["best by gold", f"{mean(o['alpha'] for o in gold):.2f}", *[""] * (len(_RULES) - 2), *ends])
        alpha = ", ".join("none" if s.alpha is None else f"{s.alpha:.2f}" for s in own)
        title = f"{pair}, round {number}: alpha {alpha} by {own[0].rule}"
        if distances := [s.curve_distance for s in own if s.curve_distance is not None]:
            title += f"; curves of source and target {100 * mean(distances):.1f} points apart"
        found.append((title, [*_RULES, *(_GOLD if gold else [])], lines))
    return found


def _rule_line(results: Sequence[RuleResult], gold: bool) -> list[str]:
    def average(name: str) -> float:
        return mean(getattr(r, name) for r in results)

    line = [results[0].rule, f"{average('alpha'):.2f}{'*' * any(r.at_edge for r in results)}"]
    line += [f"{average('low'):.2f} to {average('high'):.2f}", percent(average("edge_share"))]
    line += [percent(average(n)) for n in ("source_accuracy", "source_coverage", "target_coverage")]
    if gold:
        line += [percent(average("target_precision")), f"{average('target_f1'):.3f}", f"{average('regret'):.3f}"]
    return line


def render_studies(name: str, studies: Sequence[DecisionStudy]) -> str:
    """The study for a terminal."""
    seeds = sorted({s.seed for s in studies})
    lines = [f"{name}: what each rule would have chosen, mean over seeds {', '.join(map(str, seeds))}"]
    for title, header, rows in rule_tables(studies):
        lines += ["", title, *text_table([header, *rows])]
    lines += ["", *study_notes(studies)]
    return "\n".join(lines)


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
    if any(s.recomputed for s in studies):
        notes.append("the votes were not stored when this run decided; the models have voted again")
    return notes


def trust_lines(report: TrustReport) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of estimates, in points."""
    truth = any(s.true is not None for s in report.stages)
    header = ["target", "stage", "estimate", "interval", *(["true", "error"] if truth else [])]
    header += [f"{report.source} held out", "voters agree"]
    lines = []
    for s in sorted(report.stages, key=lambda s: (s.target, s.order)):
        e = s.estimate
        shown = ["-", "no estimate"] if e is None else [_points(e.value), f"{_points(e.low)} to {_points(e.high)}"]
        line = [s.target, s.label, *shown]
        if truth:
            line += [_points(s.true), "-" if s.true is None or e is None else f"{100 * (e.value - s.true):+.1f}"]
        lines.append([*line, _points(s.source_score), percent(s.voters_agree)])
    return header, lines


def trust_notes(report: TrustReport) -> list[str]:
    """What the estimates are, and how such intervals have done, in sentences."""
    kinds = sorted({s.arm == "selftrain" for s in report.stages})
    notes = [
        f"from {report.source} {report.held_out} text and unlabelled target text; no target label is read but for the "
        "column true",
        f"the interval is meant to hold the truth in {100 * TRUST_LEVEL:.1f} % of all cases; where it would be wider "
        f"than {100 * WIDEST:.0f} points from end to end there is no estimate. How it did (docs/trust.md):",
        *(track_record(report.metric, kind) for kind in kinds),
        "which stage to take does not follow: the highest estimate was no better a choice than the last stage",
    ]
    return notes + alpha_notes(report.stages)


def render_trust(report: TrustReport) -> str:
    """The estimates for a terminal, with what follows from them."""
    header, rows = trust_lines(report)
    metric = METRIC_NAMES.get(report.metric, report.metric)
    title = f"{report.name}: {metric} on the target as estimated without its labels, points"
    warnings = [f"warning: {w.name}: {w.message}" for w in report.warnings]
    return "\n".join([title, "", *text_table([header, *rows]), "", *trust_notes(report), *warnings])


def alpha_notes(stages: Iterable[StageTrust]) -> list[str]:
    """A sentence for each decision on the threshold that the estimate prefers."""
    return [
        f"{s.target}, decision by {s.label}: alpha was {s.alpha['used']:.2f}, the estimate prefers "
        f"{s.alpha['preferred']:.2f}"
        for s in stages
        if s.alpha is not None
    ]


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
