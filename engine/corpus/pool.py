"""Tasks over processes: whoever is free takes the next one; one worker means this process.

Workers are forked where the system can do that safely, so that they share the automaton of the titles instead of each
building one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from ... import Interrupted, OutOfMemoryError
from ..storage.faults import fault

T = TypeVar("T")
_POLL_SECONDS = 0.5
_HELD = 2  # tasks of each worker that have been read and are not done
_work: Callable[[Any], None]
"""In a worker: what it does with a task."""


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
        Interrupted: `should_stop` asked for it.
        XltError: what `work` raised.
        OutOfMemoryError: a worker was killed.
    """
    if workers < 2:
        for task in tasks:
            stop_if_asked(should_stop)
            work(task)
            fault("corpus.piece")
            yield task
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (work, os.getpid()))
    pending: dict[Future[None], T] = {}
    try:
        while True:
            stop_if_asked(should_stop)
            for task in islice(tasks, _HELD * workers - len(pending)):
                pending[_submit(pool, task)] = task
                stop_if_asked(should_stop)
            if not pending:
                return
            for done in wait(pending, _POLL_SECONDS, FIRST_COMPLETED).done:
                done.result()
                fault("corpus.piece")
                yield pending.pop(done)
    except BrokenProcessPool as error:
        raise OutOfMemoryError(
            "a worker process was killed, perhaps for want of memory; run the same command again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def stop_if_asked(should_stop: Callable[[], int]) -> None:
    """Raise Interrupted where `should_stop` gives the number of a signal."""
    if number := should_stop():
        raise Interrupted(number)


def _submit(pool: ProcessPoolExecutor, task: object) -> Future[None]:
    with warnings.catch_warnings():
        # Threads of the numerical libraries may sleep in this process; the workers call none of them.
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        return pool.submit(_do, task)


def _begin(work: Callable[[Any], None], parent: int) -> None:
    """A worker's start. Signals of the terminal reach it too, but only the parent decides, with which it ends."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _do(task: object) -> None:
    _work(task)
