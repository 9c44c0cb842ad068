"""`xlt-engine bench kernels` with rivals of other libraries on a GPU (kernel_rivals.py), and a place for its JSON:
benchmarks/results/kernels-cpu.json or kernels-cuda.json."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from kernel_rivals import RIVALS

from xlt_engine.cli import main
from xlt_engine.engine.bench import kernels

RESULTS = Path(__file__).resolve().parent / "results"

if __name__ == "__main__":
    kernels.RIVALS.update(RIVALS)
    arguments = sys.argv[1:]
    if not any(argument.split("=")[0] == "--json" for argument in arguments):
        device = "cuda" if torch.cuda.is_available() and "cpu" not in arguments else "cpu"
        arguments = ["--json", str(RESULTS / f"kernels-{device}.json"), *arguments]
    main(["bench", "kernels", *arguments])
