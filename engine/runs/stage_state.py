"""What has become of a stage since it was made (`state`), and whether another run has it.

Damage is found before anything reads it. Scores that are damaged are made again from the model; a stage with any other
damage is made anew, from its inputs, to the same bits, so that what learned from it stays. Where the bits are others
after all, as on another machine, the stages that learned from the old ones are made anew, too: each knows the weights
of its inputs (`inputs_sha256`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ... import ConfigError
from ..plan import Stage, digest, fingerprint
from ..stages.context import Context
from ..stages.kind import inputs_of
from ..storage.files import delete, link_files, new_folder, plain, read_json, sha256_file, write_sealed_json
from ..storage.names import FINISHED, OF_SCORING, STAMP
from ..storage.run_folder import RunDir
from ..storage.run_warning import RunWarning
from ..storage.stage_files import damage, decided_damage, listed, paths_below, sealed_damage, weights_hash

INPUTS = "inputs_sha256"
"""In `stage.json`: the hash of the weights of each stage that this one was made from."""
_COURSE = ("begin", "end", "reuse")
"""Events of a stage's beginning and end."""


def fingerprint_of(context: Context, stage: Stage) -> dict[str, Any]:
    """The fingerprint of a stage whose inputs were asked for before; its digest is kept for what follows."""
    context = context.of_stage(stage)
    data = {role: store.content_hash for role, store in inputs_of(context, stage).items()}
    stamp = fingerprint(stage, _input_digests(context, stage), data)
    context.digests[stage.id] = digest(stamp)
    return stamp


def _input_digests(context: Context, stage: Stage) -> dict[str, str]:
    digests = {role: context.digests[other] for role, other in stage.inputs.items()}
    path = context.config.model.path
    if "base" not in digests and path is not None:
        if str(path) not in context.digests:
            files = [path / "config.json", *sorted(path.glob("*.safetensors"))]
            context.digests[str(path)] = digest({file.name: sha256_file(file) for file in files})
        digests["base"] = context.digests[str(path)]
    digests["tokenizer"] = context.tokenizer.fingerprint
    return digests


