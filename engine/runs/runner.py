"""`run`: make the results of a recipe exist, stage by stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ... import DataError, DivergedError, Interrupted, OutOfMemoryError, StorageError, XltError
from ...data import file_hash
from ...model import MaskedLM, load_task_model, save_model
from ..evaluation.per_example import ITEMS, Items, save_items
from ..plan import Stage, chosen_stages, digest, make_plan
from ..recipe.config import RunConfig, merged
from ..recipe.config.files import recipe_files
from ..recipe.load import Resolved, load_recipe, places
from ..report.laboratory import THRESHOLDS
from ..report.summary import write_summary
from ..report.write import write_report
from ..stages.context import Context, write_trace
from ..stages.kind import StageRun
from ..stages.train_stage import Outcome, train_stage
from ..storage.files import atomic_write_json, delete, read_json, sha256_file, storage_errors, sync_tree
from ..storage.names import FINISHED, STAMP
from ..storage.run_folder import RunDir
from ..training.determinism import deterministic, refusal
from ..training.device import describe_kernels
from ..training.distributed import ProcessGroup, joined
from ..training.out_of_memory import outside_of_steps
from ..training.progress import Progress
from .prepare import make_context, read_ahead, with_world
from .provenance import marks
from .ranks import check_alike, run_folder
from .stage_cache import fingerprint_of, run_folders, take_over_stage
from .synthetic_truth import write_truth

SCORES = "scores.json"


@dataclass(frozen=True)
class RunResult:
    """Where a run lies and what it found.

    Attributes:
        done: stages that were run now; `skipped`: those whose results were there already.
        summary: the content of `summary.json`.
    """

    folder: Path
    report: Path
    summary: dict[str, Any]
    done: tuple[str, ...]
    skipped: tuple[str, ...]


def run(
    recipe: str | Path | Resolved[RunConfig] | None = None,
    *,
    stage: str = "all",
    targets: Sequence[str] = (),
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    should_stop: Callable[[], int] = lambda: 0,
    reuse: Sequence[str | Path] = (),
    before_report: Callable[[Path], None] = lambda folder: None,
) -> RunResult:
    """Runs what is missing of a recipe, skips what is done and unchanged, continues what was cut off.

    Args:
        recipe: as `load_recipe` takes it, or a resolved one.
        stage: "pretrain", "btf", "finetune", "selftrain", "cotrain", "contrastive", "evaluate", "all", or the id of
            one, such as "seed-0/de/soft1"; a stage brings what it needs.
        targets: languages of targets, so that only their stages and what all share are made; the same bits as in the
            whole run, in the same folder. All when empty.
        run_dir: folder of the run; `runs/<name>`, and the values of [each] below, when absent.
        overrides: `key=value` strings, as `--set` takes them.
        seeds: instead of the recipe's.
        resume: False makes every selected stage anew.
        progress: told what happens.
        should_stop: returns the number of a signal when the run shall save and stop, else 0.
        reuse: other run folders. A stage that is finished there with the same fingerprint is taken over, by hard links
            where possible, and so are token stores; unless `resume` is False.
        before_report: gets the run folder when all stages are done, to leave there what else the report shows
            (`thresholds.json`).

    Raises:
        XltError: one of its subclasses, by what is wrong; `status.json` in the run folder has the reason.
    """
    resolved = recipe if isinstance(recipe, Resolved) else load_recipe(recipe, overrides)
    progress = progress or Progress()
    folder = Path(run_dir) if run_dir is not None else Path("runs", resolved.config.name, *resolved.config.chosen)
    others = run_folders(reuse) if resume else ()
    with (
        deterministic(resolved.config.deterministic, resolved.config.device),
        joined(resolved.config.device, resolved.config.peer_timeout, should_stop) as processes,
        run_folder(folder, processes) as home,
        _threads(resolved.config.threads),
    ):
        where: dict[str, Any] = {"stage": "", "step": None}
        try:
            progress = progress if processes.is_rank_zero else Progress()
            return _run(
                resolved,
                stage,
                targets,
                home,
                seeds,
                resume,
                progress,
                should_stop,
                where,
                processes,
                others,
                before_report,
            )
        except XltError as error:
            _record_failure(home, error, error.exit_code, where)
            raise
        except (MemoryError, RuntimeError) as error:
            translated = outside_of_steps(error, where["stage"]) or refusal(error)
            _record_failure(home, translated or error, 1 if translated is None else translated.exit_code, where)
            if translated is None:
                raise
            raise translated from error


def run_all(
    recipe: str | Path | None = None,
    *,
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    **options: Any,
) -> Iterator[tuple[str, RunResult]]:
    """Makes all runs that a recipe stands for, one after the other; gives the name and the result of each.

    Args:
        recipe, overrides, options: as `run` takes them.
        run_dir: of a single run its folder; of several the folder that holds them, by their names.

    Raises:
        XltError: as `run`; also before the first run, for a recipe or a missing file of any of them.
    """
    chosen = places(recipe, overrides, run_dir)
    for name, _, options_of in chosen if len(chosen) > 1 else ():
        config = load_recipe(recipe, options_of).config
        if missing := [str(file.path) for file in recipe_files(config) if not file.path.exists()]:
            raise DataError(f"{missing[0]}: no such file, for the run {name}; xlt-engine check lists all")
    for name, folder, options_of in chosen:
        yield name, run(recipe, run_dir=folder, overrides=options_of, **options)


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _record_failure(home: RunDir, error: Exception, code: int, where: dict[str, Any]) -> None:
    state: Literal["stopped", "failed"] = "stopped" if isinstance(error, Interrupted) else "failed"
    # A full disk may refuse the status too; the first error is the one to report.
    with contextlib.suppress(StorageError):
        home.write_status(state, exit_code=code, reason=str(error), stage=where["stage"], step=where["step"])


def _run(
    resolved: Resolved[RunConfig],
    stage_name: str,
    targets: Sequence[str],
    home: RunDir,
    seeds: Sequence[int] | None,
    resume: bool,
    progress: Progress,
    should_stop: Callable[[], int],
    where: dict[str, Any],
    processes: ProcessGroup,
    others: tuple[Path, ...],
    before_report: Callable[[Path], None],
) -> RunResult:
    started = time.time()
    config = processes.rank_zero_first(lambda: with_world(resolved.config, home.path, others))
    chosen = tuple(seeds) if seeds is not None else config.seeds
    plan, whole = chosen_stages(config, chosen, stage_name, targets), make_plan(config, chosen)
    home.write_config(resolved.dump())
    home.write_status("running")
    hashes = _data_hashes(config)
    check_alike(processes, resolved.dump(), hashes)
    context = processes.rank_zero_first(lambda: make_context(config, home, progress, should_stop, processes, others))
    home.write_run_info(
        seeds=chosen,
        hashes=hashes,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        **_recipe_facts(config),
        stages=[node.id for node in whole],
        plan={node.id: node.identity for node in whole},
        device=str(context.device),
        kernels=describe_kernels(context.device),
        tokenizer=context.tokenizer.fingerprint,
    )
    processes.rank_zero_first(lambda: read_ahead(context, plan))
    done, skipped = [], []
    for node in plan:
        where["stage"] = node.id
        context.poll()
        try:
            made = _stage(context, node, resume)
        except (DivergedError, OutOfMemoryError) as error:
            raise type(error)(f"{node.id}: {error}") from error
        if made:
            done.append(node.id)
            processes.rank_zero_only(lambda: write_summary(home.path))
        else:
            skipped.append(node.id)
    summary = processes.rank_zero_only(lambda: write_summary(home.path))
    processes.rank_zero_only(lambda: write_truth(context, plan))
    report = Path(processes.rank_zero_only(lambda: _report(home.path, bool(done), before_report)))
    home.event("done", stages=done)
    if home.events_lost:
        raise StorageError(
            f"{home.path / 'events.jsonl'}: {home.events_lost} events could not be written; free some space"
        )
    home.write_status("done", exit_code=0)
    return RunResult(home.path, report, summary, tuple(done), tuple(skipped))


def _recipe_facts(config: RunConfig) -> dict[str, Any]:
    return {
        "name": config.title,
        "task": config.task,
        "metric": "entity_f1" if config.task == "ner" else "accuracy",
        "source": config.source.language,
        "sources": [s.language for s in config.sources],
        "targets": [t.language for t in config.targets],
    }


def _report(folder: Path, changed: bool, before_report: Callable[[Path], None]) -> str:
    if changed:
        delete(folder / THRESHOLDS)
    before_report(folder)
    return str(write_report(folder))


def _data_hashes(config: RunConfig) -> dict[str, str]:
    """SHA-256 of every input file, by its path."""
    named = [path for s in config.all_sources for path in (s.train, s.dev)] + [t.test for t in config.tables]
    named += [path for t in config.targets for path in (t.labelled, t.translated_train, t.translated_test, *t.pairs)]
    listed = [p for t in config.tables for group in (t.unlabelled, t.general, t.control) for p in group]
    named += [config.contrastive.originals, *config.contrastive.translations.values(), *config.cloze.verbaliser]
    return {str(p): file_hash(p) for p in [*named, *listed] if p is not None and p.exists()}


def _stage(context: Context, stage: Stage, resume: bool) -> bool:
    """Makes one stage's result exist; False where it was there."""
    context = context.of_stage(stage)
    folder = context.folder(stage.id)
    table = fingerprint_of(context, stage)
    if context.processes.rank_zero_only(lambda: _is_there(context, stage, table, folder, resume)):
        _rescore(context, stage, folder)
        return False
    context.warnings.clear()
    outcome = train_stage(StageRun(context, stage, table))
    _seal(context, stage, table, folder, outcome)
    return True


