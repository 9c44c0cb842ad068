"""What the parts of `gpu_suite.py` share: options, where inputs are made, and a result that is on the disk at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlt_engine.engine.bench.case import Setting
from xlt_engine.engine.bench.harness import Timer, machine, quantiles

ROUNDS = 15


class Part:
    """A result that is written whenever something was added; with `--dry` on the CPU, at tiny shapes."""

    def __init__(self, description: str | None, **hidden: Any) -> None:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--json", type=Path, required=True)
        parser.add_argument("--dry", action="store_true", help="on the CPU, at tiny shapes")
        for name, kind in hidden.items():
            parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
        self.options = parser.parse_args()
        self.file: Path = self.options.json
        self.dry: bool = self.options.dry
        self.device = torch.device("cpu" if self.dry else "cuda")
        self.at = Setting(self.device, torch.float32 if self.dry else torch.bfloat16)
        self.result: dict[str, Any] = {"environment": machine(self.device)}

    def write(self) -> None:
        self.file.write_text(json.dumps(self.result, indent=1) + "\n")


def milliseconds(call: Callable[[], Tensor], timer: Timer) -> dict[str, float]:
    """Quantiles of a call's device time."""
    for _ in range(3):
        call()
    return quantiles([timer.once_ms(lambda: {"out": call()}, 0.2) for _ in range(ROUNDS)])
