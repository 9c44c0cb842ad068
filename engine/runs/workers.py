"""Worker processes, each with one task at a time, for the stages of a run and the pieces of a corpus.

Those of a run are spawned, not forked: torch has threads of its own. A worker saves and ends when it is told to, and
ends at once with its parent. Each has a pipe of its own, so that one that is killed blocks no other and can be named; a
pool of `concurrent.futures` has one queue for all, and breaks as a whole.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from ... import Interrupted, OutOfMemoryError, XltError
from ..storage.files import storage_errors

T = TypeVar("T")
Tell = Callable[..., None]
Begin = Callable[[Callable[[], int], Tell], Callable[[T], object]]
"""In a worker, before its first task: from what it polls and what it tells by to what does a task."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 60.0
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Answer:
    """What became of a task: its value, or the error that ended it.

    Of a worker that was killed an OutOfMemoryError, of one that ended by itself an XltError; both begin with the task.
    """

    value: Any = None
    error: Exception | None = None


class Workers(Generic[T]):
    """Processes that start with the first task, each with at most one.

    Args:
        number: how many there may be.
        begin: what each of them does with its tasks; sent to it.
        heard: hears in this process what a worker tells of its task: the task, and the arguments of `Tell`.
        fork: copy this process, where the system can do that safely; nothing is sent then.
        option: of the command, for fewer of them.

    Attributes:
        busy: the tasks in work, by the pipes of their workers.
    """

    def __init__(
        self,
        number: int,
        begin: Begin[T],
        heard: Callable[..., None] = lambda task, *told: None,
        *,
        fork: bool = False,
        option: str = "--jobs",
    ) -> None:
        self._number, self._begin, self._heard, self._option = number, begin, heard, option
        self._fork = fork and sys.platform == "linux"
        self._members: dict[Connection, BaseProcess] = {}
        self.busy: dict[Connection, T] = {}

    def run(
        self,
        next_task: Callable[[Sequence[T]], T | None],
        take: Callable[[T, Answer], None],
        should_stop: Callable[[], int] = lambda: 0,
    ) -> None:
        """Has tasks done until there is none and nothing is in work; then, or on an error, all workers save and end.

        Args:
            next_task: from the tasks in work to one that can be begun, if any.
            take: gets each answer; what it raises ends all. After that it gets those without an error.

        Raises:
            Interrupted: `should_stop` asked for it.
        """
        try:
            while True:
                if number := should_stop():
                    raise Interrupted(number)
                free = len(self.busy) < self._number
                if free and (task := next_task(list(self.busy.values()))) is not None:
                    self.give(task)
                    self.start()  # the others load what they need meanwhile
                elif self.busy:
                    for ended, answer in self.answers():
                        take(ended, answer)
                else:
                    return
        finally:
            for ended, answer in self.stop():
                if answer.error is None:
                    take(ended, answer)

    def give(self, task: T) -> None:
        """Hands a task to an idle process, or to a new one."""
        member = next((m for m in self._members if m not in self.busy), None) or self._start()
        self.busy[member] = task
        with contextlib.suppress(OSError):  # one that has ended is noticed by its silence
            member.send(task)

    def start(self) -> None:
        """Starts all processes that there may be."""
        while len(self._members) < self._number:
            self._start()

    def _start(self) -> Connection:
        mine: Connection
        context: Any = multiprocessing.get_context("fork" if self._fork else "spawn")
        if not self._fork:
            resource_tracker.ensure_running()  # whose start would unblock signals
        with storage_errors("a worker process", "start"), warnings.catch_warnings():
            # Threads of the numerical libraries may sleep in this process; forked workers call none of them.
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            mine, theirs = context.Pipe()
            copied = [*self._members, mine] if self._fork else []
            process = context.Process(target=_serve, args=(theirs, self._begin, copied), daemon=True)
            # Until it has its handlers, a signal of the terminal waits.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                theirs.close()
        self._members[mine] = process
        return mine

    def answers(self) -> list[tuple[T, Answer]]:
        """The tasks that have ended since, after waiting a moment for word of one."""
        ended: list[tuple[T, Answer]] = []
        for member in wait(list(self.busy), POLL_SECONDS):
            assert isinstance(member, Connection)
            try:
                said = member.recv()
            except (EOFError, OSError):
                said = self._lost(member)
            ended += self._hear(member, said)
        return ended

    def _hear(self, member: Connection, said: Answer | tuple[Any, ...]) -> list[tuple[T, Answer]]:
        if isinstance(said, Answer):
            return [(self.busy.pop(member), said)]
        values, named = said
        self._heard(self.busy[member], *values, **named)
        return []

    def _lost(self, member: Connection) -> Answer:
        process, task = self._members.pop(member), self.busy[member]
        process.join(POLL_SECONDS)
        code = process.exitcode
        if code is None or code >= 0:
            return Answer(error=XltError(f"{task}: the process that made it ended with {code}; why stands above"))
        text = (
            f"{task}: the process that made it was killed by signal {-code}, perhaps for want of memory; nothing else "
            f"is lost: run the same command again, with fewer {self._option} if memory is short"
        )
        return Answer(error=OutOfMemoryError(text))

    def stop(self) -> list[tuple[T, Answer]]:
        """Has every process save and end; the answers of those that did so in time."""
        for process in self._members.values():
            process.terminate()
        ended: list[tuple[T, Answer]] = []
        for member in list(self.busy):
            # What cannot be noted any more is the first error's to tell.
            with contextlib.suppress(EOFError, OSError, XltError):
                while member in self.busy and member.poll(GRACE_SECONDS):
                    ended += self._hear(member, member.recv())
        for member, process in self._members.items():
            member.close()
            process.join(POLL_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
        self._members.clear()
        self.busy.clear()
        return ended


def _serve(parent: Connection, begin: Begin[Any], copied: Sequence[Connection]) -> None:
    """A worker's life. Signals of the terminal reach it too, but only the parent decides."""
    for other in copied:  # the parent's ends of pipes, which would hide that it has closed them
        other.close()
    told: list[int] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(*values: Any, **named: Any) -> None:
        parent.send((values, named))

    work: Callable[[Any], object] | None = None
    with contextlib.suppress(EOFError, OSError):  # when the parent wants nothing more
        while not told:
            if not parent.poll(POLL_SECONDS):
                continue
            task = parent.recv()
            try:
                work = work or begin(lambda: told[0] if told else 0, tell)
                answer = Answer(work(task))
            except (XltError, OSError, MemoryError, RuntimeError) as error:  # the parent raises it
                answer = Answer(error=portable(error))
            parent.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def public(error: XltError) -> XltError:
    """The same error of a class that the package shows, made of its words alone."""
    kind: type[XltError] = next(c for c in type(error).__mro__ if c.__module__ == XltError.__module__)
    return error if isinstance(error, Interrupted) else kind(str(error))


def portable(error: Exception) -> Exception:
    """An error that another process can raise, of a public class; one that is not the package's has its traceback."""
    if isinstance(error, XltError):
        return public(error)
    torch = sys.modules.get("torch")  # the workers of a corpus have none
    if isinstance(error, RuntimeError) and not (torch and isinstance(error, torch.OutOfMemoryError)):
        error = RuntimeError(str(error)).with_traceback(error.__traceback__)
    error.add_note(f"in a worker process:\n{''.join(traceback.format_tb(error.__traceback__))}")
    return error
