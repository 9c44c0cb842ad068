"""Signals, terminals and clocks: a run ends cleanly or goes on, and the same command ends in the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from starts import PATIENCE, Alone, Starts, state, status, until

STAGE = "seed-0/de/finetune"


@pytest.mark.fault(4)
def test_a_hangup_stops_with_a_checkpoint(start: Starts, alone: Alone, tmp_path: Path) -> None:
    """Rows 4 and 8; the other signals: tests/cli/test_cli.py."""
    run = start(*alone.arguments(tmp_path), fault="loop.loss:14:hup")
    assert run.wait() == 129, run.text()
    assert "stopped by signal 1; the same command goes on from here" in run.text()
    assert status(tmp_path) == ("stopped", 129, True)
    assert list(tmp_path.glob("seed-0/**/checkpoint/step-*"))
    alone.goes_on(start, tmp_path)


@pytest.mark.fault(8)
def test_nohup(start: Starts, alone: Alone, tmp_path: Path) -> None:
    """A hang-up that is ignored from the start stays ignored."""
    run = start(*alone.arguments(tmp_path), ignore=["SIGHUP"], fault="loop.loss:14:hup")
    assert run.wait() == 0, run.text()
    assert alone.differing(tmp_path) == []


@pytest.mark.fault(8)
def test_a_closed_terminal(start: Starts, alone: Alone, tmp_path: Path) -> None:
    """Row 8. The window closes: a hang-up comes, and whatever is written from then on fails."""
    terminal, end = os.openpty()
    run = start(*alone.arguments(tmp_path), terminal=[os.ttyname(end)], patient=[1], fault="loop.loss:14:sleep")
    shown = b""
    while b"btf: " not in shown:
        shown += os.read(terminal, 4096)
    os.close(end)
    os.close(terminal)
    assert (run.wait(), status(tmp_path)) == (129, ("stopped", 129, True))
    alone.goes_on(start, tmp_path)


@pytest.mark.parametrize("stream", ["closed", "pipe"])
@pytest.mark.fault(8)
def test_lost_output_costs_no_run(start: Starts, alone: Alone, tmp_path: Path, stream: str) -> None:
    """Row 8. Nobody reads what a run says, from the beginning: it runs to its end, its files are all there."""
    run = start(*alone.arguments(tmp_path), streams=[stream])
    assert (run.wait(), status(tmp_path), alone.differing(tmp_path)) == (0, ("done", 0, False), [])


@pytest.mark.fault(8)
def test_a_full_stdout_is_said(start: Starts, alone: Alone) -> None:
    run = start(*alone.arguments(alone.folder), streams=["/dev/full", 1])
    assert run.wait() == 5
    said = "cannot write the output: No space left on device; free some space, or send it elsewhere"
    assert run.text() == f"error: {said}\n"


@pytest.mark.fault(9)
def test_stopped_and_continued(start: Starts, alone: Alone, tmp_path: Path) -> None:
    """Row 9."""
    run = start(*alone.arguments(tmp_path))
    for stage in ("seed-0/pretrain", STAGE):
        until(lambda stage=stage: (tmp_path / stage / "fingerprint.json").exists(), stage)  # type: ignore[misc]
        os.kill(run.pid, signal.SIGSTOP)
        until(lambda: state(run.pid) in "TZ", "the stop")
        os.kill(run.pid, signal.SIGCONT)
    assert run.wait() == 0, run.text()
    assert alone.differing(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
@pytest.mark.fault(6, 7, 46)
def test_a_second_signal_or_a_kill_in_a_slow_save(
    start: Starts, alone: Alone, tmp_path: Path, number: int, code: int
) -> None:
    """Rows 6, 7 and 46. The save takes longer than the grace: the checkpoint before it is whole."""
    run = start(*alone.arguments(tmp_path), tell=["a save that takes long"], fault="checkpoint.manifest:5:sleep")
    until(lambda: "a save that takes long" in run.text(), "the save")
    os.kill(run.pid, signal.SIGHUP)
    os.kill(run.pid, number)
    assert run.wait() == code
    assert list(tmp_path.glob("seed-0/**/checkpoint/.tmp-*"))
    if number == signal.SIGKILL:
        alone.goes_on(start, tmp_path)


@pytest.mark.fault(12)
def test_a_clock_that_goes_back(start: Starts, alone: Alone, tmp_path: Path) -> None:
    """Row 12. By a day whenever somebody looks; and the run goes on from a checkpoint of the future."""
    run = start(*alone.arguments(tmp_path), clock=[86400.0], fault="loop.loss:14:kill")
    assert run.wait() == -9
    alone.goes_on(start, tmp_path)


EARLY = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started the tests by nohup
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "torch", "tokenizers"):
            sys.meta_path.remove(self)
            assert {signal.getsignal(n).__name__ for n in (1, 2, 15)} == {"_on_signal"}
            os.kill(os.getpid(), signal.SIGHUP)
sys.meta_path.insert(0, Finder())
from xlt_engine.cli import main
main(sys.argv[1:])
"""


@pytest.mark.fault(5)
def test_signals_are_heard_before_anything_slow_is_loaded(alone: Alone, tmp_path: Path) -> None:
    """Row 5. The first library of those that take seconds finds the handlers set; a signal there stops the run."""
    command = [sys.executable, "-c", EARLY, *alone.arguments(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert run.returncode == 129, run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.glob("run/seed-0/*/stage.json"))


@pytest.mark.parametrize("point", ["rundir.locked", "publish.synced", "checkpoint.hashed"])
@pytest.mark.fault(5)
def test_a_signal_anywhere_is_a_clean_stop(start: Starts, alone: Alone, tmp_path: Path, point: str) -> None:
    """Row 5: while files are read and stores built, while labels and reports are written."""
    run = start(*alone.arguments(tmp_path), fault=f"{point}:1:term")
    assert run.wait() == 143, run.text()
    assert status(tmp_path) == ("stopped", 143, True)
