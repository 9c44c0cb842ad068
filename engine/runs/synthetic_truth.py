"""`truth.json`: what the hidden labels of a truth world say about a run, after it (docs/truth-world.md).

Reads the files of gold labels and the record of planted errors, and what the stages stored of their decisions. Nothing
that trains imports this module, and the files are not among those of the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import DataError
from ...data import OUTSIDE, TruthFiles, derive_seed, open_truth_world
from ...data.store.store import IGNORE
from ...tasks import task_of
from ..evaluation.metrics import entity_f1
from ..plan import Stage
from ..pseudolabels.filters import Reason
from ..reading.read_file import first_of_each
from ..recipe.config import TargetConfig
from ..report.seeds import stat
from ..report.stage_table import SIDE_ARMS
from ..stages.context import Context
from ..stages.decision_files import DECISION, of_one_target
from ..stages.round_decision import read_record
from ..storage.files import atomic_write_json, read_json
from ..storage.names import FINISHED, SOFT_LABELS, TRUTH, of_target, serves
from ..storage.soft_labels import read_soft_labels
from .synthetic_stats import Json, RoundItems, alpha_regret, label_quality, noise_filter, repeated_errors

SCHEMA_VERSION = 1


def write_truth(context: Context, plan: Sequence[Stage]) -> Json | None:
    """Writes `truth.json` for the stages of a run that are done; None where the run has no truth world.

    Raises:
        DataError: the world's files were changed since they were made.
        ModelError: a decision is missing or damaged.
    """
    world, path = context.config.world, context.run_dir.path / TRUTH
    if world is None or world.kind != "truth":
        path.unlink(missing_ok=True)
        return None
    assert context.config.source.train is not None
    files = open_truth_world(context.config.source.train.parent)
    runs = [
        _Judge(context, files, target, [s for s in plan if s.seed == seed and serves(s.pair, target.language)]).judge()
        for seed in sorted({s.seed for s in plan})
        for target in context.config.targets
    ]
    knobs = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(world).items()}
    truth = {
        "schema_version": SCHEMA_VERSION,
        "world": {"knobs": knobs, "measured": files.measured, "planted": len(files.noise)},
        "voters": context.config.selftrain.voters,
        "rule": context.config.selftrain.alpha.rule,
        "runs": runs,
        "answers": answers(runs),
    }
    atomic_write_json(path, truth, indent=1)
    return truth


@dataclass
class _Judge:
    """One seed and one target of a run, compared with the truth."""

    context: Context
    files: TruthFiles
    target: TargetConfig
    stages: list[Stage]

    def judge(self) -> Json:
        done = [s for s in self.stages if (self.context.folder(s.id) / FINISHED).exists()]
        seed, rounds = self.stages[0].seed, list[Json]()
        gone = np.zeros(len(self.context.data.source_train), dtype=bool)
        noisy = np.zeros_like(gone)
        noisy[[w.sentence for w in self.files.noise]] = True
        before: RoundItems | None = None
        for stage in done:
            if stage.kind != "hard":
                continue
            record = of_target(read_record(self.context.folder(stage.id)), self.target.language)
            saved = of_one_target(record, DECISION.arrays(self.context.folder(stage.id)))
            items, draw = self._items(stage, record, saved), derive_seed(seed, "truth", stage.round)
            leaving = ~gone & (saved["source.keep"] == 0)
            rounds.append(
                {
                    "round": stage.round,
                    "alpha": record["alpha"],
                    "labels": label_quality(items, self._outside, draw),
                    "entity_f1": self._entity_f1(items),
                    "repeated_errors": None if before is None else repeated_errors(before, items),
                    "source": noise_filter(noisy, ~gone, leaving, draw),
                    "threshold": self._threshold(items, record),
                }
            )
            before, gone = items, gone | leaving
        scores = {_score_name(s): self._score(s) for s in done if s.kind not in ("pretrain", "btf")}
        source = noise_filter(noisy, np.ones_like(noisy), gone, derive_seed(seed, "truth")) if rounds else None
        return {"seed": seed, "target": self.target.language, "scores": scores, "rounds": rounds, "source": source}

    @property
    def _outside(self) -> int | None:
        labels = self.context.data.labels
        return labels.index(OUTSIDE) if OUTSIDE in labels else None

    def _gold(self) -> np.ndarray:
        """The gold label of every item of the pool, -100 where nobody knows."""
        data, language = self.context.data, self.target.language
        pool, store = data.target_pool(self.target), data.labelled(self.files.hidden[language], language)
        once = first_of_each(list(data.sentences([self.files.hidden[language]], language)))
        if not np.array_equal(np.diff(pool.item_offsets), np.diff(store.item_offsets)[once]):
            raise DataError(
                f"{self.files.hidden[language]}:1: is not the unlabelled text with its labels; make it again"
            )
        gold = np.concatenate([store.labels(i) for i in once]).astype(np.int64)
        gold[np.isin(once[self._examples()], self.files.unknown[language])] = IGNORE
        return gold

    def _examples(self) -> np.ndarray:
        offsets = np.asarray(self.context.data.target_pool(self.target).item_offsets, dtype=np.int64)
        return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    def _items(self, stage: Stage, record: Json, saved: dict[str, np.ndarray]) -> RoundItems:
        gold, reason = self._gold(), saved["target.reason"]
        item = np.flatnonzero((reason >= 0) & (gold >= 0))
        teacher = confidence = None
        path = self.context.folder(stage.inputs["student"]) / SOFT_LABELS if "student" in stage.inputs else None
        if path is not None and path.exists():
            soft = read_soft_labels(path)[slice(*record.get("items_at", (None,)))]
            if len(soft) == len(gold):  # not where every sub-token has a label of its own
                teacher, confidence = (
                    soft.argmax(axis=-1)[item].astype(np.int64),
                    soft.max(axis=-1)[item].astype(np.float64),
                )
        return RoundItems(
            item=item,
            example=self._examples()[item],
            gold=gold[item],
            teacher=teacher,
            teacher_confidence=confidence,
            label=saved["target.label"][item].astype(np.int64),
            agree=saved["target.agree"][item].astype(bool),
            confidence=saved["target.confidence"][item],
            kept=reason[item] == Reason.KEPT,
        )

    def _entity_f1(self, items: RoundItems) -> Json | None:
        """Entity F1 of all labels of teacher and student over the pool, in points."""
        if self._outside is None:
            return None
        names, ends = self.context.data.labels, np.flatnonzero(np.diff(items.example)) + 1

        def sentences(labels: np.ndarray) -> list[list[str]]:
            return [[names[i] for i in part.tolist()] for part in np.split(labels, ends)]

        gold = sentences(items.gold)
        pairs = {"teacher": items.teacher, "student": items.label}
        return {n: None if x is None else entity_f1(gold, sentences(x)).f1 for n, x in pairs.items()}

    def _threshold(self, items: RoundItems, record: Json) -> Json | None:
        if record["alpha"] is None:
            return None
        curve = record["curve"]
        return alpha_regret(items, record["alpha"], curve["thresholds"], curve["accuracy"], self._outside)

    def _score(self, stage: Stage) -> float | None:
        """The score on the target's test text, in points."""
        metric = task_of(self.context.config.task).metric
        rows = read_json(self.context.folder(stage.id) / "scores.json").get("scores") or ()
        values = [r["value"] for r in rows if r["language"] == self.target.language and r["metric"] == metric]
        return float(values[0]) if values else None


