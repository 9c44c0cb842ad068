"""Starts the command line in processes forked from one that has loaded torch already; as a script, it is that one.

`Starts` talks to it. It reads an order a line: {"arguments": [...], "out": PATH, "set": {...}, "environment": {...}}
starts one, and is answered by its process number; {"wait": NUMBER} by its exit code, or minus its signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partialmethod
from pathlib import Path
from typing import Any


def load() -> None:
    """Loads what a run loads, also what it loads late, so that starts are forks alone; none waits for the disk."""
    import torch._dynamo

    import xlt_engine.cli
    import xlt_engine.engine.commands.run
    import xlt_engine.engine.lab.studies.sentences
    import xlt_engine.engine.report.write
    import xlt_engine.engine.runs.kinds
    import xlt_engine.engine.runs.runner

    torch.set_num_threads(1)
    xlt_engine.engine.runs.kinds.load_plugins()
    os.fsync = lambda handle: None  # type: ignore[assignment]


def write_tiny(folder: Path, task: str = "ner") -> Path:
    """The tiny recipe of the engine's tests, in `folder`, with a checkpoint of each step."""
    spec = importlib.util.spec_from_file_location("tiny_files", Path(__file__).parents[1] / "engine" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe: Path = module.write_tiny(folder, task)
    recipe.write_text(recipe.read_text("utf-8").replace("seconds = 600", "seconds = 0"), "utf-8")
    return recipe


def fork(work: Callable[[], int], out: Path | None = None) -> int:
    """A process that does `work` and ends with its result; its number. `out` is where its two streams go."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started the tests may have had it ignored
        if out is not None:
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 70
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code)


def command(arguments: Sequence[str]) -> int:
    """The command line; its exit code."""
    from xlt_engine.cli import main

    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 70
    return 0


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# What a process is given before it begins, by name.


def limit(name: str, value: int) -> None:
    """A resource limit, such as RLIMIT_FSIZE; an address space is counted from what the process has already."""
    number = getattr(resource, name)
    if name == "RLIMIT_AS":
        value += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if name == "RLIMIT_NOFILE":
        value += len(os.listdir("/proc/self/fd"))
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def clock(step: float) -> None:
    """A wall clock that goes back by so many seconds whenever somebody looks."""
    now = time.time()

    def backwards() -> float:
        nonlocal now
        now -= step
        return now

    time.time = backwards


def ignore(name: str) -> None:
    """A signal that is ignored from the start, as by `nohup`."""
    signal.signal(getattr(signal, name), signal.SIG_IGN)


def forbid(log: str) -> None:
    """No network, no pickle and no program: what tries it fails, and is written down."""
    at_once = {"pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.bind"}

    def hook(event: str, given: tuple[Any, ...]) -> None:
        online = event == "socket.connect" and given[0].family != socket.AF_UNIX
        looked_up = event in ("socket.getaddrinfo", "socket.gethostbyname")
        if online or looked_up or event in at_once:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{event} {given!r:.200}\n")
            raise RuntimeError(f"{event} is forbidden here")

    sys.addaudithook(hook)


def tempt() -> None:
    """Tries what `forbid` forbids."""
    for attempt in (
        lambda: socket.socket().connect(("127.0.0.1", 9)),
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: pickle.loads(pickle.dumps(Path)),
        lambda: subprocess.run(["true"], check=False),
    ):
        with contextlib.suppress(RuntimeError):
            attempt()


def patient(seconds: float) -> None:
    """How long the fault `sleep` takes."""
    from xlt_engine.engine.storage import faults

    faults.SLEEP_SECONDS = seconds


def tell(text: str) -> None:
    """Says on stderr that the fault `sleep` has come."""
    sleep = time.sleep

    def told(seconds: float) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
        for _ in range(int(seconds * 20)):  # a signal that another thread was given waits for the end of a call
            sleep(0.05)

    time.sleep = told


def forked() -> None:
    """Workers are forks, which have loaded torch already; they keep the folder's lock, which others may not get."""
    from xlt_engine.engine.runs.workers import Workers

    Workers.__init__ = partialmethod(Workers.__init__, fork=True)  # type: ignore[method-assign]


def streams(out: str, *numbers: int) -> None:
    """Where stdout and stderr (or those of `numbers`) go: a file, a "pipe" that nobody reads, or "closed"."""
    reader, writer = os.pipe()
    os.close(reader)
    for number in numbers or (1, 2):
        if out == "closed":
            os.close(number)
            setattr(sys, ("stdout", "stderr")[number - 1], None)
        else:
            os.dup2(writer if out == "pipe" else os.open(out, os.O_WRONLY), number)
    os.close(writer)


def terminal(name: str) -> None:
    """A terminal of its own for all three streams; when that is closed, a hang-up comes."""
    os.setsid()
    handle = os.open(name, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(handle, number)
    os.close(handle)


def disk(place: str, copy: str, *sizes: str) -> None:
    """In place of the one command: the command for each size of a small disk at `place`, which then goes to `copy`.

    The disk is in memory, and only this process sees it; "ro" makes it read-only. The codes of the commands are the
    last line of stdout; 77 says that this user may not have such a disk.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(0x10000000 | 0x20000):  # a user and a mount namespace
        os._exit(77)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    os.makedirs(place)
    remount, read_only = 32, 1
    codes: list[int] = []

    def mount(size: str) -> None:
        flags = (remount if codes else 0) | (read_only if size == "ro" else 0)
        options = b"" if size == "ro" else f"size={size}".encode()
        if libc.mount(b"none", place.encode(), b"tmpfs", flags, options):
            os._exit(77)

    for size in sizes:
        mount(size)
        codes.append(wait(fork(lambda: command(CURRENT[0]))))
    if copy:
        shutil.copytree(os.path.join(place, "run"), copy, symlinks=True)
    sys.stdout.write(json.dumps(codes) + "\n")
    raise SystemExit(0)


CURRENT: list[list[str]] = []
"""The command that a process was started for."""

SETTINGS: dict[str, Callable[..., None]] = {
    setting.__name__: setting
    for setting in (limit, clock, ignore, forbid, patient, tell, forked, tempt, streams, terminal, disk)
}


def begin(order: Mapping[str, Any]) -> int:
    """Starts what an order asks for."""

    def work() -> int:
        os.environ.update(order["environment"])
        CURRENT.append(order["arguments"])
        for name, values in order["set"].items():
            SETTINGS[name](*values)
        return command(order["arguments"])

    return fork(work, Path(order["out"]))


# In the tests.

PATIENCE = 600.0
"""Seconds after which what should have happened is taken to hang: tests wait for events."""


def until(happened: Callable[[], Any], what: str) -> Any:
    """What `happened` returns once that is true."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        if value := happened():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE:.0f} s for {what}")


def state(pid: int) -> str:
    """The letter that the system has for a process: R or S runs, T is stopped, Z has ended; "" is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def children(parent: int) -> set[int]:
    """The processes that a process has started, and those that these have."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended meanwhile
            continue
    below = {pid for pid, above in parents.items() if above == parent}
    return below.union(*(children(pid) for pid in below))


def status(place: Path) -> tuple[str, int | None, bool]:
    """State, exit code, and whether the run can go on."""
    values = json.loads((place / "status.json").read_bytes())
    return values["state"], values["exit_code"], values["resumable"]


@dataclass
class Started:
    """A command that runs in a process of its own."""

    pid: int
    out: Path
    server: Starts

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        return self.server.ask({"wait": self.pid})

    def text(self, stream: str = "err") -> str:
        path = Path(f"{self.out}.{stream}")
        return path.read_text("utf-8") if path.exists() else ""


class Starts:
    """Starts commands in processes that have loaded torch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen([sys.executable, __file__], **pipes, text=True, env=environment)

    def ask(self, order: dict[str, Any]) -> int:
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def __call__(self, *arguments: str | Path, fault: str = "", **settings: list[Any]) -> Started:
        """Starts `xlt-engine ARGUMENTS` with `XLT_FAULT` and what `SETTINGS` has."""
        self.count += 1
        out = self.folder / str(self.count)
        environment = {"XLT_FAULT": fault} if fault else {}
        order = {"arguments": [str(a) for a in arguments], "out": str(out), "set": settings, "environment": environment}
        return Started(self.ask(order), out, self)

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


SHORT = ("--set", "selftrain.rounds=1", "--set", "arms.baseline=false")
"""Five stages: pretrain, btf, finetune, soft1, hard1."""


@dataclass
class Alone:
    """A recipe of seconds, and the folder of the run of it that was left alone."""

    recipe: Path
    folder: Path

    def arguments(self, place: Path) -> list[str]:
        return ["run", str(self.recipe), "--run-dir", str(place), *SHORT]

    def goes_on(self, start: Starts, place: Path, **settings: list[Any]) -> None:
        """The same command ends, and its results are those of the run that was left alone."""
        again = start(*self.arguments(place), **settings)
        assert again.wait() == 0, again.text()
        assert (status(place), self.differing(place)) == (("done", 0, False), [])

    @cached_property
    def results(self) -> dict[str, str]:
        from kill import results

        return results(self.folder)

    def differing(self, place: Path) -> list[str]:
        """The files of a run folder that are not those of the run that was left alone."""
        from kill import results

        ended = results(place)
        return sorted(k for k in ended.keys() | self.results.keys() if ended.get(k) != self.results.get(k))


# The server.


def serve() -> None:
    load()
    warnings.simplefilter("ignore", DeprecationWarning)
    for line in sys.stdin:
        order = json.loads(line)
        answer = wait(order["wait"]) if "wait" in order else begin(order)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
