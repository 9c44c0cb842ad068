"""The harness: time, memory, launches and errors of one call, the two rates that bound it, and what a record says.

`bench kernels`, `benchmarks/step.py`, the GPU suite and the estimate of a run take their clock, their turns, their rows
and the head of their JSON from here.

On CUDA the device is timed, not the host: before each call the L2 cache is overwritten and the queue is held up for as
long as the host needs to fill it, so that the time between two events has no gap that a busier program would not have.
A call that waits for the device itself gets no such head start and shows what the waiting costs.
"""

from __future__ import annotations

import importlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...kernels import dispatch
from ..storage.files import atomic_write_json
from ..storage.run_folder import environment, git_commit

Tensors = dict[str, Tensor]
Run = Callable[[], Tensors]
Context = Callable[[], AbstractContextManager[None]]
Result = dict[str, Any]
T = TypeVar("T")

MIB = 1 << 20
PEERS = ("triton", "liger-kernel", "cut-cross-entropy")
"""Distributions whose versions every record has."""
BOUNDS = {"float32": (2e-5, 1e-2), "bfloat16": (2e-2, 1e-1), "float16": (4e-3, 5e-2)}
"""How far from fp64 a result may be, by its type: relative error in all, and of its worst row. Twice to five times what
rounding inputs, intermediate values and the result leaves; a tile of a hundred that is wrong, or left out, is above."""
MARGIN = 3.0
"""How many times the error of eager torch in the same types is allowed where that is more: what cancels, cancels for
both."""
_MOST_SLEEP_MS = 8.0
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


def _failures() -> tuple[type[Exception], ...]:
    """What a library that cannot do its work raises: its own row says so, and the others go on."""
    errors: list[type[Exception]] = [
        *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, NotImplementedError),
        *(OSError, RuntimeError, TypeError, ValueError, subprocess.SubprocessError),
    ]
    with suppress(ImportError, AttributeError):
        errors.append(importlib.import_module("triton.errors").TritonError)
    return tuple(errors)


FAILURES = _failures()


def reason(error: Exception) -> str:
    """The first line of an error, short enough for a table."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"[:200]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile, and how many values there are."""
    p20, p50, p80 = (float(q) for q in np.percentile(values, [20, 50, 80]))
    return {"p20": p20, "p50": p50, "p80": p80, "n": len(values)}


def versions(*more: str) -> dict[str, str | None]:
    """Of triton, the peers and `more` distributions; None where one is not installed."""

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in (*PEERS, *more)}