def _score_name(stage: Stage) -> str:
    """What `scores` calls a stage: "method" what is fine-tuned for the target."""
    if stage.kind != "finetune" or stage.arm is None:
        return stage.name
    return stage.arm if stage.arm in ("baseline", *SIDE_ARMS) else "method"


def answers(runs: Sequence[Json]) -> Json:
    """The questions that one run can answer, over its seeds and targets: means, deviations, and every value.

    `btf` and `control` are points over fine-tuning without BTF; the others are fractions. Accepted labels and regret
    are those of the first round, in tagging of labels other than `O`; removal is that of all rounds together.
    """
    return {
        "btf_gain": _over([_minus(r["scores"], "method", "baseline") for r in runs]),
        "control_gain": _over([_minus(r["scores"], "control", "baseline") for r in runs]),
        "accepted_minus_teacher": _over([_at(_labels(r, 0), "gain", "value") for r in runs]),
        "accepted_minus_teacher_same_count": _over([_at(_labels(r, 0), "gain_same_count", "value") for r in runs]),
        "noise_lift": _over([_at(r, "source", "lift") for r in runs]),
        "noise_recall": _over([_at(r, "source", "recall", "value") for r in runs]),
        "clean_dropped": _over([_at(r, "source", "clean_dropped", "value") for r in runs]),
        "drift_of_student": _over([_drift(r, "student") for r in runs]),
        "drift_of_accepted": _over([_drift(r, "accepted") for r in runs]),
        "regret": _over([_at(_main(_round(r, 0).get("threshold")), "regret") for r in runs]),
    }


def _over(values: Sequence[float | None]) -> Json | None:
    known = [v for v in values if v is not None]
    over = stat(known)
    return None if over is None else {"mean": over.mean, "std": over.std, "values": known}


def _at(table: Json | None, *keys: str) -> Any:
    value: Any = table
    for key in keys:
        value = None if value is None else value.get(key)
    return value


def _minus(scores: Json, after: str, before: str) -> float | None:
    one, other = scores.get(after), scores.get(before)
    return None if one is None or other is None else one - other


def _round(run: Json, number: int) -> Json:
    return run["rounds"][number] if run["rounds"] else {}


def _main(table: Json | None) -> Json | None:
    """Of tagging the part about entities, else the whole."""
    return None if table is None else table.get("entity", table)


def _labels(run: Json, number: int) -> Json | None:
    return _main(_round(run, number).get("labels"))


def _drift(run: Json, which: str) -> float | None:
    """Precision in the last round minus that in the first."""
    first, last = _at(_labels(run, 0), which, "value"), _at(_labels(run, -1), which, "value")
    return None if len(run["rounds"]) < 2 or first is None or last is None else last - first
