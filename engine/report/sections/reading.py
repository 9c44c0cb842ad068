"""What happened, in sentences made from the numbers: what rose, what fell, and what was used or is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...evaluation.per_example import load_items
from ...storage.text import some
from ..page import ups
from ..parts import Run
from ..seeds import Bootstrap, Step, compare, draw_seed, over_targets, scores_on_draws
from ..stage_table import StageScore, row_key, step_between

DRAWS = 1000
"""Of the bootstrap over test items."""
FEW = 3
"""With fewer seeds nothing is said about their noise."""


def reading(run: Run) -> list[str]:
    """What happened, in sentences made from the numbers; stages that hurt are named."""
    out: list[str] = []
    steps = run.result.trail
    if len(steps) > 1:
        out += _read_whole(run, steps)
        out += _read_steps(run, steps)
        out += _read_best(steps)
    if stages := run.result.stages:
        parallel = "Parallel data" if any(s.uses_parallel_data for s in stages) else "No parallel data"
        labels = "more than scoring" if any(s.uses_target_labels for s in stages) else "scoring only"
        out.append(f"{parallel} was used; target labels were used for {labels}.")
        if any(s.uses_dictionary for s in stages):
            out.append("A dictionary was used for code switching.")
        if any(s.uses_outside_labels for s in stages):
            out.append("Labels from outside, which no stage of this run made, taught beside its own teachers.")
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
        doubt = _doubt(run, whole, students[-1], teachers[-1])
        out.append(
            f"Self-training ({students[0].label} to {students[-1].label}) on top of its first "
            f"teacher: {whole} points ({ups(whole)}){doubt}."
        )
    hurt = [f"{s.label} ({s.step}, {ups(s.step)})" for s in steps if s.step and s.step.stat.mean < 0]
    if hurt:
        out.append(f"Lowered the score on average: {'; '.join(hurt)}.")
    return out


def _doubt(run: Run, step: Step, now: StageScore, before: StageScore) -> str:
    """What speaks against taking a step at its word: the seeds, or where there are too few, the test items alone."""
    if len(run.result.seeds) >= FEW:
        return "; this is within the noise of these seeds" if unclear(step) else ""
    interval = _over_items(run, now, before)
    if interval is None:
        return ""
    may = "may" if interval.low <= 0 <= interval.high else "does not"
    return (
        f"; drawing the test items anew puts it between {interval.low:+.1f} and {interval.high:+.1f} (95 %), so which "
        f"items were in the test {may} explain it"
    )


def _over_items(run: Run, now: StageScore, before: StageScore) -> Bootstrap | None:
    """The step on other draws of the test items, mean over targets and seeds; None where they were not kept."""
    parts = []
    models = {(r["language"], r["seed"], row_key(r)): run.folder / r["model"] for r in run.target_rows}
    for target in run.result.targets:
        seeds = [s for s in run.result.seeds if {(target, s, x.key) for x in (now, before)} <= models.keys()]
        items = {(x.key, s): load_items(models[target, s, x.key]).get(target) for x in (now, before) for s in seeds}
        kept = {name: rows for name, rows in items.items() if rows is not None}
        if not items or len(kept) < len(items) or len({len(rows) for rows in kept.values()}) > 1:
            return None
        draws = scores_on_draws(kept, samples=DRAWS, seed=draw_seed(target))
        sides = [[which[x.key, s] for s in seeds] for which in (kept, draws) for x in (now, before)]
        parts.append(compare(*sides))
    return over_targets(parts) if parts else None


def _read_best(steps: Sequence[StageScore]) -> list[str]:
    best = max((s for s in steps if s.average), key=lambda s: s.average.mean if s.average else 0.0, default=None)
    last = steps[-1].average
    if best is None or best.average is None or last is None or best.average.mean < last.mean + 0.05:
        return []
    return [
        f"The best stage on average was {best.label} ({best.average.mean:.1f}), not the last; to choose it "
        "by these scores would be to use target labels."
    ]
