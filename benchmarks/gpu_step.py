"""The step part of `gpu_suite.py`: `xlt-engine bench step`, on a GPU or, dry, with a tiny model on the CPU.

python benchmarks/gpu_step.py --json FILE [--seconds N] [--dry] [any other option of bench step]
"""

from __future__ import annotations

import sys

from xlt_engine.cli import main

if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--dry"]
    where = ["--device", "cuda"] if len(arguments) == len(sys.argv) - 1 else ["--quick", "--device", "cpu"]
    main(["bench", "step", *where, *arguments])