def _is_there(context: Context, stage: Stage, table: dict[str, Any], folder: Path, resume: bool) -> bool:
    """Whether the stage's result is there and not outdated; else its folder is ready for what is to be made."""
    before = read_json(folder / STAMP, None)
    usable = before == table and resume
    if usable and (folder / FINISHED).exists():
        delete(folder / "checkpoint")
        return True
    if resume and take_over_stage(context, stage, table, folder):
        return True
    if not usable and folder.exists():
        changed = sorted(k for k in table.keys() | before.keys() if table.get(k) != before.get(k))
        if before and resume:
            context.progress.note(f"{stage.id}: made anew, since {', '.join(changed[:5])} changed")
        context.check_base(stage)  # a result goes only when the next one can begin
        delete(folder)
    with storage_errors(folder, "create"):
        folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / STAMP, table)
    context.run_dir.event("begin", stage=stage.id)
    return False


def _seal(context: Context, stage: Stage, table: dict[str, Any], folder: Path, outcome: Outcome) -> None:
    """Saves and scores; `stage.json`, written last, makes the folder a result."""
    context.processes.rank_zero_only(lambda: _save(context, stage, folder, outcome))
    rows, items = ([], {}) if isinstance(outcome.model, MaskedLM) else context.score_stage(stage, outcome.model)
    context.processes.rank_zero_only(lambda: _finish(context, stage, table, folder, outcome, rows, items))