def machine(device: torch.device) -> dict[str, Any]:
    """Where numbers were measured: what `run_folder.environment` says, the processor's cores and its load."""
    load = [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return environment() | {"device": name, "cores": os.cpu_count(), "load_average": load}


def head(benchmark: str, device: torch.device, *more: str) -> Result:
    """What every record says of where it comes from; `more` distributions are named with their versions."""
    path, why = dispatch.kernels_path(device)
    found = machine(device)
    return {
        "benchmark": benchmark,
        "complete": False,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(Path(__file__).parent),
        "device": found["device"],
        "path": path,
        "path_reason": why,
        "notes": [f"kernels: {path} ({why})"],
        "environment": found | {"versions": found["versions"] | versions(*more)},
    }


def write(result: Result, json_file: Path | None) -> None:
    """The record so far, whole or not at all."""
    if json_file is not None:
        atomic_write_json(json_file, result, indent=1)


def cells(label: str, width: int, values: Sequence[str], widths: Sequence[int]) -> str:
    """A line of a table."""
    return f"    {label:{width}}" + "".join(f"{value:>{w + 2}}" for value, w in zip(values, widths, strict=True))


def number(value: float) -> str:
    """Four digits, without an exponent."""
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """CPU seconds of this process and wall seconds of one call, the device's work included."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    synchronise(device)
    return time.process_time() - cpu, time.perf_counter() - wall


def in_turns(sides: Sequence[T], number: int) -> list[T]:
    """The sides of a round, each first in its turn: what one leaves in caches and clocks is not always another's."""
    turn = number % max(1, len(sides))
    return [*sides[turn:], *sides[:turn]]


@dataclass
class Timer:
    """Times calls on one device."""

    device: torch.device
    _scratch: Tensor | None = field(default=None, repr=False)

    def host_ms(self, run: Run, repeats: int = 3) -> float:
        """Milliseconds until the call returns: what the host spends to fill the queue."""
        times = []
        for _ in range(repeats):
            synchronise(self.device)
            begin = time.perf_counter()
            run()
            times.append((time.perf_counter() - begin) * 1e3)
        synchronise(self.device)
        return statistics.median(times)

    def once_ms(self, run: Run, lead_ms: float) -> float:
        """One timed call; `lead_ms` is for how long the queue is held up before it (CUDA)."""
        self._flush()
        if self.device.type != "cuda":
            return 1e3 * timed(run, self.device)[1]
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        hold(self.device, lead_ms)
        start.record()
        kept = run()
        end.record()
        end.synchronize()
        del kept
        return float(start.elapsed_time(end))

    def _flush(self) -> None:
        """Overwrite what is in the cache."""
        if self._scratch is None:
            size = 8 * MIB
            if self.device.type == "cuda":
                properties = torch.cuda.get_device_properties(self.device)
                size = max(256 * MIB, 2 * getattr(properties, "L2_cache_size", 0))
            self._scratch = torch.empty(size, dtype=torch.int8, device=self.device)
        self._scratch.zero_()


def hold(device: torch.device, milliseconds: float) -> None:
    """Keep the device's queue busy for about this long, so that the host can fill it."""
    sleep = getattr(torch.cuda, "_sleep", None)
    if sleep is not None and milliseconds > 0:
        rate = getattr(torch.cuda.get_device_properties(device), "clock_rate", 2_000_000)  # kHz: cycles a millisecond
        sleep(int(min(milliseconds, _MOST_SLEEP_MS) * rate))


@dataclass
class Candidate:
    """A call that runs, with the context it runs in; what was measured is filled in."""

    run: Run
    context: Context
    host_ms: float = 0.0
    times: list[float] = field(default_factory=list)
    failed: str | None = None


def warm_up(candidate: Candidate, timer: Timer) -> None:
    """Compile, load and allocate what the first calls of a path make."""
    with candidate.context():
        for _ in range(2):
            candidate.run()
        synchronise(timer.device)
        candidate.host_ms = timer.host_ms(candidate.run)


def time_interleaved(candidates: Mapping[str, Candidate], timer: Timer, seconds: float, least: int) -> None:
    """Fills `times`: in each round every candidate runs once, the first of a round changes from round to round."""
    live = dict(candidates)
    rounds, done, begin = least, 0, 0.0
    while done < rounds and live:
        for name in in_turns(list(live), done):
            candidate = live[name]
            try:
                with candidate.context():
                    candidate.times.append(timer.once_ms(candidate.run, candidate.host_ms * 1.3 + 0.05))
            except FAILURES as error:
                candidate.failed = reason(error)
                del live[name]
        done += 1
        if done == 1:
            begin = time.perf_counter()  # the first round, still cold, does not say how many fit
            for candidate in live.values():
                candidate.times.clear()
            rounds = least + 1
        elif done == 2:
            fitting = seconds / max(time.perf_counter() - begin, 1e-6)
            rounds = 1 + int(min(max(least, fitting), 50))


def memory(run: Run, device: torch.device) -> dict[str, float | None]:
    """Peak MiB above what was there before the call, in all and without the results; None where nobody counts."""
    if device.type != "cuda":
        return {"peak_mib": None, "workspace_mib": None}
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    kept = run()
    synchronise(device)
    peak, results = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
    del kept
    return {"peak_mib": (peak - before) / MIB, "workspace_mib": (peak - results) / MIB}


def launches(run: Callable[[], object], device: torch.device) -> dict[str, int] | None:
    """What the host launches in one call, and the kernels that run; None on a CPU, and where nobody can say."""
    if device.type != "cuda":
        return None
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    try:
        with torch.profiler.profile(activities=kinds) as profile:
            kept = run()
            synchronise(device)
            del kept
        events = profile.events() or []
    except FAILURES:
        return None
    host = sum(e.name.startswith(_LAUNCHES) for e in events)
    on_device = [e for e in events if e.device_type.name == "CUDA" and not getattr(e, "is_user_annotation", False)]
    kernels = sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_device)
    return {"launches": host, "kernels": kernels} if kernels else None


