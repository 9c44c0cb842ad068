"""Seconds and memory of a BTF step, a NER fine-tuning step and teacher inference, against transformers.

    XLT_DATA=DATA python benchmarks/step.py --shape mbert --repeats 5 --json benchmarks/results/NAME.json

One process, all variants interleaved, after a check that both sides compute the same. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import environment, load_sentences, peak, quantiles, reset_peak, resident, timed, whole_peak
from sides import PEERS, SHAPES, Ours, Row, Side, make_row, worst_difference

from xlt_engine.data import rng_for

TASKS = {
    "btf": (("en", "de"), 1, "masked-LM step (BTF), embeddings and lowest layers frozen"),
    "ner": (("en",), 1, "NER fine-tuning step, 9 classes, embeddings and lowest layers frozen"),
    "teacher": (("de",), 4, "teacher inference, 9 classes, four batches a repeat"),
}
ORDERS = ("random", "sorted")
WINDOW = 50
TOLERANCE = 1e-4
WARM_UP = 2

Work = list[list[list[Row]]]


def main() -> None:
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(json.dumps(_memory_of(arguments)))
        return
    device = torch.device(arguments.device)
    sentences, source = load_sentences()
    result: dict[str, Any] = {
        "benchmark": "step",
        "shape": arguments.shape,
        "config": SHAPES[arguments.shape].to_hf(),
        "data": source,
        "batch_size": arguments.batch_size,
        "repeats": arguments.repeats,
        "precision": "fp32",
        "environment": environment(arguments.threads, device),
        "tasks": {},
    }
    print(f"{arguments.shape}; {source}; {arguments.threads} thread(s); {result['environment']['cpu']}")
    for task in arguments.tasks:
        work = {order: make_work(task, sentences, order, arguments) for order in ORDERS}
        entry = _time_task(task, work, arguments, device)
        if not arguments.no_memory:
            entry["memory_mib"] = _memory(task, arguments)
        result["tasks"][task] = entry
        _show(task, entry)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="mbert")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--no-memory", action="store_true", help="skip the memory runs (a process for each variant)")
    parser.add_argument("--json", metavar="FILE", help="where the result goes")
    parser.add_argument("--memory-of", metavar="SIDE", help=argparse.SUPPRESS)
    parser.add_argument("--order", choices=ORDERS, default=ORDERS[0], help=argparse.SUPPRESS)
    return parser.parse_args()


def make_work(task: str, sentences: dict[str, Any], order: str, arguments: argparse.Namespace) -> Work:
    """For each repeat its batches. Both orders draw from one window of 50 batches, as the engine's sampler does.

    "random" takes batches of the window as they come, "sorted" those at evenly spaced places of the sorted window.
    """
    languages, batches, _ = TASKS[task]
    size = arguments.batch_size
    share = WINDOW * size // len(languages)
    drawn = [s for language in languages for s in sentences[language][:share]]
    permutation = rng_for(0, "window", task).permutation(len(drawn))
    rows = [make_row(task, drawn[i], int(i)) for i in permutation]
    rows = [row for row in rows if len(row.positions)]
    if order == "sorted":
        rows.sort(key=lambda row: row.length)
    cut = [rows[i : i + size] for i in range(0, len(rows) - size + 1, size)]
    wanted = arguments.repeats * batches
    if order == "random":
        chosen = [cut[i % len(cut)] for i in range(wanted)]
    else:
        # A teacher's pass goes through the sorted sentences: the batches of one repeat are neighbours.
        first = ((np.arange(arguments.repeats) + 0.5) * (len(cut) - batches + 1) / arguments.repeats).astype(int)
        chosen = [cut[f + k] for f in first for k in range(batches)]
    return [chosen[i : i + batches] for i in range(0, wanted, batches)]


def _time_task(task: str, work: dict[str, Work], arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    config = SHAPES[arguments.shape]
    ours = Ours(task, config, device)
    sides: list[Side] = [ours]
    checks = {}
    few = work["random"][0][0][:4]
    for name in arguments.peers:
        peer = PEERS[name](task, config, device)
        checks[name] = worst_difference(peer, ours, few)
        if not checks[name] <= TOLERANCE:
            raise SystemExit(f"{task}: {name} and this package differ by {checks[name]:.1e}; nothing was timed")
        sides.append(peer)
    for side in sides:
        side.step(side.prepare([few[:WARM_UP]]))
    variants = [(side, order) for side in sides for order in ORDERS]
    seconds: dict[str, dict[str, list[float]]] = {f"{s.name}, {o}": {"cpu": [], "wall": []} for s, o in variants}
    for repeat in range(arguments.repeats):
        turn = repeat % len(variants)
        for side, order in variants[turn:] + variants[:turn]:
            prepared = side.prepare(work[order][repeat])
            cpu, wall = timed(lambda side=side, prepared=prepared: side.step(prepared), device)  # type: ignore[misc]
            seconds[f"{side.name}, {order}"]["cpu"].append(cpu)
            seconds[f"{side.name}, {order}"]["wall"].append(wall)
    return _summary(work, sides, seconds) | {"difference": checks}


def _summary(work: dict[str, Work], sides: Sequence[Side], seconds: dict[str, Any]) -> dict[str, Any]:
    tokens = {o: [sum(row.length for batch in step for row in batch) for step in work[o]] for o in ORDERS}
    padded = {
        o: [sum(max(row.length for row in batch) * len(batch) for batch in step) for step in work[o]] for o in ORDERS
    }
    clock = "wall" if torch.cuda.is_available() else "cpu"
    variants = {
        name: {
            "cpu_seconds": quantiles(value["cpu"]),
            "wall_seconds": quantiles(value["wall"]),
            "tokens_per_second": sum(tokens[name.split(", ")[1]]) / sum(value[clock]),
            "raw": value,
        }
        for name, value in seconds.items()
    }
    ratios = {}
    for side in sides[1:]:
        for order in ORDERS:
            theirs, own = seconds[f"{side.name}, {order}"][clock], seconds[f"{Ours.name}, {order}"][clock]
            ratios[f"{side.name}, {order}"] = {
                "total": sum(theirs) / sum(own),
                **quantiles([a / b for a, b in zip(theirs, own, strict=True)]),
            }
    return {
        "clock": clock,
        "tokens": tokens,
        "padded_tokens": padded,
        "variants": variants,
        "times_faster": ratios,
        "attention": {side.name: getattr(side, "attention", "packed") for side in sides},
    }


def _memory(task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Each variant in a process of its own: one long process reuses what an earlier variant has freed."""
    found = {}
    for side in [Ours.name, *arguments.peers]:
        for order in ORDERS:
            command = [sys.executable, __file__, "--memory-of", side, "--order", order, "--tasks", task]
            for name in ("shape", "device", "threads", "repeats", "batch_size"):
                command += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[f"{side}, {order}"] = json.loads(output.splitlines()[-1])
    return found


