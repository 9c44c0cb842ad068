"""`verify`: every file of a run against the hash of when it was written, and what the next run makes of the damage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ... import DataError, ModelError, XltError
from ...data import TokenStore
from ..storage.files import read_json
from ..storage.names import FINISHED
from ..storage.run_folder import RunDir
from ..storage.stage_files import changed_files, paths_below
from ..storage.text import size_text
from ..training.checkpoint import checkpoint_problem
from .prepare import VOCABULARY, vocabulary_damage
from .stage_state import ended_stages, remedy, state

_RECORDS = {
    "run.json": "the next run writes it",
    "summary.json": "the next run writes it",
    "failed.json": "delete it; the next run writes it",
    "thresholds.json": "the next run writes it",
}


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written.

    Attributes:
        path: below the run's folder.
        remedy: what the next run does about it, or who must.
        exit_code: as an error about it would have (docs/errors.md).
    """

    path: str
    problem: str
    remedy: str
    exit_code: int


@dataclass(frozen=True)
class Verification:
    """What was compared, and what differs.

    Attributes:
        files, bytes: in the run's folder, of all that has a hash.
    """

    folder: Path
    files: int
    bytes: int
    seconds: float
    damaged: tuple[Damage, ...]

    @property
    def exit_code(self) -> int:
        """0 where all is as it was written, else the smallest of the damaged files' codes."""
        return min((one.exit_code for one in self.damaged), default=0)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"folder": str(self.folder)}

    def render(self) -> str:
        """What a person wants to know."""
        lines = [f"{self.folder}: {self.files} files, {size_text(self.bytes)}, compared in {self.seconds:.2f} s"]
        lines += [f"damaged: {one.path} {one.problem}; {one.remedy}" for one in self.damaged]
        if not self.damaged:
            lines.append("every file is as it was written")
        return "\n".join(lines)


def verify_run(folder: str | Path) -> Verification:
    """Compares every file of a run with its hash: stages, stores, vocabulary, made data, checkpoints, records.

    Reads alone; what is being made while it looks is left out.

    Raises:
        DataError: the folder is not a run.
        StorageError: the disk fails on reading.
    """
    home, started = Path(folder), time.monotonic()
    if not (home / "run.json").exists() and not any(home.glob("seed-*")):
        raise DataError(f"{home}: not a run folder (no run.json and no seed-* folder); give the folder of a run")
    damaged = tuple(sorted(_damage(home), key=lambda one: one.path))
    parts = [*home.glob("seed-*"), *(home / name for name in ("store", "world", VOCABULARY))]
    sizes = [size for part in parts for path in paths_below(part) if (size := _size(path)) is not None]
    return Verification(home, len(sizes), sum(sizes), time.monotonic() - started, damaged)


def _size(path: Path) -> int | None:
    """Bytes of a file; None of a folder, and of what has been deleted meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else None
    except FileNotFoundError:
        return None


def _damage(home: Path) -> Iterator[Damage]:
    for stage in ended_stages(RunDir(home)):
        yield from _of_stage(home, stage)
    for path in paths_below(home, "step-*"):
        if "checkpoint" not in path.relative_to(home).parts:
            continue
        if (problem := checkpoint_problem(path)) and path.exists():  # and has not been deleted meanwhile
            what = f"is not valid: {problem}"
            yield _named(home, path, what, "an older one is taken, or the stage begins anew", ModelError)
    for name, problem in vocabulary_damage(home / VOCABULARY).items():
        yield _named(home, home / VOCABULARY / name, problem, "the vocabulary is trained anew", ModelError)
    for path in home.glob("store/[!.]*"):
        try:
            TokenStore.open(path)
        except DataError as error:
            problem = f"is damaged ({str(error).partition('; ')[0]})"
            yield _named(home, path, problem, "the text is read again", DataError)
    for path in home.glob("world/*/world.json"):
        files = read_json(path, None).get("files")
        problems = changed_files(path.parent, {"hashes": files}) if files else {path.name: "has no hashes"}
        for name, problem in problems.items():
            what = "delete the folder; the next run makes it"
            yield _named(home, path.parent / name, problem, what, DataError)
    for name, what in _RECORDS.items():
        try:
            read_json(home / name)
        except DataError:
            yield _named(home, home / name, "is damaged", what, DataError)


def _of_stage(home: Path, stage: str) -> Iterator[Damage]:
    found = state(home, stage)
    if found.inputs:
        what = f"was made from other weights than those of {', '.join(found.inputs)}"
        yield _named(home, home / stage / FINISHED, what, "the stage is made anew", ModelError)
    for name, problem in found.damaged.items():
        yield _named(home, home / stage / name, problem, remedy(found.damaged), ModelError)


def _named(home: Path, path: Path, problem: str, what: str, kind: type[XltError]) -> Damage:
    return Damage(path.relative_to(home).as_posix(), problem, what, kind.exit_code)
