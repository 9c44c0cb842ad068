"""What the compiler makes of every Triton kernel, for three compute capabilities and three types; no GPU is needed.

    python benchmarks/compiled_budgets.py [--jobs 2]      writes results/compiled-budgets-VERSION.json, of triton

Written after each capability and type; those that are not asked for stay as they are in the file. Another triton than
the one that is installed: its folder first in PYTHONPATH. The calls are those of `gpu/specialisations.py`;
`tests/benchmarks/test_compiled_budgets.py` holds a part of them to the same limits.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from common import made

BENCHMARKS = Path(__file__).resolve().parent
SPECIALISATIONS = BENCHMARKS / "gpu" / "specialisations.py"
CAPABILITIES, TYPES = ("9.0", "8.0", "8.9"), ("bf16", "fp32", "fp16")
SHARED = {"8.0": 163 << 10, "8.9": 99 << 10, "9.0": 227 << 10}
"""Bytes of shared memory that one program may have: A100, RTX 4090, H100."""

_TILES = "tiles chosen for 9.0, whose accumulators and addresses do not all fit the registers of 8.0 and 8.9"
_ATTENTION = {"attention_backward.backward_whole": 448, "attention_backward.backward": 8}
_WIDE = "operands take twice the registers; what chooses its precision itself computes in 16 bits on a GPU"
_FP32 = {"attention.forward": 352, "attention_backward.backward_whole": 288, "attention_backward.backward": 24}
SPILLS: dict[tuple[str, str, str], tuple[int, str]] = {
    ("8.0", "bf16", "linear_cross_entropy.exponentials"): (512, _TILES),
    ("8.0", "bf16", "linear_cross_entropy.probabilities"): (512, _TILES),
    ("8.0", "fp16", "linear_cross_entropy.probabilities"): (8, _TILES),
    **{
        (capability, dtype, kernel): (stack, _TILES)
        for capability in ("8.0", "8.9")
        for dtype in ("bf16", "fp16")
        for kernel, stack in _ATTENTION.items()
    },
    **{(capability, "fp32", kernel): (stack, _WIDE) for capability in SHARED for kernel, stack in _FP32.items()},
    ("8.0", "fp32", "attention_backward.backward_whole"): (1336, f"{_WIDE}; with triton 3.7.1, none with 3.6.0"),
}
"""Bytes of stack that (capability, type, kernel) may use, and why; all others none."""

PROGRAMS = {
    "attention.forward": 4,
    "attention_backward.backward_whole": 1,
    "attention_backward.backward": 2,
    "layer_norm.backward": 2,
    "embedding.backward": 2,
    "gelu.gelu_backward": 4,
    "glu.glu_backward": 4,
    "adamw.adamw": 5,
    "votes.votes": 4,
}
"""Programs that have to fit a multiprocessor of 9.0 by their registers, as the files of these 16-bit kernels reason."""

TURNED = 2
"""Programs of the attention forward that have to fit with rotary positions, whose angles take registers beside keys."""

Rows = list[dict[str, Any]]


def compile_part(capability: str, dtype: str, families: Sequence[str] = ()) -> Rows:
    """The compiled kernels, one after another, in a process of its own.

    Raises:
        subprocess.CalledProcessError: a kernel does not compile; the reason is on stderr.
    """
    command = [sys.executable, str(SPECIALISATIONS), "--capability", capability]
    command += ["--shared", str(SHARED[capability]), "--dtype", dtype]
    command += ["--family", *families] if families else []
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) | {"capability": capability} for line in output.splitlines()]


def programs(row: dict[str, Any]) -> int:
    """How many programs of a kernel the 65,536 registers of a multiprocessor hold; they are allotted in eights."""
    return 65_536 // (-(-row["registers"] // 8) * 8 * 32 * row["warps"])


def violations(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What is beyond a limit: spills, shared memory, registers, and products beside the matrix units.

    Products of 16-bit operands run by warp group on 9.0, but for tiles of short sequences, too small for one; those of
    fp32 are exact by default, which no matrix unit is.
    """
    for row in rows:
        capability, dtype, kernel = row["capability"], row["dtype"], row["kernel"]
        name = f"{capability}, {dtype}, {kernel} ({row['operation']})"
        allowed = SPILLS.get((capability, dtype, kernel), (0, ""))[0]
        if row["stack"] > allowed:
            yield f"{name}: {row['stack']} bytes of registers spilled, {allowed} allowed"
        if row["shared"] > SHARED[capability]:
            yield f"{name}: {row['shared']} bytes of shared memory, {SHARED[capability]} there are"
        if dtype == "fp32":
            continue
        together = PROGRAMS.get(kernel, 1) if capability == "9.0" else 1
        if kernel == "attention.forward" and "rotary" in row["operation"]:
            together = min(together, TURNED)
        if programs(row) < together:
            yield f"{name}: {row['registers']} registers leave room for {programs(row)} programs of {together}"
        short = row["operation"].startswith(("attention 16", "attention 24"))
        wanted = ("wgmma",) if capability == "9.0" and not short else ("wgmma", "mma.sync")
        if row["products"] and row["units"] not in wanted:
            yield f"{name}: products by {row['units']}, not {' or '.join(wanted)}"


def summary(rows: Rows) -> Rows:
    """The largest figures of each kernel over its specialisations, in one capability and type."""
    kept = []
    for kernel, group in groupby(sorted(rows, key=lambda row: row["kernel"]), lambda row: row["kernel"]):
        several = list(group)
        largest = {figure: max(row[figure] for row in several) for figure in ("warps", "registers", "stack", "shared")}
        units = sorted({row["units"] for row in several if row["units"]})
        kept.append({"kernel": kernel, "specialisations": len(several), **largest, "units": units})
    return kept


def add_part(file: Path, capability: str, dtype: str, rows: Rows) -> None:
    """Writes a capability and type into the result, in place of an earlier one."""
    parts = json.loads(file.read_text())["parts"] if file.exists() else []
    parts = [part for part in parts if (part["capability"], part["dtype"]) != (capability, dtype)]
    head = made("python benchmarks/compiled_budgets.py", [], trained=False)
    part = {"capability": capability, "dtype": dtype, "commit": head["commit"], "violations": list(violations(rows))}
    parts.append(part | {"kernels": summary(rows)})
    parts.sort(key=lambda part: (CAPABILITIES.index(part["capability"]), TYPES.index(part["dtype"])))
    text = json.dumps({"triton": import_module("triton").__version__, "made": head, "parts": parts}, indent=1)
    # A kernel a line.
    text = re.sub(r"\{[^{}]*\"kernel\"[^{}]*\}", lambda match: " ".join(match[0].split()), text)
    file.write_text(text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--capability", nargs="+", choices=CAPABILITIES, default=CAPABILITIES)
    parser.add_argument("--dtype", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--json", type=Path, help="the result  [default: benchmarks/results/...]")
    arguments = parser.parse_args()
    version = import_module("triton").__version__
    file = arguments.json or BENCHMARKS / "results" / f"compiled-budgets-{version}.json"
    parts = [(capability, dtype) for dtype in arguments.dtype for capability in arguments.capability]
    wrong = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for (capability, dtype), rows in zip(parts, pool.map(compile_part, *zip(*parts, strict=True)), strict=True):
            add_part(file, capability, dtype, rows)
            beyond = list(violations(rows))
            print(f"{capability}, {dtype}: {len(rows)} specialisations", *beyond, sep="\n", flush=True)
            wrong += len(beyond)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
