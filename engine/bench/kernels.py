"""`xlt-engine bench kernels`: every operation of the kernels room against plain torch, on this machine.

A case is one operation at one shape. All ways to compute it that run here are timed in turns, after a warm-up; one that
is absent or fails is a row that says why. Results are on the disk after every case. `benchmarks/kernels.py` adds rivals
of other libraries (`RIVALS`).
"""

from __future__ import annotations

import difflib
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ... import ConfigError, XltError
from ...kernels import dispatch
from ..training.device import choose_device
from .case import SIZES, Case, Problem, Rival, Setting, Shape, Variant, ways
from .cases import OPERATIONS, cases_of
from .harness import (
    FAILURES,
    Candidate,
    Result,
    Timer,
    add_bounds,
    beyond,
    ceilings,
    cells,
    errors,
    head,
    launches,
    memory,
    number,
    quantiles,
    reason,
    synchronise,
    time_interleaved,
    warm_up,
    write,
)

RIVALS: dict[str, Callable[[Setting, Shape], list[Rival]]] = {}
"""By operation: what else computes it, beside what the package brings."""
SECONDS = {"full": 1.0, "reduced": 2.0, "tiny": 0.0}
"""How long the timed rounds of a case may take, beyond the least number of rounds."""
LEAST = {"full": 7, "reduced": 3, "tiny": 1}

_HEADS = (
    *("ms p20 / p50 / p80", "x ours", "% floor", "host ms"),
    *("peak MiB", "work MiB", "launches", "error", "worst row"),
)
_WIDTHS = (27, 7, 7, 8, 9, 9, 8, 8, 9)
_ERRORS = ("frobenius", "worst_row")


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
    for name in operations:
        if name not in OPERATIONS:
            near = difflib.get_close_matches(name, OPERATIONS, 1, 0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"there is no operation {name!r}{hint} Known: {', '.join(OPERATIONS)}")
    bench = _Bench(choose_device(device), quick, check)
    cases = [case for name in OPERATIONS if name in operations or not operations for case in bench.cases(name)]
    cases.sort(key=lambda c: c.rank)
    result = bench.head(list(dict.fromkeys(case.op for case in cases)))
    for note in result["notes"]:
        say(note)
    if (top := bench.ceilings) is not None:
        result["ceilings"] = top
        say(f"measured ceilings: {_rates(top, top['dtype'])}")
    started = time.monotonic()
    try:
        for count, case in enumerate(cases, 1):
            result["running"] = f"{case.op}: {case.name}"
            write(result, json_file)
            entry: Result = {"op": case.op, "name": case.name, "shape": case.shape, "rank": case.rank, "rows": []}
            result["cases"].append(entry)
            try:
                bench.measure(case, entry)
            finally:
                entry["headline"] = headline(entry)
            say(f"[{count}/{len(cases)}, {time.monotonic() - started:.0f} s] {entry['headline']}")
        result |= {"running": None, "complete": True, "seconds": time.monotonic() - started}
    finally:
        write(result, json_file)
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


