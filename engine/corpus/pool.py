"""Tasks over processes: whoever is free takes the next one; one worker means this process.

Workers are forked where the system can do that safely, so that they share the automaton of the titles instead of each
building one. A worker ends with its parent, however that ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from ... import DataError, Interrupted, OutOfMemoryError, StorageError, XltError
from ..storage.faults import fault

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 5.0
_CLASSES: dict[str, type[XltError]] = {c.__name__: c for c in (DataError, StorageError, OutOfMemoryError)}


class _Numbered(Protocol):
    @property
    def index(self) -> int:
        """The task's number."""


T = TypeVar("T", bound=_Numbered)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    tasks: Iterator[T], work: Callable[[T], None], workers: int, should_stop: Callable[[], int] = lambda: 0
) -> Iterator[T]:
    """The tasks, each when it is done, in any order.

    Args:
        tasks: asked for the next one shortly before it is needed.
        work: called in a worker; its result is what it writes.
        workers: processes.
        should_stop: number of a signal that asks for an end, or 0.

    Raises:
        Interrupted: `should_stop` asked for it; what was begun is given up.
        XltError: what `work` raised.
        OutOfMemoryError: a worker was killed.
    """
    if workers < 2:
        for task in tasks:
            _stop(should_stop)
            work(task)
            fault("corpus.piece")
            yield task
        return
    pool = _Pool(work, workers)
    try:
        yield from pool.run(tasks, should_stop)
    finally:
        pool.close()


def _stop(should_stop: Callable[[], int]) -> None:
    if number := should_stop():
        raise Interrupted(number)


class _Pool:
    def __init__(self, work: Callable[[Any], None], workers: int) -> None:
        if sys.platform == "linux":
            context: Any = multiprocessing.get_context("fork")
        else:
            context = multiprocessing.get_context("spawn")
        self._members: dict[Connection, BaseProcess] = {}
        with warnings.catch_warnings():
            # Threads of the numerical libraries may sleep in this process; the workers call none of them.
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            for _ in range(workers):
                mine, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, os.getpid(), work), daemon=True)
                process.start()
                theirs.close()
                self._members[mine] = process

    def run(self, tasks: Iterator[T], should_stop: Callable[[], int]) -> Iterator[T]:
        idle, busy = list(self._members), dict[Connection, T]()
        upcoming = next(tasks, None)
        while upcoming is not None or busy:
            while idle and upcoming is not None:
                _stop(should_stop)
                member = idle.pop()
                busy[member] = upcoming
                self._send(member, upcoming)
                upcoming = next(tasks, None)
            _stop(should_stop)
            for ready in wait(list(busy), _POLL_SECONDS):
                assert isinstance(ready, Connection)
                self._receive(ready)
                idle.append(ready)
                fault("corpus.piece")
                yield busy.pop(ready)

    def _send(self, member: Connection, task: object) -> None:
        try:
            member.send(task)
        except OSError as error:
            raise self._lost(member) from error

    def _receive(self, member: Connection) -> None:
        try:
            name, message = member.recv()
        except (EOFError, OSError) as error:
            raise self._lost(member) from error
        if name:
            raise _CLASSES.get(name, XltError)(message)

    def _lost(self, member: Connection) -> XltError:
        process = self._members[member]
        process.join(_GRACE_SECONDS)
        if process.exitcode is not None and process.exitcode < 0:
            return OutOfMemoryError(
                f"a worker process was killed by signal {-process.exitcode}, perhaps for want of memory; "
                "run the same command again with fewer --workers"
            )
        return XltError(f"a worker process ended with code {process.exitcode}; its error is above")

    def close(self) -> None:
        for member, process in self._members.items():
            member.close()
            process.terminate()
        for process in self._members.values():
            process.join(_GRACE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(parent: Connection, parent_id: int, work: Callable[[Any], None]) -> None:
    """A worker's life. The terminal's interrupt reaches it too, but only the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        while not parent.poll(_POLL_SECONDS):
            if os.getppid() != parent_id:
                return
        try:
            task = parent.recv()
        except EOFError:
            return
        try:
            work(task)
        except XltError as error:
            parent.send((type(error).__name__, str(error)))
        else:
            parent.send(("", ""))
