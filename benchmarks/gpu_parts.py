"""Two parts of `gpu_suite.py`: what the machine is and can do at most, and a sweep over the loss kernel's tiles.

python benchmarks/gpu_parts.py environment --json FILE [--dry]
python benchmarks/gpu_parts.py sweep --json FILE [--dry]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlt_engine.engine.bench.case import Setting, differentiate
from xlt_engine.engine.bench.measure import FAILURES, Timer, ceilings, machine, quantiles, reason
from xlt_engine.engine.bench.peers import flash_attention, versions
from xlt_engine.kernels import linear_cross_entropy

SIZE, VOCABULARY, PADDED = 768, 119_547, 119_552
ROWS = (614, 1_229, 4_915, 300)
DRY_SIZE, DRY_VOCABULARY, DRY_ROWS = 32, 131, (17,)
ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("environment", "sweep"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--dry", action="store_true", help="on the CPU, at tiny shapes")
    parser.add_argument("--compile", type=int, metavar="TILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.dry else "cuda")
    at = Setting(device, torch.float32 if arguments.dry else torch.bfloat16)
    result: dict[str, Any] = {"part": arguments.part, "environment": machine(device)}

    def write() -> None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")

    if arguments.part == "environment":
        _environment(at, arguments.dry, result, write)
    elif arguments.compile is not None:
        _compile(at, arguments.dry, arguments.compile)
        return
    else:
        _sweep(at, arguments.dry, result, write)
    write()


def _environment(at: Setting, dry: bool, result: dict[str, Any], write: Callable[[], None]) -> None:
    result["environment"]["versions"] |= versions()
    if at.device.type == "cuda":
        found = torch.cuda.get_device_properties(at.device)
        result["device"] = {
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_gib": found.total_memory / 2**30,
            "l2_mib": getattr(found, "L2_cache_size", 0) / 2**20,
            "cuda": torch.version.cuda,
        }
        result["nvidia_smi"] = _nvidia_smi()
    result["ceilings"] = ceilings(at.device, dry)
    write()
    result["probes"] = {}
    timer = Timer(at.device)
    for name, probe in _probes(at, dry).items():
        try:
            result["probes"][name] = probe(timer)
        except FAILURES as error:
            result["probes"][name] = {"reason": reason(error)}
        print(f"{name}: {result['probes'][name]}", flush=True)
        write()


def _nvidia_smi() -> str | None:
    """Clocks, power and temperature as they are found; nothing is changed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    wanted = "driver_version,clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu"
    command = [program, f"--query-gpu={wanted}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()


def _probes(at: Setting, dry: bool) -> dict[str, Callable[[Timer], dict[str, Any]]]:
    """Facts of the libraries below that the kernels' design rests on."""
    vocabularies = (DRY_VOCABULARY, DRY_VOCABULARY + 5) if dry else (VOCABULARY, PADDED)
    rows, size = (DRY_ROWS[0], DRY_SIZE) if dry else (ROWS[0], SIZE)
    found: dict[str, Callable[[Timer], dict[str, Any]]] = {
        f"the loss's products, N {rows}, V {v}": partial(_products, at, rows, v, size) for v in vocabularies
    }
    found["16-bit product added to fp32"] = partial(_added_product, at, rows, vocabularies[1], size)
    found["flash attention with dropout in a CUDA graph"] = partial(_flash_in_a_graph, at)
    return found


def _milliseconds(call: Callable[[], Tensor], timer: Timer) -> dict[str, float]:
    for _ in range(3):
        call()
    return quantiles([timer.once_ms(lambda: {"out": call()}, 0.2) for _ in range(ROUNDS)])


def _products(at: Setting, rows: int, vocabulary: int, size: int, timer: Timer) -> dict[str, Any]:
    x, w = at.normal(rows, size, key="x"), at.normal(vocabulary, size, key="w", std=0.05)
    e = at.normal(rows, vocabulary, key="e")
    calls = {"logits": lambda: x @ w.t(), "d_hidden": lambda: e @ w, "d_weight": lambda: e.t() @ x}
    return {name: _milliseconds(call, timer) for name, call in calls.items()}


def _added_product(at: Setting, rows: int, vocabulary: int, size: int, timer: Timer) -> dict[str, Any]:
    x, e = at.normal(rows, size, key="x"), at.normal(rows, vocabulary, key="e")
    total = torch.zeros(vocabulary, size, device=at.device)
    if at.device.type != "cuda":
        raise NotImplementedError("torch has it on CUDA only")
    return _milliseconds(lambda: torch.addmm(total, e.t(), x, out_dtype=torch.float32, out=total), timer)


def _flash_in_a_graph(at: Setting, timer: Timer) -> dict[str, Any]:
    bounds = torch.arange(0, 33, device=at.device, dtype=torch.int32) * 64
    attend = flash_attention(bounds, 64)
    qkv = at.normal(32 * 64, 3, 12, 64, key="qkv", grad=True)
    run = differentiate(lambda p: attend(qkv, p), {"qkv": qkv}, 0.1, torch.ones_like(qkv[:, 0]))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()
    graph.replay()
    torch.cuda.synchronize()
    return {"captured": True, "finite": bool(kept["d_qkv"].isfinite().all())}


def _tiles(dtype: torch.dtype) -> tuple[Any, list[Any]]:
    """The module whose `choose_tile` is replaced, and the candidates."""
    module = import_module("xlt_engine.kernels.fused.linear_cross_entropy")
    return module, list(module.tile_candidates(dtype))


def _shapes(dry: bool) -> tuple[tuple[int, ...], int, int]:
    return (DRY_ROWS, DRY_VOCABULARY, DRY_SIZE) if dry else (ROWS, VOCABULARY, SIZE)


def _calls(at: Setting, rows: int, vocabulary: int, size: int) -> dict[str, Callable[[], dict[str, Tensor]]]:
    hidden = at.normal(rows, size, key="hidden", grad=True)
    weight = at.normal(vocabulary, size, key="matrix", std=0.05, grad=True)
    bias = at.normal(vocabulary, key="bias", std=0.1, grad=True)
    target = at.integers(vocabulary, rows, key="target")
    leaves = {"hidden": hidden, "weight": weight, "bias": bias}

    def forward(mode: str, p: float) -> Tensor:
        return linear_cross_entropy(hidden, weight, bias, target, mode=mode)

    return {
        "store, forward": lambda: {"out": forward("store", 0.0)},
        "store": differentiate(partial(forward, "store"), leaves, 0.0),
        "recompute": differentiate(partial(forward, "recompute"), leaves, 0.0),
    }


def _compile(at: Setting, dry: bool, index: int) -> None:
    """Put a tile's kernels into Triton's cache on the disk: N is no compile-time constant, so few rows do."""
    module, tiles = _tiles(at.dtype)
    module.choose_tile = lambda *_, **__: tiles[index]
    _, vocabulary, size = _shapes(dry)
    for run in _calls(at, DRY_ROWS[0], vocabulary, size).values():
        run()


def _sweep(at: Setting, dry: bool, result: dict[str, Any], write: Callable[[], None]) -> None:
    try:
        module, tiles = _tiles(at.dtype)
    except (ImportError, AttributeError) as error:
        result["skipped"] = reason(error)
        print(f"skipped: {result['skipped']}")
        return
    tiles = tiles[:1] if dry else tiles
    failed = _compile_all(tiles, dry)
    result["tiles"], timer = [], Timer(at.device)
    all_rows, vocabulary, size = _shapes(dry)
    for rows in all_rows:
        calls = _calls(at, rows, vocabulary, size)
        for index, tile in enumerate(tiles):
            entry: dict[str, Any] = {"N": rows, "V": vocabulary, "H": size, "tile": tile._asdict()}
            result["tiles"].append(entry)
            if index in failed:
                entry["reason"] = failed[index]
                continue
            module.choose_tile = lambda *_, tile=tile, **__: tile
            _time_tile(entry, calls, timer, 1 if dry else ROUNDS)
            print(f"N {rows}, {tuple(tile)}: {_line(entry)}", flush=True)
            write()
    result["headlines"] = _best(result["tiles"])


def _compile_all(tiles: list[Any], dry: bool) -> dict[int, str]:
    """A process for each tile at once; the reasons of those that do not compile."""
    command = [sys.executable, __file__, "sweep", "--json", "unused", *(["--dry"] if dry else []), "--compile"]
    pipe = subprocess.PIPE
    running = [subprocess.Popen([*command, str(i)], stderr=pipe, text=True) for i in range(len(tiles))]
    failed = {}
    for index, process in enumerate(running):
        _, errors = process.communicate()
        if process.returncode:
            failed[index] = (errors.strip().splitlines() or [f"exit {process.returncode}"])[-1][:200]
    return failed


def _time_tile(
    entry: dict[str, Any], calls: dict[str, Callable[[], dict[str, Tensor]]], timer: Timer, rounds: int
) -> None:
    for name, run in calls.items():
        try:
            for _ in range(2):
                run()
            lead = timer.host_ms(run) * 1.3
            entry[name] = quantiles([timer.once_ms(run, lead) for _ in range(rounds)])
        except FAILURES as error:
            entry["reason"] = f"{name}: {reason(error)}"
            return
    operations = 2.0 * entry["N"] * entry["V"] * entry["H"]
    entry["forward_tflops"] = operations / entry["store, forward"]["p50"] / 1e9


def _line(entry: dict[str, Any]) -> str:
    if "reason" in entry:
        return str(entry["reason"])
    times = ", ".join(f"{name} {entry[name]['p50']:.3f} ms" for name in ("store, forward", "store", "recompute"))
    return f"{times}, forward {entry['forward_tflops']:.0f} TFLOP/s"


def _best(entries: list[dict[str, Any]]) -> list[str]:
    found = []
    for rows in dict.fromkeys(entry["N"] for entry in entries):
        timed = [e for e in entries if e["N"] == rows and "reason" not in e]
        for name in ("store", "recompute"):
            if timed:
                best = min(timed, key=lambda e: e[name]["p50"])
                found.append(f"N {rows}, {name}: {tuple(best['tile'].values())}, {best[name]['p50']:.3f} ms")
    return found


if __name__ == "__main__":
    main()
