"""What attention costs by the length of a sequence, with ModernBERT's window and without.

    python benchmarks/attention_length.py --json benchmarks/results/attention-length.json

One sequence, two heads of 64, rotary positions, fp32, forward and backward; one thread, CPU seconds of the process,
both kinds in turns, the least of the rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from common import made

from xlt_engine.kernels import attention_plan, packed_attention, rotary_table

LENGTHS = (512, 1024, 2048, 4096, 8192)
HEADS, SIZE, WINDOW, ROUNDS = 2, 64, 64, 5


def milliseconds(length: int) -> dict[int | None, float]:
    """By window."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(length, 3, HEADS, SIZE, generator=generator, requires_grad=True)
    upstream = torch.randn(length, HEADS, SIZE, generator=generator)
    bounds, rotary = torch.tensor([0, length]), rotary_table(torch.arange(length), SIZE, 10_000.0)
    plan = attention_plan(bounds)
    times: dict[int | None, list[float]] = {WINDOW: [], None: []}
    for _ in range(1 + ROUNDS):
        for window, found in times.items():
            began = time.process_time()
            out = packed_attention(qkv, bounds, length, plan=plan, rotary=rotary, window=window)
            torch.autograd.grad(out, qkv, upstream)
            found.append(1e3 * (time.process_time() - began))
    return {window: min(found[1:]) for window, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {length: milliseconds(length) for length in LENGTHS}
    columns = ["us a token, of", *(f"{length:,}" for length in LENGTHS)]
    rows = [
        [f"window of {WINDOW}" if window else "whole", *(f"{1e3 * found[n][window] / n:.1f}" for n in LENGTHS)]
        for window in (WINDOW, None)
    ]
    facts = made("python benchmarks/attention_length.py", [], trained=False)
    result = {"shape": "columns", "made": facts, "columns": columns, "rows": rows}
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
