"""`run`: make the results of a recipe exist, stage by stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from ... import (
    DataError,
    Interrupted,
    ModelError,
    OutOfMemoryError,
    PeerLostError,
    StorageError,
    XltError,
)
from ...data import file_hash
from ...tasks import task_of
from ..recipe.config.files import recipe_files
from ..recipe.hub import cached_model, hub_name
from ..recipe.load import Resolved, load_recipe
from ..recipe.schema import parse_key, with_value
from ..stages.context import Context
from ..storage.files import read_json
from ..storage.names import has_room
from ..storage.run_folder import RunDir
from ..summary.summary import refuse_damaged, write_summary
from ..training.device import describe_kernels, describe_products, deterministic, refusal
from ..training.distributed import joined
from ..training.out_of_memory import outside_of_steps
from ..training.progress import Progress
from .graph import chosen_stages, make_plan
from .jobs import choose_jobs
from .prepare import make_context, read_ahead
from .ranks import check_alike, run_folder
from .stage_state import run_folders, set_damage_aside
from .synthetic_data import settled
from .walk import Walk

AT_ONCE = (Interrupted, StorageError, OutOfMemoryError, PeerLostError, MemoryError, RuntimeError)
"""What ends a run without a report: there is no time, disk, memory or process for one."""


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


class StagesFailedError(DataError):
    """Some stages failed by themselves, and all that does not need them was made; the code is that of the first."""

    def __init__(self, failed: Sequence[dict[str, Any]], result: RunResult) -> None:
        super().__init__("\n".join(failure["reason"] for failure in failed))
        self.exit_code, self.result = failed[0]["exit_code"], result
        self.told = True  # by the first process; each of them has come to the same


def run(
    recipe: str | Path | Resolved | None = None,
    *,
    stage: str = "all",
    targets: Sequence[str] = (),
    run_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    resume: bool = True,
    jobs: int | None = 1,
    progress: Progress | None = None,
    should_stop: Callable[[], int] = lambda: 0,
    reuse: Sequence[str | Path] = (),
    before_report: Callable[[Path], None] = lambda folder: None,
    row: Mapping[str, Any] | None = None,
) -> RunResult:
    """Runs what is missing of a recipe, skips what is done and unchanged, continues what was cut off.

    Args:
        recipe: as `load_recipe` takes it, or a resolved one.
        stage: "pretrain", "btf", "finetune", "selftrain", "cotrain", "contrastive", "evaluate", "all", or the id of
            one, such as "seed-0/de/soft1"; a stage brings what it needs.
        targets: languages of targets, so that only their stages and what all share are made; the same bits as in the
            whole run, in the same folder. All when empty.
        run_dir: folder of the run; `runs/<name>` when absent.
        overrides: `key=value` strings, as `--set` takes them.
        seeds: instead of the recipe's.
        resume: False makes every selected stage anew.
        jobs: stages that are made side by side where they do not need each other, in processes of their own, which
            import the calling script; fewer where memory would not suffice. None: `default_jobs`. The same bits always.
        progress: told what happens.
        should_stop: returns the number of a signal when the run shall save and stop, else 0.
        reuse: other run folders. A stage that is finished there with the same fingerprint is taken over, by hard links
            where possible, and so are token stores; unless `resume` is False.
        before_report: gets the run folder when all stages are done, to leave there what else the report shows
            (`thresholds.json`).
        row: which row of an ablation this is, for `run.json` (docs/summary-schema.md).

    Raises:
        StagesFailedError: at the end, where a stage failed for want of accepted labels, diverged, and the like.
        XltError: one of its subclasses, by what is wrong; `status.json` in the run folder has the reason.
    """
    resolved = recipe if isinstance(recipe, Resolved) else load_recipe(recipe, overrides)
    folder = Path(run_dir) if run_dir is not None else Path("runs", resolved.config.name)
    others = run_folders(reuse) if resume else ()
    with (
        deterministic(resolved.config.deterministic, resolved.config.device),
        joined(resolved.config.device, resolved.config.peer_timeout, should_stop) as processes,
        run_folder(folder, processes) as home,
        _threads(resolved.config.threads),
        _recorded(home) as current,
    ):
        resolved = _as_begun(resolved, read_json(home.path / "run.json", None))
        config = processes.rank_zero_first(lambda: settled(resolved.config, home.path, others))
        seeds = config.seeds if seeds is None else tuple(seeds)
        plan = chosen_stages(config, seeds, stage, targets)
        # With the precision that "auto" means here, so that whoever reads the folder elsewhere finds the same stages.
        if config.precision != resolved.config.precision:
            settings = replace(resolved.config, precision=config.precision)
            resolved = replace(resolved, config=settings, origins=resolved.origins | {"precision": "auto"})
        home.write_config(resolved.dump())
        home.write_status("running")
        hashes = {str(file.path): file_hash(file.path) for file in recipe_files(config) if file.path.exists()}
        check_alike(processes, resolved.dump(), hashes)
        told = Progress() if progress is None or not processes.is_rank_zero else progress
        context = processes.rank_zero_first(lambda: make_context(config, home, told, should_stop, processes, others))
        processes.rank_zero_first(lambda: read_ahead(context, plan))
        damaged = processes.rank_zero_only(lambda: set_damage_aside(context, plan))
        _describe(context, seeds, hashes, row)
        processes.rank_zero_only(lambda: refuse_damaged(folder))
        walk = Walk(context, plan, resume=resume, damaged=damaged, current=current)
        walk.make_all(choose_jobs(context, plan, jobs, resume=resume))
        result = _end(context, walk, before_report)
        if walk.failed:
            current[0] = walk.failed[0]["folder"]
            raise StagesFailedError(walk.failed, result)
        home.write_status("done", exit_code=0)
        return result


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_report(folder: Path) -> Path:
    """The page of a run; its summary where the report is not there."""
    if not has_room("report"):
        return folder / "summary.json"
    from ..report.write import write_report

    return write_report(folder)


@contextlib.contextmanager
def _recorded(home: RunDir) -> Iterator[list[str]]:
    """Leaves in `status.json` why a run ended early; yields a place for the id of the stage that runs."""
    current = [""]

    def record(error: Exception, code: int) -> None:
        state: Literal["stopped", "failed"] = "stopped" if isinstance(error, Interrupted) else "failed"
        # A full disk may refuse the status too; the first error is the one to report.
        with contextlib.suppress(StorageError):
            home.write_status(state, exit_code=code, reason=str(error), stage=current[0])
        if current[0] and home.held and not isinstance(error, AT_ONCE):
            with contextlib.suppress(XltError):
                _write_report(home.path)

    try:
        yield current
    except XltError as error:
        if not current[0] or not isinstance(error, OutOfMemoryError) or str(error).startswith(current[0]):
            record(error, error.exit_code)
            raise
        named = type(error)(f"{current[0]}: {error}")
        record(named, named.exit_code)
        raise named from error
    except (MemoryError, RuntimeError) as error:
        translated = outside_of_steps(error, current[0]) or refusal(error)
        record(translated or error, 1 if translated is None else translated.exit_code)
        if translated is None:
            raise
        raise translated from error


def _as_begun(resolved: Resolved, record: dict[str, Any]) -> Resolved:
    """The recipe with the revisions of models that the run began with, where it names none and the cache has them."""
    others, config = record.get("models"), resolved.config
    begun = {"model.path": record.get("model")} | (others if isinstance(others, dict) else {})
    for key, name in resolved.names.items():
        before = begun.get(key)
        if isinstance(before, str) and before.partition("@")[0] == name:
            with contextlib.suppress(ModelError):
                config = with_value(config, parse_key(key), cached_model(before))
    return replace(resolved, config=config)


def _describe(context: Context, seeds: tuple[int, ...], hashes: dict[str, str], row: Mapping[str, Any] | None) -> None:
    """Writes `run.json`: the environment, the recipe in words, and all stages that it stands for."""
    config, stages = context.config, make_plan(context.config, seeds)
    context.run_dir.write_run_info(
        seeds=seeds,
        hashes=hashes,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        name=config.name,
        row=row,
        model=hub_name(config.model.path),
        models={"cotrain.model": second} if (second := hub_name(config.cotrain.model)) else {},
        task=config.task,
        metric=task_of(config.task).metric,
        source=config.source.language,
        sources=[s.language for s in config.sources[1:]],
        targets=[t.language for t in config.targets],
        stages=[stage.id for stage in stages],
        plan={stage.id: stage.identity for stage in stages},
        device=str(context.device),
        precision=config.precision,
        kernels=describe_kernels(context.device),
        products=describe_products(),
        tokenizer=context.tokenizer.fingerprint,
        warnings=[warning for warning in context.warnings if warning.name == "damaged"],
    )


def _end(context: Context, walk: Walk, before_report: Callable[[Path], None]) -> RunResult:
    """Summary and report of a run whose stages are all there, or as far as they could be made."""
    home, processes = context.run_dir, context.processes

    def report() -> str:
        before_report(home.path)
        return str(_write_report(home.path))

    summary = processes.rank_zero_only(lambda: write_summary(home.path))
    page = Path(processes.rank_zero_only(report))
    home.event("done", stages=walk.done)
    if home.events_lost:
        raise StorageError(
            f"{home.path / 'events.jsonl'}: {home.events_lost} events could not be written; free some space"
        )
    return RunResult(home.path, page, summary, tuple(walk.done), tuple(walk.skipped))
