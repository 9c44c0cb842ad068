"""What happened, in sentences, and the scores of each entity type, or class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....tasks import shown_task
from ...storage.files import read_json
from ...storage.text import percent, some
from ...summary.seeds import Stat, Step, stat
from ...summary.stage_table import Json, StageKey, StageScore, or_dash, row_key, step_between, target_rows
from ..page import folds, note, table, ups
from ..parts import Run
from ..svg import clean

_LISTED = 15
"""Confusions of a model, at most."""
FEW = 3
"""With fewer seeds nothing is said about their noise."""


def reading(run: Run) -> list[str]:
    """What happened, in sentences made from the numbers; stages that hurt are named."""
    out: list[str] = []
    steps = run.result.trail
    if len(steps) > 1:
        out += _read_whole(run, steps)
        out += _read_steps(run, steps)
    if stages := run.result.stages:
        parallel = "Parallel data" if any("uses_parallel_data" in s.marks for s in stages) else "No parallel data"
        labels = "more than scoring" if any("uses_target_labels" in s.marks for s in stages) else "scoring only"
        out.append(f"{parallel} was used; target labels were used for {labels}.")
    if 0 < len(run.result.seeds) < 3 and steps:
        few = "One seed shows" if len(run.result.seeds) == 1 else "Two seeds show"
        out.append(f"{few} what happened here, not what others would give.")
    unscored = [t for t in run.summary["targets"] if t not in run.result.targets]
    if unscored:
        out.append(f"No scores for {', '.join(unscored)}: no labelled test set, or its stages have not finished.")
    open_stages = [s["folder"] for s in run.summary["stages"] if not s["finished"]]
    if open_stages:
        out.append(f"Not finished: {some(open_stages, 3)}. Start the run again to continue it.")
    return out or ["Nothing has been scored yet."]


def unclear(step: Step) -> bool:
    """Whether a step is within two standard errors of zero, or cannot be told for want of seeds."""
    if step.stat.std is None or step.stat.n < 3:
        return True
    return abs(step.stat.mean) <= 2 * step.stat.std / math.sqrt(step.stat.n)


def _read_whole(run: Run, steps: Sequence[StageScore]) -> list[str]:
    first, last = steps[0], steps[-1]
    whole = step_between(last.values, first.values, first.stage)
    if not whole:
        return []
    verb = "rose" if whole.stat.mean > 0 else "fell" if whole.stat.mean < 0 else "did not move,"
    many = len(run.result.targets) > 1
    over = "averaged over targets and seeds" if many else "averaged over seeds" if whole.stat.n > 1 else "in one seed"
    ends = f" from {first.average.mean:.1f} to {last.average.mean:.1f}" if first.average and last.average else ""
    return [
        f"From {first.label} to {last.label}, {run.metric} {verb}{ends}: {whole} points {over}"
        f", {ups(whole)} {'(target, seed) pairs' if many else 'seeds'}."
    ]


def _read_steps(run: Run, steps: Sequence[StageScore]) -> list[str]:
    out = []
    if btf := next((s for s in steps if s.arm == "btf" and s.step), None):
        assert btf.step
        out.append(f"Bilingual task fitting (BTF): {btf.step} points ({ups(btf.step)}).")
    students = [s for s in steps if s.arm == "selftrain"]
    teachers = [s for s in steps if s.arm != "selftrain"]
    if students and teachers and (whole := step_between(students[-1].values, teachers[-1].values, "teacher")):
        doubt = "; this is within the noise of these seeds" if len(run.result.seeds) >= FEW and unclear(whole) else ""
        out.append(
            f"Self-training ({students[0].label} to {students[-1].label}) on top of its first "
            f"teacher: {whole} points ({ups(whole)}){doubt}."
        )
    hurt = [f"{s.label} ({s.step}, {ups(s.step)})" for s in steps if s.step and s.step.stat.mean < 0]
    if hurt:
        out.append(f"Lowered the score on average: {'; '.join(hurt)}.")
    return out


def class_section(run: Run) -> str:
    """A table for each language that was scored, the first one open; empty without one."""
    rows = [r for r in run.summary["rows"] if r.get("classes") and r["metric"] == run.result.metric]
    sources = [s for s in (run.result.source, *run.result.more_sources) if s]
    tables = {}
    for language in dict.fromkeys([*run.result.targets, *sources]):
        if html := _table(run, language, rows) + _confusion(run, language):
            tables[language] = html
    if not tables:
        return ""
    return f"<h3>Each {shown_task(run.summary['task']).kind} by itself</h3>{folds(tables.items())}"


def _table(run: Run, language: str, rows: Sequence[Json]) -> str:
    """Means over seeds, and for the source over the models of all targets; the last stage first."""
    is_target = language in run.result.targets
    here = target_rows(rows, [language]) if is_target else [r for r in rows if r["language"] == language]
    labels = {row_key(r): r["label"] for r in here}
    stages = sorted(labels)
    names = sorted({name for r in here for name in r["classes"]})
    if not names:
        return ""
    trail = {s.key for s in run.result.trail}
    last = next((key for key in reversed(stages) if key in trail), stages[-1])
    earlier = [stage for stage in stages if stage != last]
    header = ["", "support", *(f"{what}, {labels[last]}" for what in ("precision", "recall", "F1"))]
    header += [f"F1, {labels[stage]}" for stage in earlier]
    lines = []
    for name in names:
        cells = [_of(here, last, name, what) for what in ("precision", "recall", "f1")]
        cells += [_of(here, key, name, "f1") for key in earlier]
        support = next(r["classes"][name]["support"] for r in here if name in r["classes"])
        lines.append([name, f"{support:,}", *map(or_dash, cells)])
    return table(header, lines, dense=True)


def _of(rows: Sequence[Json], key: StageKey, name: str, what: str) -> Stat | None:
    """A class that a model neither met nor predicted has no entry, and no score."""
    classes = [r["classes"] for r in rows if row_key(r) == key]
    return stat(one[name][what] for one in classes if name in one)


def _confusion(run: Run, language: str) -> str:
    """What the model that the run names for a target takes for what; empty for other languages."""
    answer = run.answers.get(language)
    if answer is None:
        return ""
    scores = read_json(answer.folder / "scores.json").get("scores") or ()
    rows = [s for s in scores if (s["language"], s["metric"]) == (language, run.result.metric)]
    if not rows:
        return ""
    if "confusion" not in rows[0]:
        return note(f"No table of confusions: {answer.stage} was scored before they were counted.")
    counts: dict[str, dict[str, int]] = rows[0]["confusion"]
    task = shown_task(run.summary["task"])
    what = f"{task.units.capitalize()} by {task.kind}"
    pairs = sorted(((n, g, p) for g, row in counts.items() for p, n in row.items() if g != p), reverse=True)
    lines = [[g, p, f"{n:,}", percent(n / sum(counts[g].values()))] for n, g, p in pairs[:_LISTED]]
    caption = f"{what}: the most frequent confusions of {answer.stage}, {len(lines)} of {len(pairs):,}"
    return f"<p>{clean(caption)}.</p>{table(['gold', 'predicted', 'times', 'share of gold'], lines, dense=True)}"
