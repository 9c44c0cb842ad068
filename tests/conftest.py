"""What holds for all tests: threads and order of the workers, what cuBLAS reads once, and no wait for a disk."""

import os
from collections.abc import Iterator

import pytest

# Workers of pytest-xdist have the cores to share: one thread each, in the processes that they start too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# cuBLAS asks for it under deterministic algorithms, and reads it at its first call: whichever test makes that.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_configure(config: pytest.Config) -> None:
    """Files in their order, which has long ones before short ones; pytest-xdist would end with those of one test."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """A synchronisation takes milliseconds, and a tiny run has 400: tests/faults/power.py looks at which there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield
