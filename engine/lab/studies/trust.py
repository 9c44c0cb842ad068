"""Trust without target labels: for each stage of a run an estimate of its target score, or none.

For classification the estimate is of accuracy, for tagging of entity F1, the metrics of the reports. Each stage's model
labels two samples, of held-out labelled source text and of unlabelled target text; target labels are read for the
column `true` alone. docs/trust.md says how well this does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .... import DataError
from ....data import OUTSIDE
from ...pseudolabels.thresholds import uniform_grid
from ...report.parts import mean
from ...report.stage_table import SIDE_ARMS
from ...stages.round_decision import Voted
from ...storage.run_warning import RunWarning
from ...training.progress import Progress
from .estimators import Estimate, Floats, Transport, calibrated_estimate, expected_label_f1, label_coupling
from .finished import FinishedRun, TaskStage
from .signals import WORDS, Signals, measure_signals, sample_examples, seeds_agree

Entry = tuple[TaskStage, Signals, Voted, dict[str, float] | None]
SAMPLE = 1000
"""Examples of each text that are labelled for the estimate."""


@dataclass(frozen=True)
class StageTrust:
    """One stage of one target, means over seeds; scores are shares (0-1).

    Attributes:
        estimate: of the target's score, with its interval; None where that would be too wide to say anything.
        methods: what other estimators say (see `signals.Signals`); `seeds` is the agreement of this stage's models
            of different seeds.
        true: the score on the target's test file; None without one. Nothing else here depends on it.
        alpha: for a soft stage whose model made a decision: the threshold that the estimate `preferred`, and the one
            `used`; with the truth also what these and the `lowest` lose in label F1 against the best (`regret_*`).
    """

    target: str
    stage: str
    label: str
    arm: str
    order: int
    seeds: tuple[int, ...]
    estimate: Estimate | None
    source_score: float
    source_transport: float
    voters_agree: float
    shift: float | None
    items: float
    methods: dict[str, float | None]
    alpha: dict[str, float] | None
    true: float | None


@dataclass(frozen=True)
class TrustReport:
    """Estimates of all stages, and warnings."""

    name: str
    metric: str
    source: str
    held_out: str
    stages: tuple[StageTrust, ...]
    warnings: tuple[RunWarning, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def trust(
    folder: str | Path | FinishedRun, *, sample: int = SAMPLE, truth: bool = True, progress: Progress | None = None
) -> TrustReport:
    """Estimates the target scores of all stages of a run.

    Args:
        sample: examples of each text; more take longer and narrow nothing but chance.
        truth: fill the column to compare with, where the run has scores on labelled target files.

    Raises:
        DataError: not a run, nothing has ended, or there is no labelled source text that no stage trains on.
    """
    run = folder if isinstance(folder, FinishedRun) else FinishedRun.open(folder)
    held_out = run.source_held_out()
    if held_out is None:
        raise DataError(
            f"{run.folder}: no labelled source text that no stage trains on; give source.dev or source.test in the "
            "recipe and run it again (finished stages are only scored)"
        )
    found: dict[tuple[str, int, str], list[Entry]] = {}
    transports: dict[tuple[str, str], Transport] = {}
    texts = {target: run.pool(target) for target in run.targets}
    for stage in run.stages:
        (progress or Progress()).note(f"{stage.id}: labels samples of {run.source} and target")
        source = run.votes(stage, held_out[0], sample_examples(held_out[0], sample, "source"))
        for target in [stage.pair] if stage.pair else run.targets:
            voted = run.votes(stage, texts[target], sample_examples(texts[target], sample, target))
            signals = measure_signals(source, voted, run.model(stage).labels)
            alpha = _advice(run, stage, source, voted, sample, truth) if stage.kind == "soft" else None
            transports[stage.id, target] = signals.transport
            found.setdefault((target, stage.order, stage.stage), []).append((stage, signals, voted, alpha))
    stages = tuple(_over_seeds(run, *key, entries, transports, truth) for key, entries in sorted(found.items()))
    return TrustReport(
        name=str(run.summary["name"]),
        metric=str(run.summary["metric"]),
        source=run.source,
        held_out=held_out[1],
        stages=stages,
        warnings=predicted_harm(stages),
    )


def _over_seeds(
    run: FinishedRun,
    target: str,
    order: int,
    name: str,
    entries: Sequence[Entry],
    transports: dict[tuple[str, str], Transport],
    truth: bool,
) -> StageTrust:
    signals = [s for _, s, _, _ in entries]
    teachers = [run.first_teacher(s) for s, _, _, _ in entries]
    each = [
        calibrated_estimate(s.transport, None if t is None else transports[t.id, target])
        for s, t in zip(signals, teachers, strict=True)
    ]
    estimate = Estimate(*(mean(getattr(e, end) for e in each) for end in ("value", "low", "high")))
    values = {k: [v for s in signals if (v := s.methods[k]) is not None] for k in signals[0].methods}
    methods: dict[str, float | None] = {k: mean(v) if v else None for k, v in values.items()}
    votes = [v for _, _, v, _ in entries]
    pairs = [seeds_agree(a, b) for i, a in enumerate(votes) for b in votes[i + 1 :]]
    methods["seeds"] = mean(pairs) if pairs else None
    seeds = tuple(s.seed for s, _, _, _ in entries)
    advice = [a for *_, a in entries if a is not None]
    shifts = [s.shift for s in signals if s.shift is not None]
    return StageTrust(
        target=target,
        stage=name,
        label=entries[0][0].label,
        arm=entries[0][0].arm,
        order=order,
        seeds=seeds,
        estimate=estimate if estimate.narrow else None,
        source_score=mean(s.source_score for s in signals),
        source_transport=mean(s.source_transport for s in signals),
        voters_agree=mean(s.voters_agree for s in signals),
        shift=mean(shifts) if shifts else None,
        items=mean(s.items for s in signals),
        methods=methods,
        alpha={k: mean(a[k] for a in advice) for k in advice[0]} if advice else None,
        true=_true(run, target, name, seeds) if truth else None,
    )


def _true(run: FinishedRun, target: str, stage: str, seeds: Sequence[int]) -> float | None:
    rows = [
        r["value"] / 100
        for r in run.summary["rows"]
        if (r["language"], r["stage"], r["metric"]) == (target, stage, run.summary["metric"])
        and r["pair"] in (None, target)
        and r["seed"] in seeds
    ]
    return mean(rows) if rows else None


def _advice(
    run: FinishedRun, stage: TaskStage, source: Voted, target: Voted, sample: int, truth: bool
) -> dict[str, float] | None:
    """The threshold that the estimate prefers for the decision of a stage's model, beside the one that was used.

    It is that of the usual grid whose accepted labels the coupling expects to be best (`expected_label_f1`). With the
    truth: what it and others lose against the best one, on a sample of the labelled target file.
    """
    used = [
        record["alpha"]
        for hard, record in run.decisions()
        if run.labeller(hard) is stage and record["alpha"] is not None
    ]
    if not used:
        return None
    labels = run.model(stage).labels
    grid = uniform_grid(len(labels))
    known = source.gold[source.gold >= 0]
    part = slice(0, WORDS)
    prior = np.bincount(known, minlength=len(labels)) / max(1, known.size)
    expected = _label_f1(target, label_coupling(target.votes.mean_probability.numpy()[part], prior), grid, labels)
    best = int(np.argmax(expected))
    found = {"preferred": float(grid[best]), "used": float(used[0])}
    test = run.test(str(stage.pair)) if truth else None
    if test is not None:
        voted = run.votes(stage, test, sample_examples(test, sample, "test"))
        right = np.eye(len(labels))[np.maximum(0, voted.gold)]
        scores = _label_f1(voted, right, grid, labels)
        places = {"preferred": best, "used": int(np.abs(grid - used[0]).argmin()), "lowest": 0}
        found |= {f"regret_{name}": float(scores.max() - scores[i]) for name, i in places.items()}
    return found


def _label_f1(voted: Voted, coupling: NDArray[Any], grid: NDArray[np.float64], labels: tuple[str, ...]) -> Floats:
    """`expected_label_f1` at every threshold; of the first items where the coupling has fewer."""
    part = slice(0, len(coupling))
    outside = labels.index(OUTSIDE) if OUTSIDE in labels else None
    label, agree, confidence = (getattr(voted.votes, n).numpy()[part] for n in ("label", "agree", "min_confidence"))
    return np.array(
        [
            expected_label_f1(label, agree & (confidence > confidence.dtype.type(t)), coupling, outside=outside)
            for t in grid
        ]
    )


def predicted_harm(stages: Sequence[StageTrust]) -> tuple[RunWarning, ...]:
    """`self-training-hurts`: the last stage of self-training has a lower estimate than the teacher it began with."""
    warnings = []
    for target in dict.fromkeys(s.target for s in stages):
        own = sorted((s for s in stages if s.target == target and s.arm not in SIDE_ARMS), key=lambda s: s.order)
        students = [s for s in own if s.arm == "selftrain"]
        teachers = [s for s in own if s.arm != "selftrain"]
        if not students or not teachers:
            continue
        teacher, last = teachers[-1], students[-1]
        if teacher.estimate is None or last.estimate is None:
            continue
        change = last.estimate.value - teacher.estimate.value
        if change >= 0:
            continue
        warnings.append(
            RunWarning(
                "self-training-hurts",
                f"{target}: self-training is predicted to hurt: {last.label} is estimated at "
                f"{100 * last.estimate.value:.0f}, its first teacher ({teacher.label}) at "
                f"{100 * teacher.estimate.value:.0f}; use the teacher, or look at the pseudo-labels with "
                "`xlt-engine thresholds` and `xlt-engine why`",
                {"target": target, "change": change, "last": last.stage, "teacher": teacher.stage},
            )
        )
    return tuple(warnings)
