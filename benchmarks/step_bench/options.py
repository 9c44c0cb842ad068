"""What was asked of the step benchmark, and the head of its result: machine, versions, the rate that MFU refers to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from xlt_engine.engine.bench.measure import ceilings, machine, synchronise
from xlt_engine.engine.bench.peers import versions
from xlt_engine.engine.storage.git import git_commit
from xlt_engine.engine.training.precision import DTYPES
from xlt_engine.kernels import dispatch
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


def timed(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """CPU seconds of this process and wall seconds of one call, the device's work included."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    synchronise(device)
    return time.process_time() - cpu, time.perf_counter() - wall


def head(options: Options, texts: Mapping[str, Texts]) -> dict[str, Any]:
    """What a result says about where it comes from; without tasks yet."""
    path, why = dispatch.kernels_path(options.device)
    notes = [f"kernels: {path} ({why})"]
    if not options.cuda:
        clock = ("CPU seconds of the process", "wall time")[options.clock]
        notes.append(
            f"no CUDA device in use: {options.shape} shape, {torch.get_num_threads()} thread(s), {clock}; there are no "
            "graphs, no launches and no peak memory of a side"
        )
    found = machine(options.device)
    return {
        "benchmark": "step",
        "complete": False,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(Path(__file__).parent),
        "device": found["device"],
        "path": path,
        "path_reason": why,
        "shape": options.shape,
        "config": options.config.to_hf(),
        "precision": options.precision,
        "quick": options.quick,
        "deterministic": options.deterministic,
        "batch_size": options.batch_size,
        "repeats": options.repeats,
        "lengths": list(texts),
        "clock": ("cpu", "wall")[options.clock],
        "notes": notes,
        "environment": found | {"versions": found["versions"] | versions("transformers", "flash-attn")},
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
