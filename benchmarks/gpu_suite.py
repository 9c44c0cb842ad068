"""Everything that wants a GPU, in one command of less than nine minutes; what was measured is kept if it is cut off.

    python benchmarks/gpu_suite.py [--out DIR] [--seconds 520] [--parts NAME ...] [--wheels DIR] [--dry]

Parts, each in a process of its own with a time limit (time that a part leaves goes to the later ones):

    ceilings      machine, versions, and the rates that no kernel can pass
    compile       every kernel, on all cores, into Triton's cache: what follows starts warm
    correctness   xlt-engine bench kernels --check: errors against fp64 at production shapes
    sweep         the stock products below the loss, and the tiles of its kernel
    kernels       xlt-engine bench kernels
    step          whole training and inference steps of all tasks against transformers' eager attention
    peers         the same against tuned and compiled peers
    tests         the tests that are marked gpu; graphs and conformance first
    run           xlt-engine run on real text below XLT_DATA, else the packaged demo, end to end
    deterministic what the same bits in every run cost a step

The package need not be installed. Results are gpu-*.json, gpu-tests.xml and gpu-log.txt in --out ($OUT, else
benchmarks/results); gpu-suite.json has the small parts whole, and is written after each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_process import BENCHMARKS, MERCY_SECONDS, Suite

TOTAL_SECONDS = 520.0
LEAST_SECONDS = 15.0
TEST_MERCY_SECONDS = 15.0
LOG_BYTES = 8 << 20
TEST_PROCESSES = 12
TESTS = (
    "tests/engine/training/test_graphs.py",
    "tests/kernels/fused/test_conformance.py",
    "tests/kernels",
    "tests/engine",
    "tests/benchmarks",
)
DRY_TESTS = ("tests/kernels/fused/test_dropout.py", "tests/engine/training/test_feed.py")
REAL_TEXT = "ner/wikineural/de/test.txt"
EAGER, LATER = ("--peer", "eager"), ("--peer", "tuned", "--peer", "liger", "--peer", "modernbert", "--peer", "packed")


@dataclass(frozen=True)
class Part:
    """`share` is the part's portion of the time that is left when it starts, against those of the parts after it.

    Lines come last; a part that measured nothing has none.
    """

    name: str
    share: float
    run: Callable[[Suite, float], dict[str, Any]]
    lines: Callable[[Suite], Iterator[str]]


def _ceilings(suite: Suite, seconds: float) -> dict[str, Any]:
    return suite.process(suite.script("ceilings.py", suite.small("ceilings")), seconds)


def _ceiling_lines(suite: Suite) -> Iterator[str]:
    result = suite.read(suite.small("ceilings"))
    if "ceilings" in result:
        top = result["ceilings"]
        name = result.get("device", {}).get("name", "cpu")
        yield f"{name}: {top['matmul_tflops']:.4g} TFLOP/s {top['dtype']}, {top['copy_gb_per_s']:.4g} GB/s copied"


def _compile(suite: Suite, seconds: float) -> dict[str, Any]:
    return suite.process(suite.script("warm.py", suite.small("compile")), seconds)


def _compile_lines(suite: Suite) -> Iterator[str]:
    result = suite.read(suite.small("compile"))
    if "skipped" in result:
        yield f"skipped: {result['skipped']}"
    jobs = result.get("jobs", [])
    if jobs:
        kernels = [kernel for job in jobs for kernel in job["kernels"]]
        spilled = sum(kernel["stack"] > 0 for kernel in kernels)
        yield f"{len(kernels)} kernels in {result['seconds']:.0f} s, {spilled} of them spill registers"
    yield from (f"FAILED {job['family']}, {job['dtype']}: {job['reason']}" for job in jobs if "reason" in job)


def _p50(value: Any) -> str:
    value = value["p50"] if isinstance(value, dict) else value
    return f"{value:.4g} ms" if isinstance(value, float) else str(value)


def _tests(suite: Suite, seconds: float) -> dict[str, Any]:
    """The warnings of another machine's libraries are no failures here."""
    options = ["-v", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"]
    options += ["--continue-on-collection-errors", "--durations=10"]
    if not suite.dry and find_spec("xdist") is not None:
        options += ["-n", str(min(TEST_PROCESSES, os.cpu_count() or 1))]
    xml = f"--junit-xml={suite.out / 'gpu-tests.xml'}"
    command = ["-P", "-m", "pytest", "-m", "gpu", *options, xml, *(DRY_TESTS if suite.dry else TESTS)]
    return suite.process(command, seconds, TEST_MERCY_SECONDS)


def _test_lines(suite: Suite) -> Iterator[str]:
    """Counts, and the names of what failed."""
    try:
        root = ElementTree.parse(suite.out / "gpu-tests.xml").getroot()
    except (OSError, ElementTree.ParseError):
        yield "no result: cut off, see gpu-log.txt"
        return
    cases = list(root.iter("testcase"))
    bad = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    yield f"{len(cases) - len(bad) - skipped} passed, {len(bad)} failed, {skipped} skipped"
    yield from (f"FAILED {c.get('classname')}::{c.get('name')}" for c in bad[:20])


def _bench(suite: Suite, seconds: float, name: str, *more: str) -> dict[str, Any]:
    """A process that loses the device is followed by another for the operations that it did not reach."""
    end = time.monotonic() + seconds
    file, rest = suite.out / name, suite.scratch / f"rest-{name}"
    options = [*(["--quick", "--device", "cpu"] if suite.dry else ["--device", "cuda"]), *more]
    done = suite.process([str(BENCHMARKS / "kernels.py"), "--json", str(file), *options], seconds)
    result = suite.read(name)
    left = end - time.monotonic()
    remaining = _not_reached(result) if result else []
    if not result.get("complete") and not done["timed_out"] and remaining and left > 2 * LEAST_SECONDS:
        chosen = [word for name in remaining for word in ("--op", name)]
        command = [str(BENCHMARKS / "kernels.py"), "--json", str(rest), *options, *chosen]
        done["again"] = suite.process(command, left)
        result["cases"] += suite.read(rest).get("cases", [])
        file.write_text(json.dumps(result, indent=1) + "\n")
    return done


def _correctness(suite: Suite, seconds: float) -> dict[str, Any]:
    return _bench(suite, seconds, "gpu-correctness.json", "--check")


def _correctness_lines(suite: Suite) -> Iterator[str]:
    """What is wrong, in full; else one line."""
    result = suite.read("gpu-correctness.json")
    cases = result.get("cases", [])
    bad = [case["headline"] for case in cases if "TOO LARGE" in case.get("headline", "")]
    failed = [
        f"{case['op']}, {case['name']}: {part['reason']}"
        for case in cases
        for part in [case, *(row for row in case["rows"] if row["own"])]
        if part.get("reason")
    ]
    if cases:
        yield f"{len(cases)} cases against fp64: {len(bad)} above a bound, {len(failed)} failed"
    yield from [*bad, *failed]
    if result and not result.get("complete"):
        yield f"cut off in {result.get('running')}"


def _kernels(suite: Suite, seconds: float) -> dict[str, Any]:
    return _bench(suite, seconds, "gpu-kernels.json")


def _not_reached(result: dict[str, Any]) -> list[str]:
    reached = {case["op"] for case in result["cases"]} | {str(result.get("running")).split(":")[0]}
    return [name for name in result.get("operations", []) if name not in reached]


def _kernel_lines(suite: Suite) -> Iterator[str]:
    result = suite.read("gpu-kernels.json")
    for case in result.get("cases", []):
        yield case["headline"]
        yield from (f"  {r['variant']}: {r['reason']}" for r in case["rows"] if r["reason"] and r["own"])
    if result and not result.get("complete"):
        yield f"cut off in {result.get('running')}"


def _steps(suite: Suite, seconds: float, file: Path, *options: str) -> dict[str, Any]:
    return suite.process(
        suite.step("--json", str(file), "--seconds", str(max(0.0, seconds - MERCY_SECONDS)), *options), seconds
    )


def _step(suite: Suite, seconds: float) -> dict[str, Any]:
    """One set of lengths, so that all tasks have a row before anything is compiled."""
    return _steps(suite, seconds, suite.out / "gpu-step.json", "--quick", *EAGER)


def _peers(suite: Suite, seconds: float) -> dict[str, Any]:
    more = ("--task", "btf") if suite.dry else ("--peer", "compiled")
    return _steps(suite, seconds, suite.small("peers"), *LATER, *more)


def _step_lines(suite: Suite, file: str | Path = "gpu-step.json") -> Iterator[str]:
    result = suite.read(file)
    yield from result.get("headlines", [])
    for task, entry in result.get("tasks", {}).items():
        yield from (f"{task}, {kind}: {whole['headline']}" for kind, whole in entry.get("pass", {}).items())
        failed = entry.get("failed", {}) | ({"all": entry["reason"]} if "reason" in entry else {})
        yield from (f"{task}, {name}: {why}" for name, why in failed.items())


def _peer_lines(suite: Suite) -> Iterator[str]:
    yield from _step_lines(suite, suite.small("peers"))


def _deterministic(suite: Suite, seconds: float) -> dict[str, Any]:
    options = ("--quick", "--alone", "--deterministic", "--task", "btf", "--task", "finetune")
    return _steps(suite, seconds, suite.small("deterministic"), *options)


def _deterministic_lines(suite: Suite) -> Iterator[str]:
    plain, equal = (suite.read(file).get("tasks", {}) for file in ("gpu-step.json", suite.small("deterministic")))
    for task, entry in equal.items():
        if "reason" in entry:
            yield f"{task}: {entry['reason']}"
        for lengths, rows in entry.get("rows", {}).items():
            before = plain.get(task, {}).get("rows", {}).get(lengths, {}).get("xlt-engine")
            if before:
                ratio = rows["xlt-engine"]["ms"]["p50"] / before["ms"]["p50"]
                yield f"{task}, {lengths}: {ratio:.3f} times the step without"


def _sweep(suite: Suite, seconds: float) -> dict[str, Any]:
    interpreter = {"XLT_KERNELS": "triton", "TRITON_INTERPRET": "1"} if suite.dry and find_spec("triton") else {}
    return suite.process(suite.script("sweep.py", suite.out / "gpu-sweep.json"), seconds, **interpreter)


def _sweep_lines(suite: Suite) -> Iterator[str]:
    result = suite.read("gpu-sweep.json")
    for probe, value in result.get("probes", {}).items():
        yield f"{probe}: {value.get('reason') or ', '.join(f'{k} {_p50(v)}' for k, v in value.items())}"
    yield from result.get("headlines", [])
    if "skipped" in result:
        yield f"skipped: {result['skipped']}"


def _run(suite: Suite, seconds: float) -> dict[str, Any]:
    """Seed 0 of a recipe by the command line, as a user has it; what was reached is in its summary and its events."""
    text = os.environ.get("XLT_DATA")
    recipe = "wikineural" if text and (Path(text) / REAL_TEXT).is_file() else "demo"
    folder = suite.scratch / "run"
    command = ["-m", "xlt_engine.cli", "run", recipe, "--seeds", "0", "--run-dir", str(folder)]
    command += ["--device", "cpu" if suite.dry else "cuda"]
    command += ["--stage", "pretrain", "--set", "pretrain.epochs=1"] if suite.dry else []
    done = suite.process(command, seconds)
    finished = {
        file.parent.relative_to(folder).as_posix(): json.loads(file.read_text())
        for file in sorted(folder.rglob("stage.json"))
    }
    result = {"recipe": recipe, "stages": finished, "summary": suite.read(folder / "summary.json")}
    suite.small("run").write_text(json.dumps(result) + "\n")
    return done


def _run_lines(suite: Suite) -> Iterator[str]:
    result = suite.read(suite.small("run"))
    stages, summary = result.get("stages", {}), result.get("summary", {})
    if not stages:
        return
    yield f"{result['recipe']}: {len(stages)} stages finished, {', '.join(stages)}"
    for row in summary.get("rows", []):
        if row["role"] == "target" and row["metric"] == summary["metric"]:
            yield f"{row['language']}, {row['label']}: {row['metric']} {row['value']:.1f} after {row['seconds']:.1f} s"


PARTS = (
    Part("ceilings", 20, _ceilings, _ceiling_lines),
    Part("compile", 60, _compile, _compile_lines),
    Part("correctness", 60, _correctness, _correctness_lines),
    Part("sweep", 60, _sweep, _sweep_lines),
    Part("kernels", 85, _kernels, _kernel_lines),
    Part("step", 60, _step, _step_lines),
    Part("peers", 55, _peers, _peer_lines),
    Part("tests", 60, _tests, _test_lines),
    Part("run", 40, _run, _run_lines),
    Part("deterministic", 20, _deterministic, _deterministic_lines),
)


def run(suite: Suite, parts: list[Part], seconds: float, commit: str | None) -> dict[str, Any]:
    """All parts in order; a part gets its share of what is left to the deadline."""
    deadline = time.monotonic() + seconds
    result: dict[str, Any] = {
        "benchmark": "gpu suite",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dry": suite.dry,
        "notes": suite.notes,
        "parts": [],
    }
    for index, part in enumerate(parts):
        left = deadline - time.monotonic()
        limit = left * part.share / sum(p.share for p in parts[index:])
        entry: dict[str, Any] = {"name": part.name, "limit": limit}
        result["parts"].append(entry)
        if left < LEAST_SECONDS and not suite.dry:
            entry["skipped"] = "no time left"
            continue
        print(f"{part.name}: at most {limit:.0f} s", flush=True)
        began = time.monotonic()
        try:
            entry |= part.run(suite, limit)
            entry["lines"] = list(part.lines(suite))
        except Exception as error:  # whatever a part left behind, the others go on
            entry = {"exit": None, "timed_out": False, "seconds": time.monotonic() - began} | entry
            entry["lines"] = [f"FAILED {type(error).__name__}: {error}"]
            result["parts"][-1] = entry
        if small := suite.read(suite.small(part.name)):
            entry["result"] = small
        (suite.out / "gpu-suite.json").write_text(json.dumps(result, indent=1) + "\n")
    result["seconds"] = seconds - (deadline - time.monotonic())
    (suite.out / "gpu-suite.json").write_text(json.dumps(result, indent=1) + "\n")
    _shorten(suite.log)
    return result


def _shorten(log: Path) -> None:
    data = log.read_bytes()
    if len(data) > LOG_BYTES:
        log.write_bytes(b"(the beginning was cut off)\n" + data[-LOG_BYTES:])


def show(result: dict[str, Any]) -> None:
    for note in result["notes"]:
        print(f"note: {note}")
    for part in result["parts"]:
        if "skipped" in part:
            print(f"\n{part['name']}: {part['skipped']}")
            continue
        end = "cut off" if part["timed_out"] else f"exit {part['exit']}"
        print(f"\n{part['name']}: {part['seconds']:.0f} of {part['limit']:.0f} s, {end}")
        for line in part["lines"]:
            print(f"  {line}")
    print(f"\n{result['seconds']:.0f} s in all", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("OUT") or BENCHMARKS / "results")
    parser.add_argument("--out", type=Path, default=default, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for everything together")
    parser.add_argument("--parts", nargs="+", choices=[p.name for p in PARTS], default=[p.name for p in PARTS])
    parser.add_argument("--wheels", type=Path, help="folder of .whl files of other libraries to compare with")
    parser.add_argument("--commit", help="recorded in the result, for a copy of the tree without its history")
    parser.add_argument("--dry", action="store_true", help="on the CPU at tiny shapes: everything but a GPU's kernels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xlt-gpu-") as scratch:
        suite = Suite(arguments, Path(scratch))
        chosen = [part for part in PARTS if part.name in arguments.parts]
        show(run(suite, chosen, arguments.seconds, arguments.commit))


if __name__ == "__main__":
    main()
