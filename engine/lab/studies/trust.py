"""`trust`: for each stage of a run an estimate of its target score without target labels, or none.

For texts and plain tags the estimate is of accuracy, for entities of F1, the metrics of the reports. Each stage's model
labels two samples, of held-out labelled source text and of unlabelled target text; target labels are read for the
column `true` alone. docs/trust.md says how well this does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .... import DataError
from ....data import OUTSIDE, TokenStore, derive_seed
from ....tasks import has_spans, per_word
from ...evaluation.metrics import EntityCounter
from ...evaluation.voted import Voted
from ...report.sections import TRUST
from ...report.write import write_report
from ...storage.files import write_sealed_json
from ...storage.run_warning import RunWarning
from ...storage.text import percent, points, text_table
from ...summary.seeds import mean
from ...summary.stage_folders import made_from
from ...summary.stage_table import METRIC_NAMES, SIDE_ARMS, target_rows
from ...training.progress import Progress
from .finished_run import FinishedRun, TaskStage
from .thresholds import write_thresholds
from .trust_estimate import (
    LEVEL,
    WIDEST,
    Estimate,
    Transport,
    calibrated_estimate,
    track_record,
    transport_accuracy,
    transport_f1,
)

SAMPLE = 1000
"""Examples of each text that are labelled for the estimate."""
WORDS = 6000
"""Words at most that the transport of a tagger is solved for."""


@dataclass(frozen=True)
class StageTrust:
    """One stage of one target, means over seeds; scores are shares (0-1).

    Attributes:
        estimate: of the target's score, with its interval; None where that would be too wide to say anything.
        source_score, source_transport, target_transport: see `Transport`.
        voters_agree: share of the target items on which all voters agree.
        true: the score on the target's test file; None without one. Nothing else here depends on it.
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
    target_transport: float
    voters_agree: float
    true: float | None


@dataclass(frozen=True)
class TrustReport:
    """Estimates of all stages, and warnings; `held_out` says which labelled source text was read."""

    name: str
    metric: str
    source: str
    held_out: str
    stages: tuple[StageTrust, ...]
    warnings: tuple[RunWarning, ...]


class Judged(NamedTuple):
    """What one stage's model says about the samples of the source and of one target."""

    stage: TaskStage
    target: str
    source_votes: Voted
    target_votes: Voted


def trust(
    folder: str | Path, *, sample: int = SAMPLE, truth: bool = True, progress: Progress | None = None
) -> TrustReport:
    """Estimates the target scores of all stages of a run.

    Args:
        sample: examples of each text; more take longer and narrow nothing but chance.
        truth: fill the column to compare with, where the run has scores on labelled target files.

    Raises:
        DataError: not a run, nothing has ended, or there is no labelled source text that no stage trains on.
    """
    run = FinishedRun.open(folder)
    held_out = run.source_held_out()
    if held_out is None:
        raise DataError(
            f"{run.folder}: no labelled source text that no stage trains on; give source.dev or source.test in the "
            "recipe and run it again (finished stages are only scored)"
        )
    measured: dict[tuple[str, int, str], dict[TaskStage, tuple[Transport, float]]] = {}
    for judged in judge_samples(run, held_out[0], sample, progress or Progress()):
        transport = measure_transport(judged.source_votes, judged.target_votes, run.model(judged.stage).labels)
        agreeing = float(judged.target_votes.votes.agree.float().mean())
        key = judged.target, judged.stage.order, judged.stage.stage
        measured.setdefault(key, {})[judged.stage] = transport, agreeing
    transports = {(stage.id, key[0]): values[0] for key, seeds in measured.items() for stage, values in seeds.items()}
    stages = tuple(_over_seeds(run, key[0], measured[key], transports, truth) for key in sorted(measured))
    names = str(run.summary["name"]), str(run.summary["metric"]), run.source, held_out[1]
    return TrustReport(*names, stages, predicted_harm(stages))


