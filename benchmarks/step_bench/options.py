"""What was asked of the step benchmark, and the head of its result: machine, versions, the rate that MFU refers to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from xlt_engine.engine.bench.harness import ceilings, head, timed
from xlt_engine.engine.training.precision import DTYPES
from xlt_engine.model import EncoderConfig

from .work import SHAPES, Texts


@dataclass(frozen=True)
class Options:
    """What `bench_step` was asked for, with nothing left open."""

    device: torch.device
    shape: str
    precision: str
    quick: bool
    batch_size: int
    repeats: int
    peers: tuple[str, ...]
    deadline: float
    trace: Path | None
    deterministic: bool = False

    @property
    def config(self) -> EncoderConfig:
        return SHAPES[self.shape]

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def clock(self) -> int:
        """0, CPU seconds, where one thread does all the work: other work on the machine hardly touches them; else 1."""
        return int(self.cuda or torch.get_num_threads() > 1)


def record(options: Options, texts: Mapping[str, Texts]) -> dict[str, Any]:
    """The head of a result; without tasks yet."""
    found = head("step", options.device, "transformers", "flash-attn")
    if not options.cuda:
        clock = ("CPU seconds of the process", "wall time")[options.clock]
        found["notes"].append(
            f"no CUDA device in use: {options.shape} shape, {torch.get_num_threads()} thread(s), {clock}; there are no "
            "graphs, no launches and no peak memory of a side"
        )
    return found | {
        "shape": options.shape,
        "config": options.config.to_hf(),
        "precision": options.precision,
        "quick": options.quick,
        "deterministic": options.deterministic,
        "batch_size": options.batch_size,
        "repeats": options.repeats,
        "lengths": list(texts),
        "clock": ("cpu", "wall")[options.clock],
        "ceilings": _ceilings(options),
        "tasks": {},
        "headlines": [],
    }


def _ceilings(options: Options) -> dict[str, Any]:
    """The rate of a large product by the clock of the steps."""
    dtype = DTYPES[options.precision]
    found = ceilings(options.device, options.shape == "tiny", dtype)
    if not options.clock:
        size = int(found["matmul"].split("^")[0])
        a, b = (torch.randn(size, size, dtype=dtype) for _ in range(2))
        seconds = median(timed(lambda: a @ b, options.device)[0] for _ in range(20))
        found["matmul_tflops"] = 2 * size**3 / seconds / 1e12
    return found
