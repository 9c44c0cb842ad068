"""The run folder of a run on several processes: the first one holds and writes it, the others look on."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ... import ConfigError, __version__
from ..storage.run_folder import RunDir
from ..training.distributed import LATE, ProcessGroup


def _nothing(self: RunDir, *values: Any, **named: Any) -> None:
    """Another process does it."""


class Onlooker(RunDir):
    """A run folder that another process holds: every write is left to that one."""

    acquire: Any = _nothing
    write_status: Any = _nothing
    write_config: Any = _nothing
    write_run_info: Any = _nothing
    event: Any = _nothing


@contextlib.contextmanager
def run_folder(path: Path, processes: ProcessGroup) -> Iterator[RunDir]:
    """The run folder, held by process 0.

    Raises:
        RunInUseError, StorageError: in all processes, as `RunDir.acquire` raises them in the first.
        ConfigError: this process sees another folder than process 0.
    """
    home = RunDir(path) if processes.is_rank_zero else Onlooker(path)
    processes.rank_zero_only(home.acquire)
    try:
        if processes.size > 1:
            written = processes.rank_zero_only(lambda: _announced(home))
            if not processes.is_rank_zero:
                _find(path, written, processes)
        yield home
    finally:
        home.release()


def _announced(home: RunDir) -> str:
    home.write_status("running")
    return (home.path / "status.json").read_text("utf-8")


def _find(path: Path, written: str, processes: ProcessGroup) -> None:
    limit = time.monotonic() + LATE
    while time.monotonic() < limit:
        with contextlib.suppress(OSError):
            if (path / "status.json").read_text("utf-8") == written:
                return
        time.sleep(0.05)
    raise ConfigError(
        f"process {processes.rank} does not see the run folder {path} of process 0; "
        "give a --run-dir on a file system that all machines share"
    )


def check_alike(processes: ProcessGroup, recipe: str, hashes: Mapping[str, str]) -> None:
    """Finds before any work what would make the processes' results differ.

    Args:
        recipe: the resolved recipe as text.
        hashes: input file -> hash.

    Raises:
        ConfigError: in all processes; names what differs, and where.
    """
    facts = {
        "versions": f"{__version__}, torch {torch.__version__}",
        "recipe or its paths": recipe,
        "input files": "\n".join(f"{path} {digest}" for path, digest in sorted(hashes.items())),
    }
    for name, fact in facts.items():
        others = processes.differing(hashlib.sha256(fact.encode()).hexdigest())
        if others:
            raise ConfigError(f"process {others[0]} has other {name} than process 0; make the machines alike")
