"""No network, no pickle, no program: a whole run and what follows it, with traps for all of them."""

from pathlib import Path

import pytest
from starts import Alone, Starts


@pytest.mark.fault(24)
def test_no_network_no_pickle_no_program(start: Starts, alone: Alone, tmp_path: Path) -> None:
    log = tmp_path / "tried"
    run = tmp_path / "run"
    for command in (
        alone.arguments(run),
        ["report", run],
        ["predict", run, alone.recipe.parent / "de.txt", "--language", "de"],
    ):
        started = start(*command, forbid=[str(log)])
        assert started.wait() == 0, started.text()
        assert not log.exists(), log.read_text("utf-8")
    assert alone.differing(run) == []


def test_the_trap_is_one(start: Starts, tmp_path: Path) -> None:
    """What is forbidden, done on purpose, is caught."""
    log = tmp_path / "tried"
    started = start("--version", forbid=[str(log)], tempt=[])
    assert started.wait() == 0
    tried = log.read_text("utf-8")
    for event in ("socket.connect", "socket.getaddrinfo", "pickle.find_class", "subprocess.Popen"):
        assert event in tried