def run_folders(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """The run folders that `--reuse` names.

    Raises:
        ConfigError: one is not there.
    """
    folders = tuple(Path(folder) for folder in paths)
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ConfigError(f"--reuse {', '.join(missing)}: there is no such folder; give the folder of a run")
    return folders


@dataclass(frozen=True)
class State:
    """What a stage's folder holds, beside what is wanted: a fresh result, or a beginning, where all else is empty.

    Attributes:
        finished: whether there is a result.
        changed: what of the fingerprint differs from what is wanted.
        inputs: stages whose weights are not those that it was made from.
        damaged: file -> what has become of it, of a result or of what was decided for one.
        earlier: whether an earlier version made it, which named the settings otherwise.
    """

    finished: bool
    changed: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    earlier: bool = False

    @property
    def fresh(self) -> bool:
        """Whether the result is the one that is wanted, as it was written."""
        return self.finished and not (self.changed or self.inputs or self.damaged)

    @property
    def outdated(self) -> str:
        """Why the result, or what was begun, is not of use; empty where it is."""
        if self.earlier:
            return "an earlier version named its settings otherwise"
        if self.changed:
            return f"{', '.join(self.changed[:5])} changed"
        return f"{', '.join(self.inputs)} has other weights than it was made from" if self.inputs else ""


def state(home: Path, stage: str, wanted: Mapping[str, Any] | None = None, *, hashed: bool = True) -> State:
    """What has become of a stage: the one answer to whether its result is up to date.

    Args:
        stage: its id.
        wanted: the fingerprint that it should have; None where only its files and inputs are asked about.
        hashed: whether the files of a result are compared with their hashes. A run does that once, before all else.

    Raises:
        StorageError: the disk fails on reading.
    """
    folder = home / stage
    record, before = read_json(folder / FINISHED, None), read_json(folder / STAMP, None)
    if wanted is not None and record.get("fingerprint") != digest(dict(wanted)):
        keys = sorted(key for key in wanted.keys() | before.keys() if wanted.get(key) != before.get(key))
        earlier = bool(before) and before.get("identity") != wanted.get("identity")
        damaged = {} if record or keys else decided_damage(folder)
        return State(bool(record), tuple(keys or ([STAMP] if record else [])), (), damaged, earlier)
    damaged = sealed_damage(folder) if hashed else {}
    inputs = () if damaged.keys() - {STAMP} else tuple(_other_inputs(home, record))
    return State(bool(record), (), inputs, damaged)


def take_over_stage(context: Context, stage: Stage, stamp: dict[str, Any], folder: Path) -> bool:
    """Makes `folder` of the same stage, equally made, in one of the folders to reuse; False where none has it.

    Every file is compared with the hash that was written when it was made. What lies in `folder` goes.
    """
    for other in context.reuse:
        source = other / stage.id
        if source.resolve() == folder.resolve() or not (found := state(other, stage.id, stamp)).finished:
            continue
        if found.damaged:
            context.progress.note(f"{stage.id}: not taken over, since {listed(source, found.damaged)}")
        if found.damaged or found.changed:
            continue
        record = read_json(source / FINISHED)
        with new_folder(folder, replace=True) as part:
            link_files([source / name for name in sorted({STAMP, *record["hashes"]})], part)
            # The source may itself have been taken over: the record keeps the folder where the stage was trained.
            write_sealed_json(part / FINISHED, {"reused_from": str(source.resolve())} | record | stage.identity)
        context.run_dir.event("reuse", stage=stage.id, folder=source)
        context.progress.note(f"{stage.id}: taken over from {other}")
        return True
    return False


def set_damage_aside(context: Context, plan: Sequence[Stage]) -> dict[str, dict[str, Any]]:
    """Compares every file of the plan's finished stages with the hash of when it was made; what is damaged goes.

    Returns: stage id -> the warning to give when the stage's turn comes.

    Raises:
        ModelError: a stage must be made anew, and the model that it starts from cannot be loaded; nothing goes.
    """
    warnings, ended = dict[str, RunWarning](), ended_stages(context.run_dir)
    for stage in plan:
        context.poll()
        folder = context.folder(stage.id)
        problems = state(context.run_dir.path, stage.id).damaged if stage.id in ended else {}
        if not problems:
            continue
        text = ", ".join(f"{name} {problem}" for name, problem in sorted(problems.items()))
        warnings[stage.id] = damage(f"{stage.id}: {text}; {remedy(problems)}", problems)
        context.run_dir.event("damaged", stage=stage.id, files=problems)
        if problems.keys() <= {*OF_SCORING}:
            _forget_scores(folder)
        elif problems.keys() != {STAMP}:
            context.of_stage(stage).check_base(stage)
            delete(folder)
    return cast(dict[str, dict[str, Any]], plain(warnings))


def _forget_scores(folder: Path) -> None:
    """Leaves a stage that was never scored, which `begin_stage` then does."""
    record = read_json(folder / FINISHED)
    hashes = {name: value for name, value in record["hashes"].items() if name not in OF_SCORING}
    for name in OF_SCORING:  # first: killed in between, the next start finds them missing
        delete(folder / name)
    write_sealed_json(folder / FINISHED, record | {"hashes": hashes, "scored_on": {}})


def remedy(problems: Iterable[str]) -> str:
    """What a run does about these files of a stage."""
    if set(problems) <= {*OF_SCORING}:
        return "the stage is scored again"
    return "it is written again" if set(problems) == {STAMP} else "the stage is made anew"


def ended_stages(home: RunDir) -> list[str]:
    """The ids of stages that have ended: their `stage.json` is there, or the log says that it was."""
    events = [event for event in home.events() if isinstance(event, dict) and event.get("kind") in _COURSE]
    last = {str(event.get("stage")): event["kind"] for event in events}
    logged = [stage for stage, kind in last.items() if kind != "begin" and (home.path / stage).is_dir()]
    there = [path.parent.relative_to(home.path).as_posix() for path in paths_below(home.path, FINISHED)]
    return sorted(stage for stage in {*logged, *there} if stage.startswith("seed-") and "/." not in stage)


def _other_inputs(home: Path, record: Mapping[str, Any]) -> list[str]:
    """The inputs of a finished stage whose weights are not those that it was made from; of its `stage.json`."""
    before = {} if "reused_from" in record else record.get(INPUTS) or {}
    now = weights_of(home, list(before))
    return sorted(name for name in now if before[name] != now[name])


def weights_of(home: Path, stages: Sequence[str]) -> dict[str, str]:
    """Stage id -> the hash of its weights, of stages that are finished."""
    records = {stage: read_json(home / stage / FINISHED, None) for stage in stages}
    return {stage: value for stage, record in records.items() if (value := weights_hash(record))}
