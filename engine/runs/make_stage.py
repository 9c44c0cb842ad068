"""One stage's result: skipped where it is there, taken over from another run, or made, scored and sealed.

What is found and decided before (`begin_stage`) is the run's own process's; making it may be that of a worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ...model import MaskedLM, TaskModel, load_task_model, save_model
from ..evaluation.inference import Scored
from ..evaluation.per_example import save_items
from ..plan import Stage, digest
from ..recipe.config import merged
from ..stages.context import Context
from ..stages.kind import StageRun, kind_of
from ..stages.train_stage import Outcome, train_stage
from ..storage.files import (
    atomic_write_json,
    delete,
    read_json,
    sha256_file,
    storage_errors,
    sync_tree,
    write_sealed_json,
)
from ..storage.names import CARD, FINISHED, IF_GOLD, OF_SCORING, PREDICTED, SCORES, STAMP
from ..storage.run_warning import RunWarning
from ..storage.stage_files import DECIDED, damage, link_equal, listed
from ..summary.stage_table import MARKS
from .stage_state import INPUTS, fingerprint_of, state, take_over_stage, weights_of

_NAMES = ("text", "pair", "label", "words", "tags", "label_map")
"""Settings of the reader that a model folder keeps, so that the files of the recipe are read without options."""
_PLACES = {"token_column": 0, "label_column": None, "delimiter": ",", "header": True}
"""Likewise, where they are not these."""


def begin_stage(context: Context, stage: Stage, *, resume: bool, damaged: RunWarning | None = None) -> StageRun | None:
    """What `finish_stage` has to make of a stage, in a folder that is ready for it; None where its result is there.

    Args:
        damaged: what `set_damage_aside` says of the stage.

    Raises:
        XltError: as `check_base` and scoring; StorageError where the folder cannot be written.
    """
    context = context.of_stage(stage)
    run = StageRun(context, stage, fingerprint_of(context, stage))
    context.warnings.clear()
    context.warn(damaged)
    if context.processes.rank_zero_only(lambda: _exists(run, resume)):
        _rescore(run)
        return None
    return run


def finish_stage(run: StageRun) -> None:
    """Makes the result of a stage that was begun; what was said of it then is in its context.

    Raises:
        XltError: as `train_stage`; StorageError where the result cannot be written.
    """
    context, stage = run.context, run.stage
    outcome = train_stage(run)
    context.processes.rank_zero_only(lambda: _save(run, outcome))
    scores = None if isinstance(outcome.model, MaskedLM) else _scores(context, stage, outcome.model)
    context.processes.rank_zero_only(lambda: _seal(run, outcome, scores))


def _exists(run: StageRun, resume: bool) -> bool:
    """Whether the stage's result is there and not outdated; else its folder is ready for what is to be made."""
    context, stage, folder, stamp = run.context, run.stage, run.folder, dict(run.fingerprint)
    found = state(context.run_dir.path, stage.id, stamp, hashed=False)  # damage has been set aside before
    if resume and found.fresh:
        if read_json(folder / STAMP, None) != stamp:
            atomic_write_json(folder / STAMP, stamp)
            if not context.warnings:
                text = f"{folder / STAMP} has changed since it was written; it is written again"
                context.warn(damage(text, {STAMP: "has changed since it was written"}))
        delete(folder / "checkpoint")
        return True
    if resume and found.inputs:
        text = f"{stage.id}: the stage is made anew, since {found.outdated}"
        context.warn(RunWarning("inputs-changed", text, {"inputs": list(found.inputs)}))
    elif resume and take_over_stage(context, stage, stamp, folder):
        return True
    if folder.exists() and (found.finished or found.changed or not resume):
        if resume and found.changed and read_json(folder / STAMP, None):
            context.progress.note(f"{stage.id}: made anew, since {found.outdated}")
        context.check_base(stage)  # a result goes only when the next one can begin
        delete(folder)
    elif found.damaged:
        context.warn(damage(f"{listed(folder, found.damaged)}; it is made anew", found.damaged))
        for name in (*DECIDED, *found.damaged):  # records first: without one nothing was decided
            delete(folder / name)
    with storage_errors(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
        links = [path for path in folder.iterdir() if path.is_symlink()]
    for link in links:  # nothing is written through one
        delete(link)
    atomic_write_json(folder / STAMP, stamp)
    context.run_dir.event("begin", stage=stage.id)
    return False


def _save(run: StageRun, outcome: Outcome) -> None:
    context, stage = run.context, run.stage
    # How files are read, as the model's target has it, or all of its targets.
    readers = [merged(context.config.reader, t.reader) for t in context.config.targets_of(stage.targets)]
    settings = readers[0] if readers and all(r == readers[0] for r in readers) else context.config.reader
    shape = outcome.model.config
    with storage_errors(run.folder):
        extra = {"stage": stage.id, "seed": stage.seed, "inputs": stage.inputs, "split": settings.split}
        names = {name: getattr(settings, name) for name in _NAMES if getattr(settings, name)}
        places = {name: getattr(settings, name) for name, usual in _PLACES.items() if getattr(settings, name) != usual}
        extra["reader"] = names | places
        runs = (context.run_dir.path, *context.reuse)
        save_model(outcome.model, run.folder, extra=extra, link=lambda path, sha: link_equal(path, sha, runs))
        context.tokenizer.save(run.folder, segments=shape.num_segments > 1, max_length=shape.max_length)
    steps = list(range(1, len(outcome.trace.loss) + 1))
    atomic_write_json(run.folder / "trace.json", {"steps": steps, **vars(outcome.trace)}, indent=None)


def _seal(run: StageRun, outcome: Outcome, scores: _Scores | None) -> None:
    """Writes scores, and `stage.json` last: it makes the folder a result."""
    context, stage, folder, spent = run.context, run.stage, run.folder, outcome.spent
    rows = [] if scores is None else scores.rows
    if scores is not None and rows:
        scores.write(folder)
    sync_tree(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CARD)
    record = {
        **stage.identity,
        "inputs": stage.inputs,
        INPUTS: weights_of(context.run_dir.path, list(stage.inputs.values())),
        "fingerprint": digest(dict(run.fingerprint)),
        "encoder_at_start": outcome.encoder_at_start,
        "hashes": {path.name: sha256_file(path) for path in files},
        "seconds": round(spent.wall, 3),
        "cpu_seconds": round(spent.cpu, 3),
        "steps": len(outcome.trace.loss),
        "tokens": sum(outcome.trace.tokens),
        "warnings": context.warnings,
        "prediction": context.config.prediction,
        "scored_on": _tests(context, stage),
        **outcome.notes,
        **_marks(run, outcome.notes),
    }
    write_sealed_json(folder / FINISHED, record)
    delete(folder / "checkpoint")
    text = ", ".join(f"{r['language']} {r['value']:.1f}" for r in rows if r["metric"] in ("entity_f1", "accuracy"))
    context.run_dir.event("end", stage=stage.id, seconds=spent.wall, scores=rows)
    context.progress.scored(stage.id, rows)
    context.progress.end(stage.id, ", ".join(x for x in (outcome.line, text, f"{spent.wall:.0f} s") if x))


class _Scores(NamedTuple):
    """What depends on a stage's test files: rows, scores by language, and what its decision makes of the files."""

    rows: list[dict[str, Any]]
    scored: dict[str, Scored]
    if_gold: dict[str, Any]

    def write(self, folder: Path) -> None:
        write_sealed_json(folder / SCORES, {"scores": self.rows, IF_GOLD: self.if_gold})
        save_items(folder, {language: s.items for language, s in self.scored.items()})
        save_items(folder, {language: s.predicted for language, s in self.scored.items()}, PREDICTED)


def _scores(context: Context, stage: Stage, model: TaskModel) -> _Scores:
    return _Scores(*context.score_stage(stage, model), kind_of(stage).if_gold(context, stage))


def _marks(run: StageRun, notes: dict[str, Any]) -> dict[str, bool]:
    """The marks of a stage: its own, and those of every stage that it learns from or starts from."""
    folders = [run.context.folder(other) for other in run.stage.inputs.values()]
    records = [notes, *(read_json(folder / FINISHED, None) for folder in folders)]
    return {mark: any(record.get(mark, False) for record in records) for mark in MARKS}


def _rescore(run: StageRun) -> None:
    """Scores a finished stage again where the scores are lost, or are of other test files."""
    context, stage, folder = run.context, run.stage, run.folder
    record, tests = read_json(folder / FINISHED, None), _tests(context, stage)
    if context.processes.rank_zero_only(lambda: record.get("scored_on") == tests):
        return
    if not context.warnings:
        context.progress.note(f"{stage.id}: scored again, since the test files, or how voters predict, have changed")
    scores = _scores(context, stage, load_task_model(folder).to(context.device)) if tests else _Scores([], {}, {})

    def replace_scores() -> None:
        scores.write(folder)
        hashes = record["hashes"] | {name: sha256_file(folder / name) for name in OF_SCORING}
        changed = {"hashes": hashes, "prediction": context.config.prediction, "scored_on": tests}
        changed["warnings"] = [*context.warnings, *record.get("warnings", [])]
        write_sealed_json(folder / FINISHED, record | changed)

    context.processes.rank_zero_only(replace_scores)


def _tests(context: Context, stage: Stage) -> dict[str, str]:
    """What a stage's scores depend on besides its weights."""
    how = "" if context.config.prediction == "mean" else f" {context.config.prediction}"
    return {language: store.content_hash + how for language, (_, store) in context.test_stores(stage).items()}
