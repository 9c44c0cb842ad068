"""What happened, in sentences made from the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...evaluation.per_example import load_items
from ..page import some, source_lost, ups
from ..parts import Run, mean, percent
from ..seeds import Bootstrap, Step, compare, draw_seed, over_targets, scores_on_draws, stat
from ..stage_table import StageScore, row_key, step_between
from ..training import accepted_share

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
        out += _read_gap(steps)
    control = [s for s in run.result.stages if s.arm == "control"]
    task = [s for s in steps if s.arm == "btf"]
    if control and task and (step := step_between(task[0].values, control[0].values, "control")):
        out.append(f"BTF on task text against the same BTF on general text (control): {step} points ({ups(step)}).")
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
    single = [
        f"{s.label} on {t} ({step})"
        for s in steps
        for t, step in s.steps.items()
        if step.stat.mean < 0 and s.step and s.step.stat.mean >= 0
    ]
    if single:
        out.append(f"Rose on average but fell in one language: {'; '.join(single)}.")
    vague = [s.label for s in students if s.step and unclear(s.step)]
    if vague and len(run.result.seeds) >= FEW:
        out.append(f"Single steps within two standard errors of zero: {', '.join(vague)}. Do not read them one by one.")
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


def _read_gap(steps: Sequence[StageScore]) -> list[str]:
    first, last = (stat(g.mean for g in s.gaps.values()) for s in (steps[0], steps[-1]))
    a, b = steps[0].source, steps[-1].source
    if not (first and last and a and b):
        return []
    text = f"The transfer gap (source minus target) went from {first.mean:.1f} to {last.mean:.1f} points"
    fall, shrunk = a.mean - b.mean, first.mean - last.mean
    if fall > 0.5 and fall > shrunk > 0:
        text += f"; all of it because the source score fell ({a.mean:.1f} to {b.mean:.1f}): the targets' fell too"
    elif fall > 0.5 and shrunk > 0:
        text += f"; {fall:.1f} points of that come from the source score falling ({a.mean:.1f} to {b.mean:.1f})"
    else:
        text += f"; the source score went from {a.mean:.1f} to {b.mean:.1f}"
    return [text + "."]


def read_decisions(run: Run) -> list[str]:
    """What the filter did, in sentences."""
    found = list(run.decisions.values())
    if not found:
        return []
    picks = [d["alpha"] for d in found if d.get("alpha") is not None]
    edge = sum(bool(d.get("at_edge")) for d in found)
    text = ""
    if picks:
        low, high = f"{min(picks):.2f}", f"{max(picks):.2f}"
        text = f"The threshold α, found on the source, was {low if low == high else f'between {low} and {high}'}"
        text += f" ({edge} of {len(picks)} at the edge of the grid). " if edge else ". "
    text += f"On average the filter accepted {percent(mean(accepted_share(d) for d in found))} of the target items"
    entity, right = (mean(d.get(k) for d in found) for k in ("coverage_entity", "precision_if_gold"))
    text += f", and {percent(entity)} of those predicted as part of an entity" if not math.isnan(entity) else ""
    text += f"; by gold labels {percent(right)} of the accepted were right" if not math.isnan(right) else ""
    out = [text + "."]
    if beside := [d["outside"] for d in found if d.get("outside")]:
        share = mean(o["items"] for o in beside) / mean(d["items"] for d in found if d.get("outside"))
        same, named = (percent(mean(o[key] for o in beside)) for key in ("agreement", "agreement_named"))
        tail = "" if math.isnan(entity) else f", and on {named} of those that either takes for part of an entity"
        out.append(f"Outside labels name {percent(share)} of the items; the voters agree with {same} of them{tail}.")
    if not math.isnan(lost := mean(map(source_lost, found))):
        out.append(
            f"A round removed {percent(lost)} of the labelled source samples on average, because the student no longer "
            "reproduced their labels. On clean data this is forgetting, not noise."
        )
    return out
