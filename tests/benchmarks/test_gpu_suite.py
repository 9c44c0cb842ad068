"""benchmarks/gpu_suite.py to its end on a CPU, in a process that has no package installed but this one's tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_dry_run(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_suite.py"), "--dry", "--out", str(tmp_path)]
    command += ["--commit", "abc", "--wheels", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k not in ("XLT_KERNELS", "TRITON_INTERPRET")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200, env=environment)
    log = (tmp_path / "gpu-log.txt").read_text()
    assert done.returncode == 0, done.stderr
    files = {path.name: path for path in tmp_path.iterdir()}
    assert len(files) <= 8
    suite = json.loads(files["gpu-suite.json"].read_text())
    assert (suite["commit"], suite["dry"], suite["notes"]) == ("abc", True, [f"no wheels in {tmp_path}"])
    assert [part["name"] for part in suite["parts"]] == [
        "environment",
        "tests",
        "kernels",
        "step",
        "deterministic",
        "sweep",
    ]
    assert [(part["exit"], part["timed_out"]) for part in suite["parts"]] == [(0, False)] * 6, log
    assert all(part["lines"] for part in suite["parts"])
    assert all(f"\n{part['name']}: " in done.stdout for part in suite["parts"])

    environment_part = json.loads(files["gpu-environment.json"].read_text())
    assert environment_part["ceilings"]["matmul_tflops"] > 0
    assert len(environment_part["probes"]) == 4
    assert "0 failed" in suite["parts"][1]["lines"][0]
    kernels = json.loads(files["gpu-kernels.json"].read_text())
    assert kernels["complete"]
    assert {case["op"] for case in kernels["cases"]} == set(kernels["operations"])
    assert all(row["reason"] is None for case in kernels["cases"] for row in case["rows"])
    step = json.loads(files["gpu-step.json"].read_text())
    assert step["complete"]
    assert set(step["tasks"]) == {"btf", "finetune", "soft", "hard", "teacher"}
    for task, entry in step["tasks"].items():
        assert entry.get("reason") is None, task
        assert set(entry["rows"]) == {"conll, random", "conll, sorted"}
        for rows in entry["rows"].values():
            assert {"xlt-engine", "transformers, eager", "transformers, SDPA, fused AdamW"} <= set(rows)
        assert entry["difference_fp32"] < 1e-4
    equal = json.loads(files["gpu-deterministic.json"].read_text())
    assert (equal["deterministic"], step["deterministic"]) == (True, False)
    assert {name for entry in equal["tasks"].values() for rows in entry["rows"].values() for name in rows} == {
        "xlt-engine"
    }
    assert len(suite["parts"][4]["lines"]) == 4
    sweep = json.loads(files["gpu-sweep.json"].read_text())
    assert sweep.get("skipped") or all("reason" not in entry for entry in sweep["tiles"])