class _Bench:
    """Measures one case after another on a device."""

    def __init__(self, device: torch.device, quick: bool, check: bool) -> None:
        self.device, self.quick, self.check, self.cuda = device, quick, check, device.type == "cuda"
        self.path, _ = dispatch.kernels_path(device)
        small = "tiny" if quick or self.path == "triton" else "reduced"
        self.at = Setting(device, torch.bfloat16 if self.cuda else torch.float32)
        self.sizes, self.timer = SIZES["full" if self.cuda else small], Timer(device)
        self.ceilings = None if check else ceilings(device, self.sizes.name == "tiny")
        self.seconds = SECONDS[self.sizes.name] * (0.4 if quick else 1.0)

    def cases(self, operation: str) -> list[Case]:
        """Those that were asked for; what trains computes all that is computed beside frozen weights, and more."""
        found = [
            c for c in cases_of(operation, self.sizes) if not self.quick or not c.rank or self.sizes.name == "tiny"
        ]
        return [case for case in found if not (self.check and "frozen" in case.shape.values())]

    def head(self, operations: list[str]) -> Result:
        """The record, without a case yet."""
        found = head("kernels", self.device) | {"sizes": self.sizes.name, "quick": self.quick, "running": None}
        if not self.cuda:
            path = "Triton's interpreter" if self.path == "triton" else "the reference path"
            found["notes"].append(
                f"no CUDA device in use: {path} against eager torch, in fp32, at {self.sizes.name} shapes; wall time, "
                "no memory and no launches"
            )
        dtype = str(self.at.dtype).removeprefix("torch.")
        return found | {"dtype": dtype, "operations": operations, "cases": []}

    def measure(self, case: Case, entry: Result) -> None:
        """Fills one case's entry; the memory of its inputs is free again afterwards.

        Raises:
            XltError: the device was lost.
        """
        if self.cuda:
            torch.compiler.reset()
        try:
            problem = case.build(self.at)
            self._fill(entry, case, problem)
        except FAILURES as error:
            entry |= {"floor_ms": None, "reason": reason(error)}
            self._check_device(case.op)
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def _fill(self, entry: Result, case: Case, problem: Problem) -> None:
        truth, floor = problem.truth(), None
        if self.ceilings is not None:  # milliseconds that no implementation can stay below
            arithmetic = problem.flops / (self.ceilings["matmul_tflops"] * 1e9)
            floor = max(arithmetic, problem.moved / (self.ceilings["copy_gb_per_s"] * 1e6))
        entry |= {"flops": problem.flops, "bytes": problem.moved, "floor_ms": floor}
        candidates: dict[str, Candidate] = {}
        for variant in self._variants(case, problem):
            rival = variant.rival and not variant.own and variant.path is None
            row: Result = {"variant": variant.name, "own": variant.own, "rival": rival, "note": variant.note}
            entry["rows"].append(row)
            row["reason"] = None
            try:
                candidates[variant.name] = self._prepare(variant, truth, row)
            except FAILURES as error:
                row["reason"] = reason(error)
                self._check_device(case.op)
        add_bounds(entry["rows"])
        if floor is None:
            return
        time_interleaved(candidates, self.timer, self.seconds, LEAST[self.sizes.name])
        self._check_device(case.op)
        for row in entry["rows"]:
            if (candidate := candidates.get(row["variant"])) is not None:
                row["reason"] = candidate.failed
                if candidate.times:
                    row["ms"], row["host_ms"] = quantiles(candidate.times), candidate.host_ms
                    row["percent_of_floor"] = 100 * floor / row["ms"]["p50"]
        own = [row["ms"]["p50"] for row in entry["rows"] if row["own"] and row.get("ms")]
        for row in entry["rows"]:
            row["times_ours"] = row["ms"]["p50"] / min(own) if own and row.get("ms") else None

    def _variants(self, case: Case, problem: Problem) -> list[Variant]:
        """On a CPU nothing is compiled, and there are no rivals; on the reference path there is one row of ours."""
        variants = [v for v in problem.variants if self.cuda or v.own or v.path or v.plain]
        if self.cuda and case.op in RIVALS:
            of = ways(problem.inputs, problem.upstream, problem.p)
            variants += [
                Variant(name, of(find, True), note=note) for name, find, note in RIVALS[case.op](self.at, case.shape)
            ]
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
        begin = time.perf_counter()
        with context():
            call = variant.make()
            candidate = Candidate(call.run, context)
        if not self.check:
            warm_up(candidate, self.timer)
            row["warm_up_s"] = time.perf_counter() - begin
        with context():
            row["error"] = errors((call.check or call.run)(), truth) if call.comparable else None
            if not self.check:
                row |= memory(call.run, self.device)
                found = launches(call.run, self.device)
                row["launches"] = found and found["kernels"]
        return candidate

    def _check_device(self, op: str) -> None:
        """An illegal access ends a CUDA context: nothing more can be measured in this process."""
        try:
            synchronise(self.device)
        except RuntimeError as error:
            raise XltError(f"the device was lost in {op}: {reason(error)}") from error


