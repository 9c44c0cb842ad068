"""Row 28: a loss of power. `XLT_POWER` sets a number of whole runs that go on from what one has left (none)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from starts import PATIENCE

RUNS = int(os.environ.get("XLT_POWER", "0"))


@pytest.mark.fault(28)
def test_what_a_loss_of_power_leaves_serves() -> None:
    """Every state of a file, a folder and a checkpoint that are replaced; and, where asked for, some of a whole run."""
    command = [sys.executable, Path(__file__).parent / "power.py", "--parts", "--runs", str(RUNS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE + 60 * RUNS, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout
    outcome = json.loads(done.stdout)
    assert {name: set(outcome[name]) - {"calls", "states"} for name in ("file", "folder", "checkpoint")} == {
        "file": {"old", "new"},
        "folder": {"old", "new"},
        "checkpoint": {"step 10", "step 20"},
    }
    assert min(outcome[name]["states"] for name in ("folder", "checkpoint")) > 20
    assert RUNS == 0 or outcome["run"]["names in doubt"] > 0
