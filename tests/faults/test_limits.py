"""Real limits of the system and a real small disk: the right code, nothing lost, and then the same bits."""

import json
import os
import signal
from pathlib import Path

import pytest
from kill import corpus
from starts import Alone, Starts, children, state, status, until

SIZES = ("100k", "800k", "200m")
NO_RIGHTS = 77


@pytest.mark.fault(14)
def test_a_disk_that_fills_up(start: Starts, alone: Alone, tmp_path: Path) -> None:
    """Row 14: a disk in memory, too small again and again, until there is room; the bits are those without all that."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    run = start(*alone.arguments(disk / "run"), disk=[str(disk), str(copy), *SIZES])
    if run.wait() == NO_RIGHTS:
        pytest.skip("this user may not mount a disk in memory; test_checkpoint.py has the same by fault points")
    codes = json.loads(run.text("out").splitlines()[-1])
    assert codes == [5] * (len(SIZES) - 1) + [0], run.text()
    assert run.text().count("No space left on device") + run.text().count(" are free; ") >= len(SIZES) - 1
    assert alone.differing(copy) == []
    assert not list(copy.rglob(".tmp-*"))


@pytest.mark.fault(18)
def test_a_read_only_disk(start: Starts, alone: Alone, tmp_path: Path) -> None:
    """Row 18."""
    disk = tmp_path / "disk"
    run = start(*alone.arguments(disk / "run"), disk=[str(disk), "", "ro"])
    if run.wait() == NO_RIGHTS:
        pytest.skip("this user may not mount a disk in memory")
    assert json.loads(run.text("out").splitlines()[-1]) == [5]
    assert "Read-only file system; the file system is read-only: choose another folder" in run.text()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("FSIZE", 20_000, "File too large; raise the file size limit"), ("NOFILE", 8, "Too many open files")],
)
@pytest.mark.fault(15)
def test_a_limit(start: Starts, alone: Alone, tmp_path: Path, name: str, value: int, said: str) -> None:
    """Row 15. Under a limit of the system; without it the same command goes on."""
    run = start(*alone.arguments(tmp_path), limit=[f"RLIMIT_{name}", value])
    assert (run.wait(), "Traceback" in run.text()) == (5, False), run.text()
    assert said in run.text()
    alone.goes_on(start, tmp_path)


@pytest.mark.fault(50)
def test_too_little_memory(start: Starts, alone: Alone, tmp_path: Path) -> None:
    """Row 50: a real limit of the address space, and an encoder that does not fit in."""
    large = ["--set", "model.new.num_layers=64", "--set", "model.new.intermediate_size=262144"]
    run = start(*alone.arguments(tmp_path), *large, limit=["RLIMIT_AS", 256 << 20])
    assert (run.wait(), "Traceback" in run.text()) == (8, False), run.text()
    assert "memory" in run.text().splitlines()[-1]
    assert status(tmp_path) == ("failed", 8, True)
    alone.goes_on(start, tmp_path)


@pytest.mark.fault(13)
def test_no_orphans(start: Starts, tmp_path: Path) -> None:
    """Row 13: the parent is killed; its workers see that and end. Those of a run: test_jobs.py."""
    command = corpus(tmp_path / "data")
    with open(tmp_path / "data" / "raw.de.txt", "a", encoding="utf-8") as text:
        text.write("Der Minister besuchte Paris und sprach dort sehr lange mit vielen Leuten.\n" * 400_000)
    run = start(*command, "--out", str(tmp_path / "de.txt"), "--workers", "2")
    workers = until(lambda: len(below := children(run.pid)) >= 2 and below, "two workers")
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    until(lambda: all(state(worker) in ("", "Z") for worker in workers), f"the end of {workers}")