def judge_samples(run: FinishedRun, held_out: TokenStore, sample: int, progress: Progress) -> Iterator[Judged]:
    """Every stage's votes on at most `sample` examples of the held-out source and of each target that it serves."""
    texts = {target: run.pool(target) for target in run.targets}
    for stage in run.stages:
        progress.note(f"{stage.id}: labels samples of {run.source} and target")
        source = run.votes(stage, held_out, _sample(held_out, sample, "source"))
        for target in [stage.pair] if stage.pair else run.targets:
            yield Judged(stage, target, source, run.votes(stage, texts[target], _sample(texts[target], sample, target)))


def _sample(store: TokenStore, most: int, role: str) -> NDArray[np.int64]:
    """Some examples of a store, in order; the same for every stage."""
    generator = np.random.default_rng(derive_seed(0, "trust", role))
    return np.sort(generator.permutation(len(store))[:most])


def measure_transport(source: Voted, target: Voted, labels: tuple[str, ...]) -> Transport:
    """What the estimate of one model is made from: its votes on samples of both texts. Reads no gold of the target."""
    known = source.gold >= 0
    prior = np.bincount(source.gold[known], minlength=len(labels)) / max(1, int(known.sum()))
    p, q = (voted.votes.mean_probability.numpy() for voted in (source, target))
    if not has_spans(source.store.task):
        right = p.argmax(axis=-1) == source.gold
        p, q = (_some_words(x) if per_word(source.store.task) else x for x in (p, q))
        return Transport(float(right[known].mean()), transport_accuracy(p, prior), transport_accuracy(q, prior))
    outside = labels.index(OUTSIDE)
    on_source, on_target = (transport_f1(_some_words(x), prior, outside) for x in (p, q))
    return Transport(_entity_f1(source, labels), on_source, on_target)


