"""What each operation and each step should take on one H200: an estimate from counted operations and bytes.

    python benchmarks/gpu_estimates.py            # writes results/gpu-estimates.json

The operations are the main cases of `xlt-engine bench kernels` at mBERT's shape, the steps those of
`conll_estimate.py`. The floor is the longer of arithmetic and memory traffic at the rates that are assumed; the
estimate takes a share of them, and the launches. Nothing is measured here: what gpu-kernels.json and gpu-step.json of
the GPU suite have measured stands beside it, where they lie in results/.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from common import made
from conll_estimate import ASSUMED, cost
from torch import Tensor

from xlt_engine.engine.bench.case import SIZES, Case, Setting
from xlt_engine.engine.bench.cases import OPERATIONS, cases_of

RESULTS = Path(__file__).resolve().parent / "results"
TASKS = ("btf", "finetune", "soft", "hard", "teacher")
SHARES = {"product": 0.6, "copy": 0.8}
"""Of the rates: of a product of an operation (steps of some 900 tokens: `conll_estimate.py`), and of a copy."""
LAUNCHES = dict.fromkeys(("dropout_residual_layer_norm", "embedding_layer_norm", "residual_norm", "soft_label_loss"), 3)
"""Forward and backward, where they are not two: sums over the programs take one of their own."""


class Untouched(Setting):
    """Inputs without content, in memory that is never used: a case is asked what it moves, and is not run."""

    def normal(
        self, *shape: int, key: str, std: float = 1.0, grad: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.empty(shape, dtype=self.dtype if dtype is None else dtype).requires_grad_(grad)

    def integers(self, below: int, *shape: int, key: str) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64)


def operation(case: Case) -> dict[str, Any]:
    """Milliseconds of a case, forward and backward, in bf16."""
    problem = case.build(Untouched(torch.device("cpu"), torch.bfloat16))
    products, traffic = (1e3 * n / ASSUMED[r] for n, r in ((problem.flops, "product"), (problem.moved, "copy")))
    estimate = (
        max(products / SHARES["product"], traffic / SHARES["copy"]) + 1e3 * LAUNCHES.get(case.op, 2) * ASSUMED["kernel"]
    )
    return {
        "op": case.op,
        "name": case.name,
        "flops": problem.flops,
        "bytes": problem.moved,
        "floor_ms": max(products, traffic),
        "estimate_ms": estimate,
        "measured_ms": measured_operations().get((case.op, case.name)),
    }


def measured_operations() -> dict[tuple[str, str], float]:
    """The faster of a case's kernels of this package."""
    return {
        (case["op"], case["name"]): min(row["ms"]["p50"] for row in case["rows"] if row["own"] and row.get("ms"))
        for case in _read("gpu-kernels.json").get("cases", [])
        if any(row["own"] and row.get("ms") for row in case["rows"])
    }


def measured_steps() -> dict[str, float]:
    """Steps of this package on random batches of CoNLL's lengths."""
    return {
        task: entry["rows"]["conll, random"]["xlt-engine"]["ms"]["p50"]
        for task, entry in _read("gpu-step.json").get("tasks", {}).items()
        if "conll, random" in entry.get("rows", {})
    }


def _read(name: str) -> dict[str, Any]:
    file = RESULTS / name
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content


def step(task: str) -> dict[str, Any]:
    """Milliseconds of a task's step, in batches of 32 sentences like CoNLL's."""
    found = cost(task)
    return {
        "task": task,
        "tokens": found.tokens,
        "flops": found.flops,
        "estimate_ms": 1e3 * found.seconds,
        "measured_ms": measured_steps().get(task),
    }


def main() -> None:
    several = [cases_of(name, SIZES["full"]) for name in OPERATIONS]
    cases = [case for cases in several for case in cases if case.rank == min(other.rank for other in cases)]
    result = {
        "made": made("python benchmarks/gpu_estimates.py", [], trained=False) | {"machine": ""},
        "assumed": ASSUMED | {"shares": SHARES},
        "operations": [operation(case) for case in cases],
        "steps": [step(task) for task in TASKS],
    }
    (RESULTS / "gpu-estimates.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
