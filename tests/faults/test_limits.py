"""Real limits of the system and a real small disk: the right code, nothing lost, and then the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
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
def test_no_orphans(tmp_path: Path) -> None:
    """Row 13: the parent is killed; its worker does not go on to the end of a long task."""
    begun = tmp_path / "begun"
    work = f"lambda seconds: (Path({str(begun)!r}).touch(), time.sleep(seconds))"
    script = (
        "import time\nfrom pathlib import Path\nfrom xlt_engine.engine.runs.workers import Workers\n"
        f"workers = Workers(1, lambda *_: {work}, fork=True)\n"
        "workers.run(lambda busy: None if busy else 3600, lambda *_: None)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    until(begun.exists, "a task in work")
    (worker,) = children(parent.pid)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while (alive := state(worker) not in ("", "Z")) and time.monotonic() < deadline:
        time.sleep(0.05)
    if alive:
        os.kill(worker, signal.SIGKILL)
    assert not alive
