"""Rows 1 to 3: kills by system call. `XLT_KILLS` sets their number: 12 by default, of a run and of a corpus; above that
also of the other methods, of classification and of an ablation.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from starts import PATIENCE

KILLS = int(os.environ.get("XLT_KILLS", "12"))


@pytest.mark.fault(1, 2, 3)
def test_killed_at_a_system_call_and_started_again() -> None:
    command = [sys.executable, Path(__file__).parent / "kill.py", "--kills", str(KILLS), "--seed", "7"]
    if KILLS <= 12:
        command += ["--case", "plain", "--case", "corpus"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE + 60 * KILLS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    outcome = json.loads(done.stdout)
    assert outcome["kills"]["all"] >= KILLS
    assert outcome["wrong"] == []
    assert set(outcome["calls"]) >= {"plain", "corpus"}
