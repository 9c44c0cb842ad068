"""What happened, in sentences made from the numbers: what rose, what fell, and what was used or is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...storage.text import some
from ..page import ups
from ..parts import Run
from ..seeds import Step
from ..stage_table import StageScore, step_between

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
        doubt = "; this is within the noise of these seeds" if len(run.result.seeds) >= FEW and unclear(whole) else ""
        out.append(
            f"Self-training ({students[0].label} to {students[-1].label}) on top of its first "
            f"teacher: {whole} points ({ups(whole)}){doubt}."
        )
    hurt = [f"{s.label} ({s.step}, {ups(s.step)})" for s in steps if s.step and s.step.stat.mean < 0]
    if hurt:
        out.append(f"Lowered the score on average: {'; '.join(hurt)}.")
    return out


def _read_best(steps: Sequence[StageScore]) -> list[str]:
    best = max((s for s in steps if s.average), key=lambda s: s.average.mean if s.average else 0.0, default=None)
    last = steps[-1].average
    if best is None or best.average is None or last is None or best.average.mean < last.mean + 0.05:
        return []
    return [
        f"The best stage on average was {best.label} ({best.average.mean:.1f}), not the last; to choose it "
        "by these scores would be to use target labels."
    ]
