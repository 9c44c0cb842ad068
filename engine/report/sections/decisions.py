"""What the filter decided, round by round: as a table, and class by class."""

from __future__ import annotations

from collections.abc import Sequence

from ....tasks import has_spans
from ...storage.text import counted, percent
from ...summary.seeds import mean
from ...summary.stage_table import Json
from ..page import folded, note, table
from ..parts import Run, accepted_share, alphas


def decision_table(run: Run) -> str:
    """One line per decision: threshold, what was accepted and why not, what the source lost."""
    decided = dict(sorted(run.decisions.items()))
    decisions = list(decided.values())
    gold = run.decides("precision_if_gold")
    header = ["target", "round", "seed", "α", "items", "accepted"]
    columns = [[pair or "-" for pair, _, _ in decided], *([str(key[i]) for key in decided] for i in (1, 2))]
    columns.append([alphas([(0, d)]) or "-" for d in decisions])
    columns.append([counted(d.get("items")) for d in decisions])
    columns.append([percent(accepted_share(d)) for d in decisions])
    if run.decides("coverage_entity"):
        header += ["of O", "of entities"]
        columns += [[percent(d.get(key)) for d in decisions] for key in ("coverage_o", "coverage_entity")]
    if gold:
        outside = ", with\u00a0O" if has_spans(run.summary["task"]) else ""
        header.append(f"precision{outside}\u00a0†")
        columns.append([percent(d.get("precision_if_gold")) for d in decisions])
    for reason in dict.fromkeys(reason for d in run.decisions.values() for reason in d.get("rejected") or {}):
        header.append(reason.replace("-", " "))
        columns.append([counted((d.get("rejected") or {}).get(reason)) for d in decisions])
    header.append("source removed")
    sources = [d.get("source") or {} for d in decisions]
    columns.append([percent((s.get("removed") or 0) / s["items"] if s.get("items") else None) for s in sources])
    rules = " and ".join(sorted({str(d.get("rule")) for d in decisions if d.get("rule")}))
    text = f"Threshold rule: {rules or 'not recorded'}. "
    if any(d.get("at_edge") for d in decisions):
        text += "α with *: at the edge of the grid, so the rule found no bend inside it. "
    if gold:
        text += "†: needs target gold labels; for looking at only, nothing was chosen by it. "
    text += "Source removed: the student no longer reproduced their labels; on clean data forgetting, not noise."
    notes = [text]
    if beside := [d["outside"] for d in decisions if d.get("outside")]:
        share = mean(o["items"] for o in beside) / mean(d["items"] for d in decisions if d.get("outside"))
        same = percent(mean(o["agreement"] for o in beside))
        notes.append(f"Outside labels name {percent(share)} of the items; the voters agree with {same} of them.")
    for (pair, number, seed), d in decided.items():
        if cut := (d.get("options") or {}).get("accept"):
            place = f"{pair or '-'}, round {number}, seed {seed}"
            notes.append(f"{place}: accept = {cut['rule']} took {cut['dropped']:,} labels away")
    return table(header, list(zip(*columns, strict=True)), dense=True) + "".join(map(note, notes))


def quality_section(run: Run) -> str:
    """Pseudo-labels by class, of each target and round; means over seeds."""
    parts = []
    for pair in run.pairs:
        for number in run.rounds:
            found = [d for _, d in run.cell(pair, number)]
            if found and all(d.get("classes") for d in found):
                parts.append(folded(f"{pair}, round {number}", _by_class(found)))
    if not parts:
        return ""
    text = (
        "By predicted class: unlabelled items, how many the filter accepts, and on the labelled target file †, which "
        "nothing was chosen by, how many of the accepted are right (precision) and how many of each class are found "
        "(recall). ECE: mean distance of confidence and accuracy."
    )
    return f"<h3>Quality of the pseudo-labels</h3>{''.join(parts)}{note(text)}"


def _by_class(found: Sequence[Json]) -> str:
    gold = [d["classes_if_gold"] for d in found if d.get("classes_if_gold")]
    total = mean(d["items"] for d in found)
    accepted = mean(d["accepted"] for d in found)
    lines = []
    for name in found[0]["classes"]:
        items, kept = (mean(d["classes"][name][k] for d in found) for k in ("items", "accepted"))
        line = [name, f"{items:,.0f}", percent(items / total if total else None), f"{kept:,.0f}"]
        line += [percent(kept / items if items else None), percent(kept / accepted if accepted else None)]
        if gold:
            right, taken, there = (sum(c[name][k] for c in gold) for k in ("correct", "accepted", "gold"))
            line += [percent(right / taken if taken else None), percent(right / there if there else None)]
        lines.append(line)
    header = ["class", "items", "share", "accepted", "of class", "share of accepted"]
    header += ["precision\u00a0†", "recall\u00a0†"] if gold else []
    errors = [f"{k} {100 * mean(e):.1f}" for k in ("source", "target") if (e := _calibration_errors(found, k))]
    return table(header, lines, dense=True) + (note(f"ECE in points: {', '.join(errors)}") if errors else "")


def _calibration_errors(found: Sequence[Json], which: str) -> list[float]:
    """The expected calibration error of each decision that has the bins."""
    errors = []
    for d in found:
        if bins := (d.get("calibration") or {}).get(which):
            total = sum(b["count"] for b in bins)
            errors.append(sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / total)
    return errors
