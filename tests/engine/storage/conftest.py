"""Faults that strike a process of one's own, for the tests of this room."""

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch

from xlt_engine.engine.storage import faults


@pytest.fixture(autouse=True)
def _no_fault(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    faults._passages.clear()
    yield
    faults._passages.clear()


@pytest.fixture
def in_child() -> Callable[..., int]:
    """Runs `work` in a forked process; its exit code, or minus the signal that killed it."""

    def run(work: Callable[[], object], fault: str = "") -> int:
        def main() -> None:
            torch.set_num_threads(1)
            os.environ[faults.VARIABLE] = fault
            faults._passages.clear()
            work()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's threads
            process = multiprocessing.get_context("fork").Process(target=main)
            process.start()
        process.join()
        return process.exitcode  # type: ignore[return-value]

    return run
