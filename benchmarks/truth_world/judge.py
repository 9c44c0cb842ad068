"""A finished run against the hidden labels and the planted errors of its world; nothing that trains imports this."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xlt_engine import DataError
from xlt_engine.data import OUTSIDE, derive_seed, read_conll
from xlt_engine.engine.lab.studies.finished_run import FinishedRun, TaskStage
from xlt_engine.engine.pseudolabels.filters import Reason
from xlt_engine.engine.reading.read_file import first_of_each
from xlt_engine.engine.stages.decision_files import SOFT_LABELS, decided_arrays
from xlt_engine.engine.storage.files import read_json

from .stats import Json, RoundItems, alpha_regret, label_quality, noise_filter, repeated_errors
from .world import TARGET, World

Arrays = dict[str, NDArray[np.generic]]


def judge(folder: Path, world: World) -> Json:
    """What the hidden labels say about a run of one seed: scores, the rounds of self-training, and what they removed.

    Raises:
        DataError: the folder holds no finished run, or that of another world.
    """
    run, rounds = FinishedRun.open(folder), list[Json]()
    noisy = np.zeros(world.knobs.train_sentences, dtype=bool)
    noisy[[error.sentence for error in world.noise]] = True
    gone, before = np.zeros_like(noisy), None
    for number, (stage, record, saved) in enumerate(run.decisions(), 1):
        items, draw = _items(run, world, stage, saved), derive_seed(stage.seed, "truth", number)
        leaving = ~gone & (saved["source.keep"] == 0)
        alpha, grid = record["alpha"], record["curve"]["thresholds"]
        rounds.append(
            {
                "round": number,
                "alpha": alpha,
                "labels": label_quality(items, draw),
                "repeated_errors": None if before is None else repeated_errors(before, items),
                "source": noise_filter(noisy, ~gone, leaving, draw),
                "threshold": None if alpha is None else alpha_regret(items, alpha, grid),
            }
        )
        before, gone = items, gone | leaving
    source = noise_filter(noisy, np.ones_like(noisy), gone, derive_seed(0, "truth")) if rounds else None
    scores = {_name(stage): _score(stage.folder) for stage in run.stages}
    return {"scores": scores, "rounds": rounds, "source": source}


def _items(run: FinishedRun, world: World, stage: TaskStage, saved: Arrays) -> RoundItems:
    names, teacher = read_json(stage.folder / "xlt.json")["labels"], run.labeller(stage)
    if teacher is None:
        raise DataError(f"{stage.folder}: the stage that gave its labels is gone")
    examples, offsets = _hidden(world), np.asarray(run.pool(TARGET).item_offsets)
    sizes = np.diff(offsets)
    # A sentence beyond max_length has lost its end.
    tags = [tag for example, size in zip(examples, sizes, strict=True) for tag in example[:size]]
    gold = np.array([names.index(tag) for tag in tags])
    if len(gold) != len(saved["target.label"]):
        raise DataError(f"{world.hidden}:1: is not the unlabelled text of {run.folder} with its labels")
    item = np.flatnonzero(saved["target.reason"] >= 0)
    soft = decided_arrays(teacher.folder, SOFT_LABELS)["targets"][item].astype(np.float64)
    return RoundItems(
        item=item,
        example=np.repeat(np.arange(len(sizes)), sizes)[item],
        gold=gold[item],
        teacher=soft.argmax(axis=1),
        teacher_confidence=soft.max(axis=1),
        label=saved["target.label"][item].astype(np.int64),
        agree=saved["target.agree"][item].astype(bool),
        confidence=saved["target.confidence"][item],
        kept=saved["target.reason"][item] == Reason.KEPT,
        outside=names.index(OUTSIDE),
    )


def _hidden(world: World) -> list[tuple[str, ...]]:
    """The gold labels of the sentences that the engine keeps of the unlabelled text, which drops repeats."""
    examples = list(read_conll(world.hidden, language=TARGET))
    return [tuple(examples[i].labels or ()) for i in first_of_each(examples)]


def _name(stage: TaskStage) -> str:
    """What `scores` calls a stage: "method" what is fine-tuned for the target after BTF."""
    if stage.kind != "finetune":
        return stage.stage
    return stage.arm if stage.arm in ("baseline", "control") else "method"


def _score(folder: Path) -> float | None:
    """Entity F1 on the target's test text, in points."""
    rows = read_json(folder / "scores.json").get("scores") or ()
    values = [row["value"] for row in rows if (row["language"], row["metric"]) == (TARGET, "entity_f1")]
    return float(values[0]) if values else None
