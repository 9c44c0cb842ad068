"""The hard stage of self-training: alpha, the decision on both languages, then cross entropy on what was kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from ... import ModelError
from ...data import ItemView, Part, TaskBatches, TokenStore
from ..plan import Stage
from ..storage.files import atomic_write_text, read_json
from ..training.objectives import cross_entropy
from .against_teacher import SAMPLE, against_teacher
from .context import Context
from .decision_files import DECISION
from .finetune import labelled_examples
from .kind import VOTERS, StageKind, StageRun, Training, register_kind
from .pool import POOL, by_target, load_pool, pool_store, pool_tokens, target_examples
from .round_decision import Rules, collect_votes, decide, if_gold, record
from .soft import fresh_student

CURVE = "curve.csv"


class Hard(StageKind):
    """Eq. 2 to 4 of arXiv 2310.04726: the kept source and the target examples with an accepted label."""

    name = "hard"
    tables = (
        *(*VOTERS, *POOL, "inference_tokens", "selftrain.hard", "selftrain.alpha"),
        *("selftrain.target_filter", "selftrain.source_filter", "selftrain.abandoned"),
    )
    chosen_by = ("selftrain",)

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        data = context.data
        stores = {"source": data.source_train, "target": pool_store(context, stage)}
        return stores | ({"dev": data.source_dev} if context.config.has_dev else {})

    def build(self, run: StageRun) -> Training:
        context, stage, table = run.context, run.stage, run.context.config.selftrain.hard
        labeller = context.load_task_model(stage, _labeller(stage))
        if (decided := run.decided(DECISION)) is None:
            said, rules = len(context.warnings), Rules.of(context)
            votes = collect_votes(context, stage, labeller)
            found, arrays = record(context, stage, rules, votes, decide(votes, rules))
            decided = run.keep(DECISION, found, save(arrays), said)
        found, data = decided
        saved = load_file(data)
        # Also where the stage goes on: the file is no part of what was decided, and may have been damaged meanwhile.
        context.processes.rank_zero_only(lambda: atomic_write_text(run.folder / CURVE, curve_csv(found)))
        goes_on = "student" in stage.inputs and table.start == "student"
        model = labeller if goes_on else fresh_student(context, stage)
        parts = _parts(context, stage, saved)
        batches = _batches(run, parts)
        kept, used = len(parts[0].examples), sum(len(part.examples) for part in parts[1:])
        removed = len(context.data.source_train) - kept
        notes = {"accepted": found["accepted"], "removed": removed, "source_examples": kept, "target_examples": used}
        alpha = "no filter" if found["alpha"] is None else f"alpha {found['alpha']:.3f}"
        line = f"{alpha}, {found['accepted']} of {found['items']} items accepted, {removed} source examples removed"
        pool = load_pool(context, stage).target
        return Training(
            model,
            batches,
            cross_entropy,
            notes | {"alpha": found["alpha"]},
            lambda trace: line,
            lambda trace: against_teacher(run, model, parts[1].view, pool, saved["target.label"]),
        )

    def batches(self, run: StageRun) -> TaskBatches:
        source, (store, drawn) = run.context.data.source_train, target_examples(run.context, run.stage)
        parts = [Part(ItemView(source), labelled_examples(source))]
        return _batches(run, parts + [Part(ItemView(store), text) for text in by_target(store, drawn)])

    def at_most(self, context: Context, stage: Stage) -> bool:
        table = context.config.selftrain
        return not (table.target_filter == "none" and table.source_filter == "none")

    def reads(self, context: Context, stage: Stage) -> list[int]:
        """What the labeller votes on, and what the student is compared with it on."""
        data = context.data
        tokens = [int(data.source_train.offsets[-1])]
        if context.config.has_dev:
            tokens.append(int(data.source_dev.offsets[-1]))
        tokens += [pool_tokens(context, stage), pool_tokens(context, stage, SAMPLE)]
        tests = [(t.test, t.language) for t in context.config.targets_of(stage.targets)]
        return tokens + [int(data.scored(test, name).offsets[-1]) for test, name in tests if test is not None]

    def if_gold(self, context: Context, stage: Stage) -> dict[str, Any]:
        labeller = context.load_task_model(stage, _labeller(stage))
        return if_gold(
            context, stage, labeller, read_json(context.folder(stage.id) / DECISION, ModelError, needed=True)
        )


def _labeller(stage: Stage) -> str:
    """The role of the input that votes."""
    return "student" if "student" in stage.inputs else "teacher"


def curve_csv(record: Mapping[str, Any]) -> str:
    """The threshold curve of a `decision.json` as CSV, a line per threshold, as Figure 2 of the paper draws it.

    Numbers have all their digits; a cell is empty where a value is not defined.
    """
    columns = {"threshold" if name == "thresholds" else name: values for name, values in record["curve"].items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _batches(run: StageRun, parts: list[Part]) -> TaskBatches:
    mix = run.context.config.selftrain.hard.mix
    return run.task_batches(parts, balance="up" if mix == "balanced" else "none")


def _parts(context: Context, stage: Stage, saved: Mapping[str, np.ndarray]) -> list[Part]:
    """Kept source with its labels, and of each target the examples that have at least one accepted label."""
    source, target = context.data.source_train, pool_store(context, stage)
    view, targets = ItemView(target), saved["target.targets"]
    accepted = np.diff(np.concatenate([[0], np.cumsum(targets >= 0)])[view.offsets]) > 0
    texts = by_target(target, np.flatnonzero(accepted))
    return [
        Part(ItemView(source), np.flatnonzero(saved["source.keep"]), labels=np.asarray(source.item_labels)),
        *(Part(view, text, labels=targets) for text in texts if len(text)),
    ]


register_kind(Hard())