def errors(results: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Of each result that both have: the norm of the difference over that of the truth, in all and of the worst row."""
    relative: dict[str, dict[str, Any]] = {}
    for name in [name for name in truth if name in results]:
        value, true = results[name], truth[name]
        assert value.shape == true.shape, f"{name}: {tuple(value.shape)}, not {tuple(true.shape)}"
        difference = value.detach().double() - true
        worst = None
        if true.dim() > 1:
            size, off = (x.reshape(-1, true.shape[-1]).norm(dim=1) for x in (true, difference))
            worst = float((off / size)[size > 0].max()) if bool((size > 0).any()) else 0.0
        dtype = str(value.dtype).removeprefix("torch.")
        relative[name] = {"frobenius": float(difference.norm() / true.norm()), "worst_row": worst, "dtype": dtype}
    return relative


def add_bounds(rows: Sequence[Result]) -> None:
    """Adds to each error of our rows its two bounds; a rival's errors are for reading."""
    eager: Result = next((row["error"] for row in rows if row["variant"] == "torch eager" and row.get("error")), {})
    for row in rows:
        if row["own"] or row["variant"] == "reference":
            for name, error in (row.get("error") or {}).items():
                usual = [eager.get(name, {}).get(measure) or 0.0 for measure in ("frobenius", "worst_row")]
                error["bounds"] = [max(b, MARGIN * u) for b, u in zip(BOUNDS[error["dtype"]], usual, strict=True)]


def beyond(row: Result) -> list[str]:
    """The results of a row that are above a bound, or not a number."""
    said = []
    for name, error in (row.get("error") or {}).items():
        for measure, bound in zip(("frobenius", "worst_row"), error.get("bounds", ()), strict=False):
            value = error[measure]
            if value is not None and not value <= bound:
                said.append(f"error of {name} ({measure.replace('_', ' ')}) {value:.1e}, bound {bound:.1e}")
    return said


def ceilings(device: torch.device, small: bool, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The rates that no kernel can pass, measured here: a large matrix product on random data, and a large copy.

    The product is in `dtype`; without one in bf16 on a GPU, and in fp32 elsewhere.
    """
    cuda = device.type == "cuda"
    dtype = dtype or (torch.bfloat16 if cuda else torch.float32)
    size = 8192 if cuda and not small else 128 if small else 1024
    count = (1 << 31) if cuda and not small else 1 << 16 if small else 1 << 24
    if cuda:
        free, _ = torch.cuda.mem_get_info(device)
        count = min(count, free // 8)
    timer, generator = Timer(device), torch.Generator(device).manual_seed(1)
    a, b = (torch.randn(size, size, generator=generator, device=device, dtype=dtype) for _ in range(2))
    product = _median_ms(lambda: {"out": a @ b}, timer)
    source = torch.randint(0, 1 << 15, (count,), generator=generator, device=device, dtype=torch.int16)
    target = torch.empty_like(source)
    copy = _median_ms(lambda: {"out": target.copy_(source)}, timer)
    moved = 2 * source.numel() * source.element_size()
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "matmul": f"{size}^3",
        "matmul_tflops": 2 * size**3 / product / 1e9,
        "copy_bytes_read": moved // 2,
        "copy_gb_per_s": moved / copy / 1e6,
    }


def _median_ms(run: Run, timer: Timer) -> float:
    for _ in range(3):
        run()
    return statistics.median(timer.once_ms(run, 0.1) for _ in range(10))
