"""`xlt-engine bench kernels`: every operation of the kernels room against what else there is, on this machine.

A case is one operation at one shape. All ways to compute it that run here are timed in turns, after a warm-up; one that
is absent or fails is a row that says why. Results are on the disk after every case.
"""

from __future__ import annotations

import difflib
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ... import ConfigError, XltError
from ...kernels import dispatch
from ..storage.files import atomic_write_json
from ..storage.git import git_commit
from ..training.device import choose_device
from . import peers as peers
from .bounds import add_bounds, beyond
from .case import SIZES, Call, Case, Problem, Setting, Sizes, Variant
from .encoder import attention_cases, dropout_cases, embedding_cases, gelu_cases, layer_norm_cases, voter_mlp_cases
from .losses import linear_cross_entropy_cases, soft_label_loss_cases, votes_cases
from .measure import (
    FAILURES,
    Candidate,
    Timer,
    ceilings,
    errors,
    launches,
    machine,
    memory,
    quantiles,
    reason,
    synchronise,
    time_interleaved,
    warm_up,
)
from .optimizer import adamw_step_cases
from .pre_norm import glu_cases, residual_norm_cases, windowed_attention_cases
from .table import headline

OPERATIONS: dict[str, Callable[[Sizes], list[Case]]] = {
    "linear_cross_entropy": linear_cross_entropy_cases,
    "dropout_residual_layer_norm": layer_norm_cases,
    "linear_gelu": gelu_cases,
    "packed_attention": lambda sizes: [*attention_cases(sizes), *windowed_attention_cases(sizes)],
    "linear_glu": glu_cases,
    "residual_norm": residual_norm_cases,
    "votes": votes_cases,
    "soft_label_loss": soft_label_loss_cases,
    "embedding_layer_norm": embedding_cases,
    "voter_mlp": voter_mlp_cases,
    "dropout": dropout_cases,
    "adamw_step": adamw_step_cases,
}
"""Every public operation that has kernels, the most important first."""

SECONDS = {"full": 1.0, "reduced": 2.0, "tiny": 0.0}
"""How long the timed rounds of a case may take, beyond the least number of rounds."""

LEAST = {"full": 7, "reduced": 3, "tiny": 1}

Result = dict[str, Any]


