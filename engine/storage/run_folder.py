"""The run folder: who holds it, how the run stands, what happened.

`RunDir(path)` by itself touches nothing; `with RunDir(path) as run:` creates the folder, takes the lock, removes
what killed processes left, and opens the event log. Nothing here loads torch except `environment`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ... import ConfigError, RunInUseError, StorageError, __version__
from .faults import fault
from .files import atomic_write_json, atomic_write_text, plain, storage_errors, sweep

State = Literal["running", "done", "stopped", "failed"]

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_PLAIN = os.O_CLOEXEC | os.O_NOFOLLOW
"""A link in a run folder that others write to, too, could lead to any file of this user."""
_LONGEST = 3500
"""Bytes of a run folder's path, which leave room for the names in it."""
_HEARTBEAT_SECONDS = 30.0
_LINGER_SECONDS = 60.0
"""How long the workers of a process that was killed may take to end: they do so at once."""
_STALE_SECONDS = 900.0

# POSIX locks do not exclude a second opening in the same process, and closing that one would drop the lock.
_held: dict[str, int] = {}


class RunDir:
    """One run's folder.

    Attributes:
        events_lost: events that could not be written; a run that ends with any should exit with code 5.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.events_lost = 0
        self._lock: int | None = None
        self._owner_file = False
        self._log: int | None = None
        self._started = ""
        self._next_heartbeat = 0.0

    def __enter__(self) -> RunDir:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether this object holds the folder."""
        return self._lock is not None

    def acquire(self) -> None:
        """Create the folder, lock it, clean it and open the event log.

        Raises:
            ConfigError: the path is too long for the files in the folder.
            RunInUseError: another run holds the folder; names its process, host and start.
            StorageError: the folder cannot be created or written.
        """
        if (length := len(os.fsencode(self.path.absolute()))) > _LONGEST:
            raise ConfigError(f"{str(self.path)[:80]}...: the path has {length} bytes; choose one below {_LONGEST}")
        with storage_errors(self.path, "create"):
            self.path.mkdir(parents=True, exist_ok=True)
        key = os.path.realpath(self.path)
        if _held.get(key) == os.getpid():
            raise RunInUseError(f"{self.path} is already in use by this process; finish that run first")
        self._started = _now()
        with storage_errors(self.path / ".lock"):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | _PLAIN, 0o666)
        try:
            self._take(handle)
            self._lock, _held[key] = handle, os.getpid()
            fault("rundir.locked")
            sweep(self.path)
            self._open_log()
        except BaseException:
            self._lock = handle
            self.release()
            raise

    def release(self) -> None:
        """Give the folder back; harmless when it is not held."""
        if self._log is not None:
            os.close(self._log)
            self._log = None
        if self._lock is None:
            return
        if self._owner_file:
            (self.path / ".owner").unlink(missing_ok=True)
            self._owner_file = False
        os.close(self._lock)
        self._lock = None
        _held.pop(os.path.realpath(self.path), None)

    def _take(self, handle: int) -> None:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _in_use(self.path, os.pread(handle, 4096, 0)) from None
            if error.errno not in _NO_LOCKS:
                raise
            self._take_owner_file()
            return
        _await_workers(self.path, handle)
        with storage_errors(self.path / ".lock"):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(self._owner()).encode(), 0)

    def _take_owner_file(self) -> None:
        path = self.path / ".owner"
        try:
            owner = path.read_bytes()
        except FileNotFoundError:
            owner = b""
        if owner and _alive(owner):
            raise _in_use(self.path, owner)
        with storage_errors(path):
            path.unlink(missing_ok=True)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            except FileExistsError:
                raise _in_use(self.path, b"") from None
            os.write(handle, json.dumps(self._owner()).encode())
            os.close(handle)
        self._owner_file = True
        warnings.warn(
            f"{self.path} is on a file system without locks; the file .owner stands in for one: "
            "do not start a second run in this folder",
            RuntimeWarning,
            stacklevel=4,
        )

    def _owner(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "host": socket.gethostname(), "started": self._started, "heartbeat": time.time()}

    def _beat(self) -> None:
        if self._owner_file and time.monotonic() >= self._next_heartbeat:
            self._next_heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
            atomic_write_json(self.path / ".owner", self._owner())

    def write_status(
        self,
        state: State,
        *,
        exit_code: int | None = None,
        reason: str = "",
        stage: str = "",
        step: int | None = None,
    ) -> None:
        """Replace `status.json`; a run that is not done can be taken up again."""
        self._beat()
        values = {
            "state": state,
            "exit_code": exit_code,
            "reason": reason,
            "stage": stage,
            "step": step,
            "resumable": state != "done",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self._started,
            "updated": _now(),
        }
        atomic_write_json(self.path / "status.json", values)

    def write_config(self, text: str) -> None:
        """Replace `config.toml`, the resolved recipe."""
        atomic_write_text(self.path / "config.toml", text)

    def write_run_info(
        self, *, seeds: Iterable[int], hashes: Mapping[str, str], git_folder: Path | None = None, **more: Any
    ) -> None:
        """Replace `run.json`: the environment, the seeds, the hashes of data and recipe, and what else is given."""
        info: dict[str, Any] = {"started": self._started, **environment(), "seeds": list(seeds), "hashes": dict(hashes)}
        info["git"] = git_commit(git_folder or Path.cwd())
        atomic_write_json(self.path / "run.json", {**info, **more})

    def event(self, kind: str, /, **values: Any) -> None:
        """Append one line to `events.jsonl`: kind, wall time, monotonic time (seconds), then `values`.

        Non-finite numbers become null. When the disk is full the run goes on: one warning, `events_lost` counts.
        """
        assert self._log is not None, "events need an acquired run folder"
        head = {"kind": kind, "time": time.time(), "monotonic": time.monotonic()}
        assert not head.keys() & values.keys(), f"{sorted(head)} are taken"
        line = json.dumps({**head, **plain(values)}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            with contextlib.suppress(StorageError):
                self._beat()
            fault("event.write")
            start = os.fstat(self._log).st_size
            if os.write(self._log, line) != len(line):
                os.ftruncate(self._log, start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.events_lost += 1
            if self.events_lost == 1:
                warnings.warn(
                    f"cannot write {self.path / 'events.jsonl'}: {error.strerror}; the run goes on without its log",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _open_log(self) -> None:
        """Open `events.jsonl`, less the half line of a process that was killed while it wrote."""
        path = self.path / "events.jsonl"
        with storage_errors(path):
            self._log = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _PLAIN, 0o666)
            end = size = os.fstat(self._log).st_size
            while end and os.pread(self._log, 1, end - 1) != b"\n":
                end -= 1
            if end != size:
                os.ftruncate(self._log, end)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events of all starts of this run, oldest first; a line that is being written is left out."""
        with storage_errors(self.path / "events.jsonl", "read"):
            try:
                data = (self.path / "events.jsonl").read_bytes()
            except FileNotFoundError:
                return
        for line in data.split(b"\n")[:-1]:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def share(path: Path) -> None:
    """In a worker process: the next run in the folder that its parent holds waits for the end of this process, too.

    The parent has the first byte of the lock, which is of one process alone, and its workers have the rest.
    """
    with storage_errors(path / ".lock"):
        handle = os.open(path / ".lock", os.O_RDWR | _PLAIN)
        try:
            fcntl.lockf(handle, fcntl.LOCK_SH, 0, 1)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise


def _await_workers(path: Path, handle: int) -> None:
    limit = time.monotonic() + _LINGER_SECONDS
    while True:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 1)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            if time.monotonic() > limit:
                raise RunInUseError(f"{path} is in use by workers of a run that has ended; end them") from error
            time.sleep(0.02)
    fcntl.lockf(handle, fcntl.LOCK_UN, 0, 1)


def environment() -> dict[str, Any]:
    """What results depend on besides recipe and data: versions, platform, threads, processor capability."""
    import torch

    versions = {name: metadata.version(name) for name in ("tokenizers", "safetensors", "numpy")}
    return {
        "versions": {
            "xlt-engine": __version__,
            "torch": torch.__version__,
            **versions,
            "python": platform.python_version(),
        },
        "platform": _system(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _system() -> str:
    """What `platform.platform` says, which asks the program `uname` for more than it says."""
    system, libc = os.uname(), "".join(platform.libc_ver())
    return f"{system.sysname}-{system.release}-{system.machine}" + (f"-with-{libc}" if libc else "")


def cpu_name() -> str:
    """The processor in words, as its maker calls it; its kind where /proc/cpuinfo does not say. Starts no program."""
    cpu = platform.machine()  # `platform.processor` would ask `uname`
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return cpu


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _parse_owner(data: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(data)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _in_use(path: Path, data: bytes) -> RunInUseError:
    owner = _parse_owner(data)
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, started {owner.get('started', '?')}"
    return RunInUseError(f"{path} is in use by {who}; wait for it, stop it, or choose another --run-dir")


def _alive(data: bytes) -> bool:
    """Whether the process named in an owner file may still run: by its id on this host, by its heartbeat elsewhere."""
    owner = _parse_owner(data)
    pid, beat = owner.get("pid"), owner.get("heartbeat")
    if not isinstance(pid, int) or not isinstance(beat, int | float):
        return False
    if owner.get("host") != socket.gethostname():
        return time.time() - beat < _STALE_SECONDS
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MOST = 1 << 24
"""Bytes of a file that are read."""


def git_commit(folder: Path) -> str | None:
    """The commit that the work tree around `folder` is at; None outside of one, and where it has none yet."""
    place = folder.resolve()
    git = next((path / ".git" for path in (place, *place.parents) if (path / ".git").exists()), None)
    if git is None:
        return None
    link = _read(git)  # of a further work tree, and of a submodule
    if link.startswith("gitdir: "):
        git = git.parent / link.removeprefix("gitdir: ")
    shared, head = git / (_read(git / "commondir") or "."), _read(git / "HEAD")
    name = head.removeprefix("ref: ")
    if name != head:
        if not name.startswith("refs/") or ".." in name:
            return None
        head = _read(git / name) or _read(shared / name) or _packed(shared, name)
    return head if _COMMIT.fullmatch(head) else None


def _packed(shared: Path, name: str) -> str:
    lines = (line.partition(" ") for line in _read(shared / "packed-refs").splitlines())
    return next((commit for commit, _, ref in lines if ref == name), "")


def _read(path: Path) -> str:
    """The text of a file without the space around it; empty where there is none."""
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            with open(path, "rb") as file:
                return file.read(_MOST).decode("utf-8", "replace").strip()
    return ""