def _save(context: Context, stage: Stage, folder: Path, outcome: Outcome) -> None:
    with storage_errors(folder):
        extra = {"stage": stage.id, "seed": stage.seed, "inputs": stage.inputs, "split": _split(context.config, stage)}
        save_model(outcome.model, folder, extra=extra)
        context.tokenizer.save(folder, segments=outcome.model.config.num_segments > 1)
    write_trace(folder, outcome.trace)


def _split(config: RunConfig, stage: Stage) -> str:
    """How plain text becomes words, as the model's own target has it."""
    own = next((t.reader for t in config.targets if t.language == stage.target), None)
    return merged(config.reader, own).split


def _finish(
    context: Context,
    stage: Stage,
    table: dict[str, Any],
    folder: Path,
    outcome: Outcome,
    rows: list[dict[str, Any]],
    items: Items,
) -> None:
    if rows:
        atomic_write_json(folder / SCORES, {"scores": rows})
        save_items(folder, items)
    sync_tree(folder)
    record = {
        **stage.identity,
        "inputs": stage.inputs,
        "fingerprint": digest(table),
        "encoder_at_start": outcome.encoder_at_start,
        "hashes": {p.name: sha256_file(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != STAMP},
        "seconds": round(outcome.spent.wall, 3),
        "cpu_seconds": round(outcome.spent.cpu, 3),
        "steps": len(outcome.trace.loss),
        "tokens": sum(outcome.trace.tokens),
        "warnings": context.warnings_as_json(),
        "prediction": context.config.prediction,
        "scored_on": _tests(context, stage),
        **outcome.notes,
        **marks(context, stage, outcome.notes),
    }
    atomic_write_json(folder / FINISHED, record)
    delete(folder / "checkpoint")
    text = ", ".join(f"{r['language']} {r['value']:.1f}" for r in rows if r["metric"] in ("entity_f1", "accuracy"))
    context.run_dir.event("end", stage=stage.id, seconds=outcome.spent.wall, scores=rows)
    context.progress.end(stage.id, ", ".join(x for x in (outcome.line, text, f"{outcome.spent.wall:.0f} s") if x))


def _rescore(context: Context, stage: Stage, folder: Path) -> None:
    """Scores a finished stage again where the test files are not those that it was scored on."""
    record, tests = read_json(folder / FINISHED, None), _tests(context, stage)
    # A stage taken over from before test items were kept gets them; one that was made here stays as it is.
    kept = "reused_from" not in record or not tests or (folder / ITEMS).exists()
    if context.processes.rank_zero_only(lambda: record.get("scored_on") == tests and kept):
        return
    context.progress.note(f"{stage.id}: scored again, since the test files, or how voters predict, have changed")
    rows, items = context.score_stage(stage, load_task_model(folder).to(context.device)) if tests else ([], {})
    record["prediction"] = context.config.prediction
    context.processes.rank_zero_only(lambda: _replace_scores(folder, record, tests, rows, items))


def _replace_scores(
    folder: Path, record: dict[str, Any], tests: dict[str, str], rows: list[dict[str, Any]], items: Items
) -> None:
    atomic_write_json(folder / SCORES, {"scores": rows})
    save_items(folder, items)
    record["hashes"] |= {name: sha256_file(folder / name) for name in (SCORES, ITEMS)}
    atomic_write_json(folder / FINISHED, record | {"scored_on": tests})


def _tests(context: Context, stage: Stage) -> dict[str, str]:
    """What a stage's scores depend on besides its weights."""
    how = "" if context.config.prediction == "mean" else f" {context.config.prediction}"
    return {language: store.content_hash + how for language, (_, store) in context.test_stores(stage).items()}
