"""The stock products that the kernels' design rests on, and a sweep over the tiles of the loss kernel.

python benchmarks/gpu/sweep.py --json FILE [--dry]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from part import ROUNDS, Part, milliseconds
from torch import Tensor

from xlt_engine.engine.bench.case import Setting, differentiate
from xlt_engine.engine.bench.harness import FAILURES, Timer, quantiles, reason
from xlt_engine.kernels import linear_cross_entropy
from xlt_engine.kernels.fused.linear_cross_entropy import add_product, product

sys.path.append(str(Path(__file__).resolve().parents[1]))
from kernel_rivals import flash_attention  # noqa: E402

SIZE, VOCABULARY, STRIDE = 768, 119_547, 119_552
ROWS = (614, 1_229, 4_915, 300)
DIFFERENCE = 1e-2
"""Of a tile's results from those of the first tile, by norms; rounding to bf16 makes 3e-3, a lost tile 4e-2."""
DRY_SIZE, DRY_VOCABULARY, DRY_STRIDE, DRY_ROWS = 32, 131, 256, (17,)


def main() -> None:
    part = Part(__doc__, compile=int)
    if part.options.compile is not None:
        _compile(part.at, part.dry, part.options.compile)
        return
    part.result["probes"] = {}
    timer = Timer(part.device)
    for name, probe in _probes(part.at, part.dry).items():
        try:
            part.result["probes"][name] = probe(timer)
        except FAILURES as error:
            part.result["probes"][name] = {"reason": reason(error)}
        print(f"{name}: {part.result['probes'][name]}", flush=True)
        part.write()
    _sweep(part)
    part.write()


def _probes(at: Setting, dry: bool) -> dict[str, Callable[[Timer], dict[str, Any]]]:
    """Facts of the libraries below."""
    vocabulary, stride, size = (DRY_VOCABULARY, DRY_STRIDE, DRY_SIZE) if dry else (VOCABULARY, STRIDE, SIZE)
    probes: dict[str, Callable[[Timer], dict[str, Any]]] = {
        f"the loss's products, N {rows}": partial(_products, at, rows, vocabulary, stride, size)
        for rows in (DRY_ROWS if dry else (614, 4_915))
    }
    probes["flash attention with dropout in a CUDA graph"] = partial(_flash_in_a_graph, at)
    return probes


def _products(at: Setting, rows: int, vocabulary: int, stride: int, size: int, timer: Timer) -> dict[str, Any]:
    """As backward asks for them: rows of exponentials at an even stride, sums in fp32; logits for comparison."""
    x, w = at.normal(rows, size, key="x"), at.normal(vocabulary, size, key="w", std=0.05)
    e = at.normal(rows, stride, key="e")[:, :vocabulary]
    packed = e.contiguous()
    calls = {
        "d_hidden": lambda: product(e, w),
        "d_weight": lambda: e.t() @ x,
        "logits": lambda: x @ w.t(),
        "d_hidden, packed": lambda: product(packed, w),
    }
    times: dict[str, Any] = {name: milliseconds(call, timer) for name, call in calls.items()}
    total = torch.zeros(vocabulary, size, device=at.device)
    times["d_weight, added"] = milliseconds(lambda: add_into(total, e.t(), x), timer)
    return times


def add_into(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """As the gradient of a tied matrix grows."""
    add_product(total, a, b)
    return total


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


def _tiles(at: Setting, dry: bool) -> tuple[Any, list[Any]]:
    """The module whose `choose_tile` is replaced, and the candidates."""
    module = import_module("xlt_engine.kernels.fused.linear_cross_entropy")
    tiles = list(module.tile_candidates(at.dtype))
    return module, tiles[:2] if dry else tiles


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
    module, tiles = _tiles(at, dry)
    module.choose_tile = lambda *_, **__: tiles[index]
    _, vocabulary, size = _shapes(dry)
    for run in _calls(at, DRY_ROWS[0], vocabulary, size).values():
        run()


def _sweep(part: Part) -> None:
    try:
        module, tiles = _tiles(part.at, part.dry)
    except (ImportError, AttributeError) as error:
        part.result["skipped"] = reason(error)
        print(f"skipped: {part.result['skipped']}")
        return
    failed = _compile_all(tiles, part.dry)
    part.result["tiles"], timer = [], Timer(part.device)
    all_rows, vocabulary, size = _shapes(part.dry)
    for rows in all_rows:
        calls = _calls(part.at, rows, vocabulary, size)
        first: dict[str, Tensor] = {}
        for index, tile in enumerate(tiles):
            entry: dict[str, Any] = {"N": rows, "V": vocabulary, "H": size, "tile": tile._asdict()}
            part.result["tiles"].append(entry)
            if index in failed:
                entry["reason"] = failed[index]
                continue
            module.choose_tile = lambda *_, tile=tile, **__: tile
            _time_tile(entry, calls, first, timer, 1 if part.dry else ROUNDS)
            print(f"N {rows}, {tuple(tile)}: {_line(entry)}", flush=True)
            part.result["headlines"] = _best(part.result["tiles"])
            part.write()


def _compile_all(tiles: list[Any], dry: bool) -> dict[int, str]:
    """A process for each tile at once; the reasons of those that do not compile."""
    command = [sys.executable, __file__, "--json", "unused", *(["--dry"] if dry else []), "--compile"]
    pipe = subprocess.PIPE
    running = [subprocess.Popen([*command, str(i)], stderr=pipe, text=True) for i in range(len(tiles))]
    failed = {}
    for index, process in enumerate(running):
        _, errors = process.communicate()
        if process.returncode:
            failed[index] = (errors.strip().splitlines() or [f"exit {process.returncode}"])[-1][:200]
    return failed


def _time_tile(
    entry: dict[str, Any],
    calls: dict[str, Callable[[], dict[str, Tensor]]],
    first: dict[str, Tensor],
    timer: Timer,
    rounds: int,
) -> None:
    """A tile whose results are others than those of the first that was timed has a reason in place of times."""
    for name, run in calls.items():
        try:
            run()
            for key, value in run().items():
                expected = first.setdefault(f"{name}, {key}", value.detach())
                if not bool((value - expected).norm() <= DIFFERENCE * expected.norm()):
                    entry["reason"] = f"{name}: {key} is not that of the first tile"
                    return
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
    lines = []
    for rows in dict.fromkeys(entry["N"] for entry in entries):
        timed = [e for e in entries if e["N"] == rows and "reason" not in e]
        for name in ("store, forward", "store", "recompute"):
            if timed:
                best = min(timed, key=lambda e: e[name]["p50"])
                lines.append(f"N {rows}, {name}: {tuple(best['tile'].values())}, {best[name]['p50']:.3f} ms")
    return lines


if __name__ == "__main__":
    main()