def _memory_of(arguments: argparse.Namespace) -> dict[str, float]:
    """A small step, so that the optimiser's moments exist, then the one with the most padded tokens; MiB."""
    (task,) = arguments.tasks
    device = torch.device(arguments.device)
    work = make_work(task, load_sentences()[0], arguments.order, arguments)
    side_type = {Ours.name: Ours, **PEERS}[arguments.memory_of]
    before = resident()
    side: Side = side_type(task, SHAPES[arguments.shape], device)
    built = resident()
    largest = max(work, key=lambda step: max(max(row.length for row in batch) * len(batch) for batch in step))
    reset_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    side.step(side.prepare([largest[0][:WARM_UP]]))
    side.step(side.prepare(largest))
    result = {"before": before, "built": built, "peak": peak(), "above_built": peak() - built, "process": whole_peak()}
    if device.type == "cuda":
        result["device_peak"] = torch.cuda.max_memory_allocated(device) / 2**20
    return result


def _show(task: str, entry: dict[str, Any]) -> None:
    print(f"\n{task}: {TASKS[task][2]}")
    print(f"  both sides agree within {max(entry['difference'].values(), default=0.0):.1e} (dropout off)")
    memory = entry.get("memory_mib", {})
    heads = ("variant", "cpu s p20/p50/p80", "wall p50", "tok/s", "ours is", "peak / above model MiB")
    print("  {:26} {:>22} {:>9} {:>8} {:>8} {:>24}".format(*heads))
    for name, variant in entry["variants"].items():
        cpu = "/".join(f"{variant['cpu_seconds'][q]:.2f}" for q in ("p20", "p50", "p80"))
        ratio = entry["times_faster"].get(name)
        faster = f"{ratio['p50']:.2f}x" if ratio else ""
        used = f"{memory[name]['peak']:.0f} / {memory[name]['above_built']:.0f}" if name in memory else ""
        wall, rate = variant["wall_seconds"]["p50"], variant["tokens_per_second"]
        print(f"  {name:26} {cpu:>22} {wall:9.2f} {rate:8.0f} {faster:>8} {used:>24}", flush=True)


if __name__ == "__main__":
    main()
