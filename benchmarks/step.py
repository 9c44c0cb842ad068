"""`xlt-engine bench step` on real sentences, and the memory of each side in a process of its own.

    XLT_DATA=DATA python benchmarks/step.py --shape mbert --repeats 3 --json benchmarks/results/NAME.json

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from common import load_sentences, peak, reset_peak, resident, whole_peak

from xlt_engine.engine.bench.step import TEACHER, bench_step, own_failures
from xlt_engine.engine.bench.step_peers import PEERS
from xlt_engine.engine.bench.step_sides import OURS, Ours, Side
from xlt_engine.engine.bench.step_table import render
from xlt_engine.engine.bench.step_work import ORDERS, SHAPES, TASKS, make_work

LENGTHS = "sentences"


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(_memory_of(arguments)))
        return
    sentences, source = load_sentences()
    result = bench_step(
        arguments.tasks,
        device=arguments.device,
        shape=arguments.shape,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        repeats=arguments.repeats,
        peers=arguments.peers,
        texts={LENGTHS: sentences},
        trace_folder=arguments.trace,
        json_file=arguments.json,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    result["data"] = source
    if not arguments.no_memory:
        _add_memory(result, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{source}\n{render(result)}")
    if failed := own_failures(result):
        raise SystemExit("\n".join(failed))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("mbert", "small"), default="mbert")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["btf", "finetune", "teacher"])
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=["tuned"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--no-memory", action="store_true", help="skip the memory runs (a process for each variant)")
    parser.add_argument("--trace", type=Path, metavar="FOLDER", help="profile this package's steps as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result goes")
    parser.add_argument("--memory-of", metavar="SIDE", help=argparse.SUPPRESS)
    parser.add_argument("--order", choices=ORDERS, default=ORDERS[0], help=argparse.SUPPRESS)
    return parser.parse_args()


def _add_memory(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Each side in a process of its own: one long process reuses what an earlier side has freed."""
    for task, entry in result["tasks"].items():
        for order in ORDERS:
            rows = entry["rows"].get(f"{LENGTHS}, {order}", {})
            for side in [OURS, *arguments.peers]:
                found = _in_a_process(task, side, order, arguments)
                if found["name"] in rows:
                    rows[found["name"]]["memory_mib"] = found


def _in_a_process(task: str, side: str, order: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--memory-of", side, "--order", order, "--tasks", task]
    for name in ("shape", "device", "threads", "repeats", "batch_size", "precision"):
        value = getattr(arguments, name)
        command += [] if value is None else ["--" + name.replace("_", "-"), str(value)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _memory_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """A small step, so that the optimiser's moments exist, then the one with the most padded tokens; MiB."""
    (task,) = arguments.tasks
    device, config = torch.device(arguments.device), SHAPES[arguments.shape]
    factor, batches = (1, 1) if TASKS[task].trains else TEACHER[device.type]
    work = make_work(
        task,
        load_sentences()[0],
        arguments.order,
        vocabulary=config.vocab_size,
        repeats=arguments.repeats,
        batch_size=arguments.batch_size * factor,
        batches=batches,
    )
    largest = max(work, key=lambda step: max(max(row.length for row in rows) * len(rows) for rows in step))
    kind: Any = Ours if arguments.memory_of == OURS else PEERS[arguments.memory_of][-1]
    before = resident()
    side: Side = kind(task, config, device, arguments.precision or ("fp32" if device.type == "cpu" else "bf16"))
    built = resident()
    reset_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    side.load([[largest[0][:2]], largest])
    side.step(0)
    side.step(1)
    found = {"name": side.name, "before": before, "built": built, "peak": peak(), "process": whole_peak()}
    found["above_built"] = peak() - built
    if device.type == "cuda":
        found["device_peak"] = torch.cuda.max_memory_allocated(device) / 2**20
    return found


if __name__ == "__main__":
    main()
