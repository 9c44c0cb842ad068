"""What the tests of faults share: the modules beside them, a server that starts commands, and a run left alone."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for `starts` and the tools, which are scripts, too

from starts import Alone, Starts, write_tiny


@pytest.fixture(autouse=True)
def _no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLT_FAULT", raising=False)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starts]:
    starts = Starts(tmp_path_factory.mktemp("starts"))
    yield starts
    starts.close()


@pytest.fixture(scope="session")
def alone(start: Starts, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The tiny recipe, and a run of it that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("recipe")
    run = Alone(write_tiny(folder), folder / "alone")
    started = start(*run.arguments(run.folder))
    assert started.wait() == 0, started.text()
    return run