def _some_words(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    generator = np.random.default_rng(derive_seed(0, "trust", "words"))
    return probability[generator.permutation(len(probability))[:WORDS]]


def _entity_f1(voted: Voted, labels: tuple[str, ...]) -> float:
    """Entity F1 over the words that the model sees."""
    counter = EntityCounter()
    predicted = voted.votes.mean_probability.numpy().argmax(axis=-1)
    ends = np.flatnonzero(np.diff(voted.example)) + 1
    for gold, guess in zip(np.split(voted.gold, ends), np.split(predicted, ends), strict=True):
        counter.update([labels[max(0, g)] for g in gold.tolist()], [labels[g] for g in guess.tolist()])
    return counter.result().f1 / 100


def _over_seeds(
    run: FinishedRun,
    target: str,
    measured: dict[TaskStage, tuple[Transport, float]],
    transports: dict[tuple[str, str], Transport],
    truth: bool,
) -> StageTrust:
    """One line of the report: the same stage of all seeds."""
    each = []
    for stage, (transport, _) in measured.items():
        teacher = run.first_teacher(stage)
        each.append(calibrated_estimate(transport, None if teacher is None else transports[teacher.id, target]))
    estimate = Estimate(*(mean(getattr(e, end) for e in each) for end in ("value", "low", "high")))
    first, seeds = next(iter(measured)), tuple(stage.seed for stage in measured)
    score, on_source, on_target = (mean(t[i] for t, _ in measured.values()) for i in range(3))
    return StageTrust(
        target=target,
        stage=first.stage,
        label=first.label,
        arm=first.arm,
        order=first.order,
        seeds=seeds,
        estimate=estimate if estimate.narrow else None,
        source_score=score,
        source_transport=on_source,
        target_transport=on_target,
        voters_agree=mean(agreeing for _, agreeing in measured.values()),
        true=_true(run, target, first.stage, seeds) if truth else None,
    )


def _true(run: FinishedRun, target: str, stage: str, seeds: Sequence[int]) -> float | None:
    wanted = stage, run.summary["metric"]
    rows = [r for r in target_rows(run.summary["rows"], [target]) if (r["stage"], r["metric"]) == wanted]
    values = [r["value"] / 100 for r in rows if r["seed"] in seeds]
    return mean(values) if values else None


def predicted_harm(stages: Sequence[StageTrust]) -> tuple[RunWarning, ...]:
    """`self-training-hurts`: the last stage of self-training has a lower estimate than the teacher it began with."""
    warnings = []
    for target in dict.fromkeys(s.target for s in stages):
        ordered = sorted((s for s in stages if s.target == target and s.arm not in SIDE_ARMS), key=lambda s: s.order)
        last = [s for s in ordered if s.arm == "selftrain"][-1:]
        teacher = [s for s in ordered if s.arm != "selftrain"][-1:]
        judged = [(s, s.estimate.value) for s in (*last, *teacher) if s.estimate is not None]
        if not (last and teacher) or len(judged) < 2 or judged[0][1] >= judged[1][1]:
            continue
        (student, low), (begun, high) = judged
        warnings.append(
            RunWarning(
                "self-training-hurts",
                f"{target}: self-training is predicted to hurt: {student.label} is estimated at {100 * low:.0f}, its "
                f"first teacher ({begun.label}) at {100 * high:.0f}; use the teacher, or look at the pseudo-labels "
                "with `xlt-engine thresholds` and `xlt-engine why`",
                {"target": target, "change": low - high, "last": student.stage, "teacher": begun.stage},
            )
        )
    return tuple(warnings)


def trust_lines(report: TrustReport) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of estimates, in points."""
    truth = any(s.true is not None for s in report.stages)
    header = ["target", "stage", "estimate", "interval", *(["true", "error"] if truth else [])]
    header += [f"{report.source} held out", "voters agree"]
    lines = []
    for s in sorted(report.stages, key=lambda s: (s.target, s.order)):
        e = s.estimate
        shown = ["-", "no estimate"] if e is None else [points(e.value), f"{points(e.low)} to {points(e.high)}"]
        line = [s.target, s.label, *shown]
        if truth:
            line += [points(s.true), "-" if s.true is None or e is None else f"{100 * (e.value - s.true):+.1f}"]
        lines.append([*line, points(s.source_score), percent(s.voters_agree)])
    return header, lines


def trust_notes(report: TrustReport) -> list[str]:
    """What the estimates are, and how such intervals have done, in sentences."""
    kinds = sorted({s.arm == "selftrain" for s in report.stages})
    return [
        f"from {report.source} {report.held_out} text and unlabelled target text; no target label is read but for the "
        "column true",
        f"the interval is meant to hold the truth in {100 * LEVEL:.1f} % of all cases; where it would be wider than "
        f"{100 * WIDEST:.0f} points from end to end there is no estimate. How it did (docs/trust.md):",
        *(track_record(report.metric, kind) for kind in kinds),
        "which stage to take does not follow: the highest estimate was no better a choice than the last stage",
    ]


def render_trust(report: TrustReport) -> str:
    """The estimates for a terminal, with what follows from them."""
    header, rows = trust_lines(report)
    metric = METRIC_NAMES.get(report.metric, report.metric)
    title = f"{report.name}: {metric} on the target as estimated without its labels, points"
    warnings = [f"warning: {w.name}: {w.message}" for w in report.warnings]
    return "\n".join([title, "", *text_table([header, *rows]), "", *trust_notes(report), *warnings])


def write_trust(folder: str | Path, report: TrustReport) -> None:
    """Keep the estimates in `trust.json` of the run, and write its report again."""
    header, lines = trust_lines(report)
    page = {"header": header, "lines": lines, "notes": trust_notes(report)}
    write_sealed_json(Path(folder) / TRUST, asdict(report) | {"page": page, "made_from": made_from(Path(folder))})
    write_thresholds(folder)
    write_report(folder)
