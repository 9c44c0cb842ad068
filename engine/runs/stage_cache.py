"""What decides a stage's result, and stages of other run folders taken over instead of made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import ConfigError
from ..plan import Stage, digest, fingerprint
from ..stages.context import Context
from ..stages.kind import digests_of, inputs_of
from ..storage.files import (
    link_files,
    publish_folder,
    read_json,
    sha256_file,
    storage_errors,
    temporary_folder,
    write_sealed_json,
)
from ..storage.names import FINISHED, STAMP
from ..storage.stage_files import changed_files, listed


def fingerprint_of(context: Context, stage: Stage) -> dict[str, Any]:
    """The fingerprint of a stage whose inputs were asked for before; its digest is kept for what follows."""
    context = context.of_stage(stage)
    data = {role: store.content_hash for role, store in inputs_of(context, stage).items()}
    table = fingerprint(stage, _input_digests(context, stage), data)
    context.digests[stage.id] = digest(table)
    return table


def _input_digests(context: Context, stage: Stage) -> dict[str, str]:
    digests = {role: context.digests[other] for role, other in stage.inputs.items()}
    path = context.config.model.path
    if "base" not in digests and path is not None:
        if str(path) not in context.digests:
            context.digests[str(path)] = digest({p.name: sha256_file(p) for p in _model_files(path)})
        digests["base"] = context.digests[str(path)]
    digests["tokenizer"] = context.tokenizer.fingerprint
    return digests | digests_of(context, stage)


def _model_files(path: Path) -> list[Path]:
    """What a model folder consists of: its configuration and its weights, in one file or in several."""
    return [path / "config.json", *sorted(path.glob("*.safetensors"))]


def run_folders(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """The run folders that `--reuse` names.

    Raises:
        ConfigError: one is not there.
    """
    folders = tuple(Path(folder) for folder in paths)
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ConfigError(f"--reuse {', '.join(missing)}: there is no such folder; give the folder of a run")
    return folders


def finished_record(folder: Path, table: dict[str, Any]) -> dict[str, Any] | None:
    """`stage.json` of a finished stage with this fingerprint, else None."""
    record = read_json(folder / FINISHED, None) if read_json(folder / STAMP, None) == table else {}
    return record if "hashes" in record else None


def take_over_stage(context: Context, stage: Stage, table: dict[str, Any], folder: Path) -> bool:
    """Makes `folder` of the same stage, equally made, in one of the folders to reuse; False where none has it.

    Every file is compared with the hash that was written when it was made. What lies in `folder` goes.
    """
    for other in context.reuse:
        source = other / stage.id
        record = None if source.resolve() == folder.resolve() else finished_record(source, table)
        if record is None:
            continue
        if changed := changed_files(source, record):
            context.progress.note(f"{stage.id}: not taken over, since {listed(source, changed)}")
            continue
        with storage_errors(folder, "create"):
            folder.parent.mkdir(parents=True, exist_ok=True)
        part = temporary_folder(folder.parent, folder.name)
        link_files([source / name for name in sorted({STAMP, *record["hashes"]})], part)
        # The source may itself have been taken over: the record keeps the folder where the stage was trained.
        write_sealed_json(part / FINISHED, {"reused_from": str(source.resolve())} | record | stage.identity)
        publish_folder(part, folder, replace=True)
        context.run_dir.event("reuse", stage=stage.id, folder=source)
        context.progress.note(f"{stage.id}: taken over from {other}")
        return True
    return False
