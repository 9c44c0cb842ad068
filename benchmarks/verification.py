"""What verification costs: the hash of a file as large as a stage of multilingual BERT, and those of a finished run.

    python benchmarks/verification.py runs/demo --json benchmarks/results/verification.json

Processor seconds are beside those on the wall, which on a busy machine say more of the machine. The least of three.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import made

from xlt_engine.engine import verify_run
from xlt_engine.engine.storage.files import sha256_file

MBERT = 711_474_688
"""Bytes of the weights of bert-base-multilingual-cased in fp32: 177,868,672 numbers."""


def seconds(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a call on the wall and of the processor, the least of three."""
    walls, cpus = [], []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall": round(min(walls), 4), "cpu": round(min(cpus), 4)}


def main() -> None:
    """Prints the figures, and writes them with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "model.safetensors")
        large.write_bytes(bytes(MBERT))
        stage = seconds(lambda: sha256_file(large))
    compared = seconds(lambda: verify_run(options.run))
    found = verify_run(options.run)
    records = [json.loads(path.read_bytes()) for path in options.run.glob("seed-*/**/stage.json")]
    training = {
        key: round(sum(r[name] for r in records), 1) for key, name in (("wall", "seconds"), ("cpu", "cpu_seconds"))
    }
    figures = {
        "stage_of_mbert": {"bytes": MBERT, **stage, "mb_per_cpu_second": round(MBERT / 1e6 / stage["cpu"])},
        "run": {
            "files": found.files,
            "bytes": found.bytes,
            "damaged": len(found.damaged),
            **compared,
            "stages": len(records),
            "training": training,
            "percent_of_training": round(100 * compared["cpu"] / training["cpu"], 3),
        },
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        command = shlex.join(["python", "benchmarks/verification.py", f"runs/{options.run.name}"])
        head = made(command, sorted({r["seed"] for r in records}), trained=False)
        options.json.write_text(json.dumps({"made": head, **figures}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
