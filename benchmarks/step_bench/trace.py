"""Where a step's time goes: a profile of a few steps, as a Chrome trace and as shares of this package's operations.

While it runs, the operations that the model and the objectives call are marked in the profile. What they cost in the
backward pass is found by the number that autograd gives a forward operation and the node that differentiates it. A
matrix product inside loss or attention counts there, and as a matrix product anywhere else.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from xlt_engine.data import PackedBatch
from xlt_engine.engine.bench.harness import synchronise
from xlt_engine.engine.storage.files import storage_errors
from xlt_engine.engine.training.config import PerformanceConfig

from .sides import Ours
from .work import Drawn

STEPS = 3
WARM_UP = 1
MARK = "xlt:"
PRODUCTS, OTHER = "matrix products", "other"
COLLATION, OPTIMISER = "collation", "optimiser"

OPERATIONS = {
    "linear_cross_entropy": "linear_cross_entropy",
    "soft_label_loss": "soft_label_loss, voter_cross_entropy",
    "voter_cross_entropy": "soft_label_loss, voter_cross_entropy",
    "packed_attention": "attention",
    "attention_plan": "attention",
    "dropout_residual_layer_norm": "layer norm, dropout, residual",
    "residual_norm": "layer norm, dropout, residual",
    "linear_gelu": "gelu",
    "linear_glu": "gelu",
    "embedding_layer_norm": "embedding",
    "voter_mlp": "voters, beyond products",
    "dropout": "dropout of the head",
    "gelu": "gelu",
    "flash_attention": "attention",
}
"""Which part of the table an operation of the kernels room belongs to; the last two are torch operators only."""

PARTS = (PRODUCTS, *dict.fromkeys(OPERATIONS.values()), OPTIMISER, COLLATION, OTHER)
WHOLE = ("linear_cross_entropy", "soft_label_loss, voter_cross_entropy", "attention", OPTIMISER, COLLATION)
"""Parts whose matrix products stay theirs."""

_CALLERS = ("model.encoder", "model.layers", "model.tasks", "model.heads", "engine.training.objectives")
_OURS = re.compile(r"xlt::?(\w+?)(?:_backward)?")
_GEMM = frozenset(f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "addmv", "mv", "_addmm_activation"))
_NODE = "autograd::engine::evaluate_function"
_ACCUMULATE = "AccumulateGrad"


def trace(ours: Ours, source: Drawn | None, file: Path) -> dict[str, Any]:
    """Profile `STEPS` steps after `WARM_UP`, one operation at a time, and write the Chrome trace.

    Args:
        ours: between two `load`s.
        source: at least `STEPS + WARM_UP` steps; None for a teacher, whose loaded passes are profiled.
        file: a JSON for chrome://tracing or ui.perfetto.dev.

    Returns:
        `seconds` of the profiled steps (on a GPU of its kernels), and `shares` of them by `PARTS`.
    """
    cuda = ours.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with _marked(), _steps(ours, source) as step:
        for index in range(WARM_UP):
            step(index)
        synchronise(ours.device)
        with torch.profiler.profile(activities=activities) as profile:
            began = time.perf_counter()
            for index in range(WARM_UP, WARM_UP + STEPS):
                step(index)
            synchronise(ours.device)
            seconds = time.perf_counter() - began
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(file))
    found = parts_of(profile.events() or [], device=cuda)
    total = sum(found.values()) if cuda else max(seconds * 1e6, sum(found.values()))
    found[OTHER] += total - sum(found.values())
    shares = {part: found[part] / total for part in PARTS if found[part] or part == OTHER}
    return {
        "file": file.name,
        "steps": STEPS,
        "seconds": total / 1e6,
        "clock": "device" if cuda else "wall",
        "shares": shares,
    }


def parts_of(events: Sequence[Any], *, device: bool) -> dict[str, float]:
    """Microseconds of each part, from a profile's events; of the device's kernels, or of the host."""
    forward: dict[int, Any] = {}
    for event in sorted(events, key=lambda e: e.time_range.start):
        if event.sequence_nr >= 0 and not _inside_backward(event):
            forward[event.sequence_nr] = event
    found = dict.fromkeys(PARTS, 0.0)
    for event in events:
        if event.device_type.name != "CPU":
            continue
        spent = event.self_device_time_total if device else event.self_cpu_time_total
        if spent:
            found[_part(event, forward)] += spent
    return found


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _inside_backward(event: Any) -> bool:
    return any(parent.name.startswith(_NODE) for parent in _ancestors(event))


def _part(event: Any, forward: dict[int, Any]) -> str:
    part = _named(event)
    if part == OTHER:
        node = next((e for e in _ancestors(event) if e.name.startswith(_NODE)), None)
        if node is not None and _ACCUMULATE not in node.name and node.sequence_nr in forward:
            part = _named(forward[node.sequence_nr])
    return PRODUCTS if event.name in _GEMM and part not in WHOLE else part


def _named(event: Any) -> str:
    """The part of the innermost mark or operator of the kernels room around an event."""
    for parent in _ancestors(event):
        mark = re.fullmatch(_OURS, parent.name)
        name = mark[1] if mark else ""
        if name in (OPTIMISER, COLLATION):
            return name
        if name in OPERATIONS:
            return OPERATIONS[name]
    return OTHER


def _mark(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(MARK + name):
            return function(*args, **kwargs)

    return marked


@contextmanager
def _marked() -> Iterator[None]:
    """Every operation of the kernels room under its name, where model and objectives call it."""
    modules = [import_module(f"xlt_engine.{name}") for name in _CALLERS]
    before = [(m, name, getattr(m, name)) for m in modules for name in OPERATIONS if hasattr(m, name)]
    for module, name, function in before:
        setattr(module, name, _mark(name, function))
    try:
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


class _Collating:
    """A source whose work is marked."""

    def __init__(self, source: Drawn) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, step: int, /) -> list[PackedBatch]:
        with torch.profiler.record_function(MARK + COLLATION):
            return self._source[step]


@contextmanager
def _steps(ours: Ours, source: Drawn | None) -> Iterator[Callable[[int], Any]]:
    if source is None:
        yield lambda index: ours.step(0)
        return
    loop = ours.loop(_Collating(source), PerformanceConfig(graphs=False, buckets=0, feed=False))
    loop.optimizer_step.apply = _mark(OPTIMISER, loop.optimizer_step.apply)  # type: ignore[method-assign]
    try:
        yield lambda index: loop.advance()
    finally:
        loop.close()
