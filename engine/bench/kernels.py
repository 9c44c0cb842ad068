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
from ..storage.run_folder import git_commit
from . import peers as peers
from .attention import attention_cases
from .case import SIZES, Call, Case, Problem, Setting, Sizes, Variant
from .encoder import dropout_cases, embedding_cases, gelu_cases, layer_norm_cases, voter_mlp_cases
from .losses import linear_cross_entropy_cases, soft_label_loss_cases, votes_cases
from .measure import (
    FAILURES,
    Candidate,
    Timer,
    ceilings,
    errors,
    find_device,
    launches,
    machine,
    memory,
    quantiles,
    reason,
    synchronise,
    time_interleaved,
    warm_up,
)
from .table import headline

OPERATIONS: dict[str, Callable[[Sizes], list[Case]]] = {
    "linear_cross_entropy": linear_cross_entropy_cases,
    "dropout_residual_layer_norm": layer_norm_cases,
    "linear_gelu": gelu_cases,
    "packed_attention": attention_cases,
    "votes": votes_cases,
    "soft_label_loss": soft_label_loss_cases,
    "embedding_layer_norm": embedding_cases,
    "voter_mlp": voter_mlp_cases,
    "dropout": dropout_cases,
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
    device: str = "auto",
    json_file: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Time the kernels' operations and their rivals; the result is what `--json` writes.

    Args:
        operations: names from `OPERATIONS`; all when empty.
        quick: the most important shapes alone, and fewer rounds; on a CPU tiny shapes, which show only that it runs.
        device: "auto", "cpu" or "cuda".
        json_file: written after every case.
        say: receives a line for a person now and then.

    Raises:
        ConfigError: an unknown operation, or a device that is not there.
        XltError: a row of this package failed, or the device was lost; everything measured is in `json_file`.
    """
    where = find_device(device)
    path, why = dispatch.kernels_path(where)
    sizes = _sizes(where, path, quick)
    cases = [case for name in _chosen(operations) for case in OPERATIONS[name](sizes)]
    cases = sorted((c for c in cases if not quick or c.rank == 0 or sizes.name == "tiny"), key=lambda c: c.rank)
    result = _head(where, path, why, sizes, quick) | {"operations": list(dict.fromkeys(case.op for case in cases))}
    for note in result["notes"]:
        say(note)
    result["ceilings"] = ceilings(where, sizes.name == "tiny")
    say("measured ceilings: {matmul_tflops:.4g} TFLOP/s ({matmul} {dtype}), {copy_gb_per_s:.4g} GB/s".format(
        **result["ceilings"]))  # fmt: skip
    bench = _Bench(where, sizes, result["ceilings"], path, quick)
    for number, case in enumerate(cases, 1):
        result["running"] = f"{case.op}: {case.name}"
        _write(result, json_file)
        entry = bench.measure(case)
        entry["headline"] = headline(entry)
        result["cases"].append(entry)
        say(f"[{number}/{len(cases)}, {time.monotonic() - bench.started:.0f} s] {entry['headline']}")
        if bench.lost is not None:
            _write(result, json_file)
            raise XltError(f"the device was lost in {result['running']}: {bench.lost}")
    result |= {"running": None, "complete": True, "seconds": time.monotonic() - bench.started}
    _write(result, json_file)
    return result


def own_failures(result: Result) -> list[str]:
    """The rows of this package's own kernels and references that failed."""
    return [
        f"{case['op']}, {case['name']}, {row['variant']}: {row['reason']}"
        for case in result["cases"]
        for row in case["rows"]
        if row["reason"] and (row["own"] or row["variant"] == "reference")
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
    found = machine(device)
    return {
        "benchmark": "kernels",
        "complete": False,
        "running": None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(Path(__file__).parent),
        "device": found["device"],
        "path": path,
        "path_reason": why,
        "dtype": "bfloat16" if device.type == "cuda" else "float32",
        "sizes": sizes.name,
        "quick": quick,
        "notes": notes,
        "environment": found | {"versions": found["versions"] | peers.versions()},
        "ceilings": {},
        "cases": [],
    }


def _write(result: Result, json_file: Path | None) -> None:
    if json_file is not None:
        atomic_write_json(json_file, result, indent=1)


class _Bench:
    """Measures one case after another on a device."""

    def __init__(self, device: torch.device, sizes: Sizes, ceilings: dict[str, Any], path: str, quick: bool) -> None:
        self.device, self.sizes, self.ceilings, self.path = device, sizes, ceilings, path
        self.timer = Timer(device)
        self.seconds = SECONDS[sizes.name] * (0.4 if quick else 1.0)
        self.started = time.monotonic()
        self.lost: str | None = None

    def measure(self, case: Case) -> Result:
        """One case's entry; the memory of its inputs is free again afterwards."""
        entry: Result = {"op": case.op, "name": case.name, "shape": case.shape, "rank": case.rank}
        if self.device.type == "cuda":
            torch.compiler.reset()
        try:
            dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
            self._fill(entry, case.build(Setting(self.device, dtype)))
        except FAILURES as error:
            entry |= {"floor_ms": None, "rows": [], "reason": reason(error)}
            self._check_device()
        gc.collect()
        if self.device.type == "cuda" and self.lost is None:
            torch.cuda.empty_cache()
        return entry

    def _fill(self, entry: Result, problem: Problem) -> None:
        floor = self._floor_ms(problem.flops, problem.moved)
        entry |= {"flops": problem.flops, "bytes": problem.moved, "floor_ms": floor, "rows": []}
        truth = problem.truth()
        candidates: dict[str, Candidate] = {}
        for variant in self._variants(problem):
            rival = (
                not variant.own and variant.path is None and (problem.part is None or variant.name != problem.part[0])
            )
            row: Result = {"variant": variant.name, "own": variant.own, "rival": rival, "note": variant.note}
            row["reason"] = None
            entry["rows"].append(row)
            if self.lost is not None:
                row["reason"] = f"not tried: the device was lost ({self.lost})"
                continue
            try:
                candidates[variant.name] = self._prepare(variant, truth, row)
            except FAILURES as error:
                row["reason"] = reason(error)
                self._check_device()
        del truth
        if self.lost is None:
            time_interleaved(candidates, self.timer, self.seconds, LEAST[self.sizes.name])
            self._check_device()
        for row in entry["rows"]:
            candidate = candidates.get(row["variant"])
            if candidate is not None:
                _finish(row, candidate, floor)
        _compare(entry["rows"])
        if problem.part is not None:
            self._rest(entry["rows"], *problem.part)

    def _variants(self, problem: Problem) -> list[Variant]:
        """On the reference path there is one row of ours; on a CPU nothing is compiled, and there are no rivals."""
        found: list[Variant] = []
        for variant in problem.variants:
            if self.path == "reference" and variant.path == "reference":
                continue
            if self.path == "reference" and variant.own:
                if any(v.own for v in found):
                    continue
                variant = replace(variant, name="xlt-engine", note="the reference path")
            if self.device.type != "cuda" and not (variant.own or variant.path or variant.plain):
                continue
            found.append(variant)
        return found

    def _prepare(self, variant: Variant, truth: dict[str, torch.Tensor], row: Result) -> Candidate:
        """Warm up, then what needs no clock: error, memory and launches."""
        context = nullcontext if variant.path is None else partial(dispatch.using, variant.path)
        with context():
            begin = time.perf_counter()
            call: Call = variant.make()
            candidate = Candidate(call.run, context)
        warm_up(candidate, self.timer)
        row["warm_up_s"] = time.perf_counter() - begin
        with context():
            row["error"] = None
            if call.comparable:
                expected = truth if call.truth is None else call.truth()
                row["error"] = errors((call.check or call.run)(), expected)
            used = memory(call.run, self.device) or {}
            row |= {name: used.get(name) for name in ("peak_mib", "workspace_mib")}
            row["launches"] = launches(call.run, self.device)
        return candidate

    def _floor_ms(self, flops: float, moved: float) -> float:
        arithmetic: float = flops / (self.ceilings["matmul_tflops"] * 1e9)
        traffic: float = moved / (self.ceilings["copy_gb_per_s"] * 1e6)
        return max(arithmetic, traffic)

    def _rest(self, rows: list[Result], products: str, moved: float) -> None:
        """What an operation takes beyond its matrix products, and the share of that part's own floor."""
        alone = next((r["ms"]["p50"] for r in rows if r["variant"] == products and r.get("ms")), None)
        floor = self._floor_ms(0.0, moved)
        for row in rows:
            if alone is not None and row.get("ms") and row["variant"] != products:
                beyond = row["ms"]["p50"] - alone
                row["beyond_products_ms"] = beyond
                row["beyond_products_percent_of_floor"] = 100 * floor / beyond if beyond > 0 else None

    def _check_device(self) -> None:
        """An illegal access ends a CUDA context: nothing more can be measured in this process."""
        try:
            synchronise(self.device)
        except RuntimeError as error:
            self.lost = reason(error)


def _finish(row: Result, candidate: Candidate, floor_ms: float) -> None:
    row["reason"] = candidate.failed
    if candidate.times:
        row["ms"], row["host_ms"] = quantiles(candidate.times), candidate.host_ms
        row["percent_of_floor"] = 100 * floor_ms / row["ms"]["p50"]


def _compare(rows: list[Result]) -> None:
    """How many times the fastest row of this package each row takes."""
    own = [row["ms"]["p50"] for row in rows if row["own"] and row.get("ms")]
    for row in rows:
        row["times_ours"] = row["ms"]["p50"] / min(own) if own and row.get("ms") else None