def render(result: Result) -> str:
    """One table for each operation; a row that could not be measured says why."""
    blocks = [_header(result)]
    for operation in dict.fromkeys(case["op"] for case in result["cases"]):
        cases = [case for case in result["cases"] if case["op"] == operation]
        blocks.append([operation, *(line for case in cases for line in _case(case))])
    return "\n\n".join("\n".join(block) for block in blocks)


def headline(case: Result) -> str:
    """A case in one line: our time, and the nearest rival."""
    timed = [row for row in case["rows"] if row.get("ms")]
    own = min((row for row in timed if row["own"]), key=_p50, default=None)
    rival = min((row for row in timed if row["rival"]), key=_p50, default=None)
    parts = [] if own is None else [f"{number(_p50(own))} ms, {own['percent_of_floor']:.0f} % of the floor"]
    parts += [] if own is None or rival is None else [f"{rival['variant']} {rival['times_ours']:.2f}x"]
    ours = [row for row in case["rows"] if row["own"]]
    largest = [e["frobenius"] for row in ours for e in (row.get("error") or {}).values()]
    parts += [f"error {max(largest):.0e}"] if largest else []
    parts += [f"TOO LARGE: {said}" for row in ours for said in beyond(row)]
    return f"{case['op']}, {case['name']}: " + ("; ".join(parts) or "no time of this package")


def _header(result: Result) -> list[str]:
    versions, top = result["environment"]["versions"], result.get("ceilings")
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    absent = ", ".join(name for name, version in versions.items() if not version)
    return [
        f"{result['device']}, {result['dtype']}, {result['sizes']} shapes, commit {result['commit'] or 'unknown'}",
        named + (f"; not installed: {absent}" if absent else ""),
        *result["notes"],
        *([] if top is None else [f"ceilings measured here: {_rates(top)}"]),
    ]


def _rates(top: Result, dtype: str = "") -> str:
    product = f"product {top['matmul']}" + f" {dtype}" * bool(dtype)
    return f"{top['matmul_tflops']:.4g} TFLOP/s ({product}), {top['copy_gb_per_s']:.4g} GB/s (copy, read and write)"


def _case(case: Result) -> list[str]:
    floor = "" if case["floor_ms"] is None else f" (floor {number(case['floor_ms'])} ms)"
    lines = [f"  {case['name']}{floor}"]
    if case.get("reason"):
        return [*lines, f"    not built: {case['reason']}"]
    return [*lines, cells("", 24, _HEADS, _WIDTHS), *(line for row in case["rows"] for line in _row(row))]


def _row(row: Result) -> list[str]:
    if row["reason"]:
        return [f"    {row['variant']:24}  - {row['reason']}"]
    found = (row["error"] or {}).values()
    worst = [[e[kind] for e in found if e[kind] is not None] for kind in _ERRORS]
    times = [""] * 4
    if ms := row.get("ms"):
        ratio = "" if row["times_ours"] is None else f"{row['times_ours']:.2f}"
        spread = " / ".join(number(ms[q]) for q in ("p20", "p50", "p80"))
        times = [spread, ratio, f"{row['percent_of_floor']:.0f}", number(row["host_ms"])]
    counts = ["" if row.get(k) is None else f"{row[k]:.0f}" for k in ("peak_mib", "workspace_mib", "launches")]
    line = cells(row["variant"], 24, [*times, *counts, *(f"{max(w):.0e}" if w else "" for w in worst)], _WIDTHS)
    return [line, *(f"    {'':24}  TOO LARGE: {said}" for said in beyond(row))]


def _p50(row: Result) -> float:
    return float(row["ms"]["p50"])