def bench_kernels(
    operations: Sequence[str] = (),
    *,
    quick: bool = False,
    check: bool = False,
    device: str = "auto",
    json_file: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Time the kernels' operations and their rivals; the result is what `--json` writes.

    Args:
        operations: names from `OPERATIONS`; all when empty.
        quick: the most important shapes alone, and fewer rounds; on a CPU tiny shapes, which show only that it runs.
        check: errors against fp64 alone, of this package and of eager torch, and no clocks.
        device: "auto", "cpu" or "cuda".
        json_file: written before and after every case.
        say: receives a line for a person now and then.

    Raises:
        ConfigError: an unknown operation, or a device that this machine has not.
        XltError: the device was lost; everything measured is in `json_file`.
    """
    where = choose_device(device)
    path, why = dispatch.kernels_path(where)
    sizes = _sizes(where, path, quick)
    cases = [case for name in _chosen(operations) for case in OPERATIONS[name](sizes)]
    cases = sorted((c for c in cases if not quick or c.rank == 0 or sizes.name == "tiny"), key=lambda c: c.rank)
    if check:  # what trains computes all that is computed beside frozen weights, and more
        cases = [case for case in cases if "frozen" not in case.shape.values()]
    result = _head(where, path, why, sizes, quick) | {"operations": list(dict.fromkeys(case.op for case in cases))}
    for note in result["notes"]:
        say(note)
    bench = _Bench(where, sizes, path, quick, check)
    if (top := bench.ceilings) is not None:
        result["ceilings"] = top
        product, copy = f"{top['matmul_tflops']:.4g} TFLOP/s", f"{top['copy_gb_per_s']:.4g} GB/s"
        say(f"measured ceilings: {product} ({top['matmul']} {top['dtype']}), {copy}")
    started = time.monotonic()
    try:
        for number, case in enumerate(cases, 1):
            result["running"] = f"{case.op}: {case.name}"
            _write(result, json_file)
            entry: Result = {"op": case.op, "name": case.name, "shape": case.shape, "rank": case.rank, "rows": []}
            result["cases"].append(entry)
            try:
                bench.measure(case, entry)
            finally:
                entry["headline"] = headline(entry)
            say(f"[{number}/{len(cases)}, {time.monotonic() - started:.0f} s] {entry['headline']}")
        result |= {"running": None, "complete": True, "seconds": time.monotonic() - started}
    finally:
        _write(result, json_file)
    return result


def own_failures(result: Result) -> list[str]:
    """The rows of this package's own kernels and references that failed, or are too far from fp64."""
    return [
        f"{case['op']}, {case['name']}, {row['variant']}: {said}"
        for case in result["cases"]
        for row in case["rows"]
        if row["own"] or row["variant"] == "reference"
        for said in [row["reason"], *beyond(row)]
        if said
    ]


def _chosen(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in OPERATIONS:
            near = difflib.get_close_matches(name, OPERATIONS, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"there is no operation {name!r}{hint} Known: {', '.join(OPERATIONS)}")
    return [name for name in OPERATIONS if not names or name in names]


def _sizes(device: torch.device, path: str, quick: bool) -> Sizes:
    if device.type == "cuda":
        return SIZES["full"]
    return SIZES["tiny" if quick or path == "triton" else "reduced"]


def _head(device: torch.device, path: str, why: str, sizes: Sizes, quick: bool) -> Result:
    notes = [f"kernels: {path} ({why})"]
    if device.type != "cuda":
        notes.append(
            "no CUDA device in use: "
            + ("Triton's interpreter" if path == "triton" else "the reference path")
            + f" against eager torch, in fp32, at {sizes.name} shapes; wall time, no memory and no launches"
        )
    environment = machine(device)
    return {
        "benchmark": "kernels",
        "complete": False,
        "running": None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(Path(__file__).parent),
        "device": environment["device"],
        "path": path,
        "path_reason": why,
        "dtype": "bfloat16" if device.type == "cuda" else "float32",
        "sizes": sizes.name,
        "quick": quick,
        "notes": notes,
        "environment": environment | {"versions": environment["versions"] | peers.versions()},
        "cases": [],
    }


def _write(result: Result, json_file: Path | None) -> None:
    if json_file is not None:
        atomic_write_json(json_file, result, indent=1)


class _Bench:
    """Measures one case after another on a device."""

    def __init__(self, device: torch.device, sizes: Sizes, path: str, quick: bool, check: bool) -> None:
        self.device, self.sizes, self.path, self.check = device, sizes, path, check
        self.cuda = device.type == "cuda"
        self.timer = Timer(device)
        self.ceilings = None if check else ceilings(device, sizes.name == "tiny")
        self.seconds = SECONDS[sizes.name] * (0.4 if quick else 1.0)

    def measure(self, case: Case, entry: Result) -> None:
        """Fills one case's entry; the memory of its inputs is free again afterwards.

        Raises:
            XltError: the device was lost.
        """
        if self.cuda:
            torch.compiler.reset()
        try:
            problem = case.build(Setting(self.device, torch.bfloat16 if self.cuda else torch.float32))
            self._fill(entry, problem, problem.truth())
        except FAILURES as error:
            entry |= {"floor_ms": None, "reason": reason(error)}
            self._check_device(case.op)
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def _fill(self, entry: Result, problem: Problem, truth: dict[str, torch.Tensor]) -> None:
        floor = self._floor(problem)
        entry |= {"flops": problem.flops, "bytes": problem.moved, "floor_ms": floor}
        candidates: dict[str, Candidate] = {}
        for variant in self._variants(problem):
            rival = variant.rival and not variant.own and variant.path is None
            row: Result = {"variant": variant.name, "own": variant.own, "rival": rival, "note": variant.note}
            entry["rows"].append(row | {"reason": None})
            row = entry["rows"][-1]
            try:
                candidates[variant.name] = self._prepare(variant, truth, row)
            except FAILURES as error:
                row["reason"] = reason(error)
                self._check_device(entry["op"])
        add_bounds(entry["rows"])
        if floor is None:
            return
        time_interleaved(candidates, self.timer, self.seconds, LEAST[self.sizes.name])
        self._check_device(entry["op"])
        for row in entry["rows"]:
            candidate = candidates.get(row["variant"])
            if candidate is not None:
                row["reason"] = candidate.failed
            if candidate is not None and candidate.times:
                row["ms"], row["host_ms"] = quantiles(candidate.times), candidate.host_ms
                row["percent_of_floor"] = 100 * floor / row["ms"]["p50"]
        own = [row["ms"]["p50"] for row in entry["rows"] if row["own"] and row.get("ms")]
        for row in entry["rows"]:
            row["times_ours"] = row["ms"]["p50"] / min(own) if own and row.get("ms") else None

    def _floor(self, problem: Problem) -> float | None:
        """Milliseconds that no implementation can stay below; None where there are no clocks."""
        if self.ceilings is None:
            return None
        arithmetic = problem.flops / (self.ceilings["matmul_tflops"] * 1e9)
        return float(max(arithmetic, problem.moved / (self.ceilings["copy_gb_per_s"] * 1e6)))

    def _variants(self, problem: Problem) -> list[Variant]:
        """On a CPU nothing is compiled, and there are no rivals; on the reference path there is one row of ours."""
        variants = [v for v in problem.variants if self.cuda or v.own or v.path or v.plain]
        if self.check:
            variants = [v for v in variants if v.own or v.plain and v.rival]
        if self.path != "reference":
            return variants
        own = next(v for v in variants if v.own)
        rest = [v for v in variants if not v.own and v.path != "reference"]
        return [replace(own, name="xlt-engine", note="the reference path"), *rest]

    def _prepare(self, variant: Variant, truth: dict[str, torch.Tensor], row: Result) -> Candidate:
        """Warm up, then what needs no clock: error, memory and launches."""
        context = nullcontext if variant.path is None else partial(dispatch.using, variant.path)
        with context():
            begin = time.perf_counter()
            call: Call = variant.make()
            candidate = Candidate(call.run, context)
        if not self.check:
            warm_up(candidate, self.timer)
            row["warm_up_s"] = time.perf_counter() - begin
        with context():
            expected = truth if call.truth is None else call.truth()
            row["error"] = errors((call.check or call.run)(), expected) if call.comparable else None
            if self.check:
                return candidate
            row |= memory(call.run, self.device)
            row["launches"] = launches(call.run, self.device)
        return candidate

    def _check_device(self, op: str) -> None:
        """An illegal access ends a CUDA context: nothing more can be measured in this process."""
        try:
            synchronise(self.device)
        except RuntimeError as error:
            raise XltError(f"the device was lost in {op}: {reason(error)}") from error
