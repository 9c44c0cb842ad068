"""Every specialisation of `specialisations.py` into Triton's cache, on all cores: later parts start warm.

    python benchmarks/gpu/warm.py --json FILE [--dry]

A process for each family of kernels and type, bf16 first. Dry: one family, for a GPU that is not there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from part import Part

SCRIPT = Path(__file__).with_name("specialisations.py")
FAMILIES = ("loss, stored", "loss, recomputed", "attention", "norms", "votes", "activations", "dropout")
DRY = ("--capability", "9.0", "--shared", str(227 << 10))


def main() -> None:
    part = Part(__doc__)
    if find_spec("triton") is None:
        part.result["skipped"] = "triton is not installed"
        part.write()
        return
    jobs = [(family, dtype) for dtype in ("bf16", "fp32", "fp16") for family in FAMILIES]
    jobs = [("dropout", "bf16")] if part.dry else jobs
    began, failed = time.monotonic(), 0
    part.result["jobs"] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in as_completed([pool.submit(_compile, *job, DRY if part.dry else ()) for job in jobs]):
            entry = done.result()
            failed += "reason" in entry
            part.result["jobs"].append(entry)
            part.result["seconds"] = time.monotonic() - began
            part.write()
            print(entry["family"], entry["dtype"], entry.get("reason", f"{len(entry['kernels'])} kernels"), flush=True)
    sys.exit(1 if failed else 0)


def _compile(family: str, dtype: str, more: tuple[str, ...]) -> dict[str, Any]:
    """The kernels of a family; where one does not compile, those before it and the reason."""
    began = time.monotonic()
    command = [sys.executable, str(SCRIPT), "--family", family, "--dtype", dtype, *more]
    environment = os.environ | {"TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    kernels = [json.loads(line) for line in ran.stdout.splitlines()]
    entry = {"family": family, "dtype": dtype, "seconds": time.monotonic() - began, "kernels": kernels}
    if ran.returncode:
        sys.stderr.write(ran.stderr)
        entry["reason"] = (ran.stderr.strip().splitlines() or [f"exit {ran.returncode}"])[-1][:300]
    return entry


if __name__ == "__main__":
    main()
