"""Everything that wants a GPU, in one command of less than nine minutes; what was measured is kept if it is cut off.

    python benchmarks/gpu_suite.py [--out DIR] [--seconds 520] [--parts NAME ...] [--wheels DIR] [--dry]

Parts, each in a process of its own with a time limit (time that a part leaves goes to the later ones):

    environment   machine, versions, measured ceilings, and probes of the libraries below
    tests         the tests that are marked gpu
    kernels       xlt-engine bench kernels
    step          whole training and inference steps against transformers
    deterministic what the same bits in every run cost a step
    sweep         tiles of the loss kernel

The package need not be installed. Results are gpu-*.json, gpu-tests.xml and gpu-log.txt in --out ($OUT, else
benchmarks/results).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
TOTAL_SECONDS = 520.0
LEAST_SECONDS = 15.0
MERCY_SECONDS = 8.0
TEST_MERCY_SECONDS = 15.0
LOG_BYTES = 8 << 20
TEST_PROCESSES = 12
TESTS = ("tests/kernels", "tests/engine", "tests/benchmarks")
DRY_TESTS = ("tests/kernels/fused/test_dropout.py", "tests/engine/training/test_feed.py")


@dataclass(frozen=True)
class Part:
    """`share` is the part's portion of the time that is left when it starts, against those of the parts after it."""

    name: str
    share: float
    run: Callable[[Suite, float], dict[str, Any]]
    lines: Callable[[Suite], Iterator[str]]


class Suite:
    """Where results go, and how a part's process is run."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path) -> None:
        self.dry: bool = arguments.dry
        self.scratch = scratch
        self.out: Path = arguments.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = self.out / "gpu-log.txt"
        self.log.write_bytes(b"")
        (scratch / "xlt_engine").symlink_to(ROOT, target_is_directory=True)
        paths = [str(scratch), os.environ.get("PYTHONPATH", "")]
        self.notes: list[str] = []
        if arguments.wheels is not None:
            self._install(arguments.wheels, scratch / "site")
            paths.insert(1, str(scratch / "site"))
        path = os.pathsep.join(p for p in paths if p)
        self.environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        if self.dry:
            self.environment["OMP_NUM_THREADS"] = "1"  # tiny tensors: more threads would only wait for each other

    def _install(self, wheels: Path, target: Path) -> None:
        found = sorted(str(p) for p in wheels.glob("*.whl"))
        if not found:
            self.notes.append(f"no wheels in {wheels}")
            return
        options = ["-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--target", str(target)]
        command = [sys.executable, "-m", "pip", "install", *options, *found]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            self.notes.append(f"the wheels in {wheels} cannot be installed: {done.stderr.strip()[-300:]}")

    def process(
        self, command: list[str], seconds: float, mercy: float = MERCY_SECONDS, **environment: str
    ) -> dict[str, Any]:
        """Run Python with these arguments; after `seconds` it is asked to stop, and then made to, with its children."""
        begin, timed_out = time.monotonic(), False
        with self.log.open("ab") as log:
            log.write(f"\n== {' '.join(command)}\n".encode())
            log.flush()
            running = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                running.wait(max(1.0, seconds - mercy))
            except subprocess.TimeoutExpired:
                timed_out = True
                running.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    running.wait(mercy)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)  # compilers and test workers that were left
                running.wait()
        return {"exit": running.returncode, "timed_out": timed_out, "seconds": time.monotonic() - begin}

    def read(self, name: str | Path) -> dict[str, Any]:
        """A JSON result, of --out if its path is relative; empty where the part did not get so far."""
        with suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((self.out / name).read_text())
            return found
        return {}

    def script(self, name: str, *arguments: str) -> list[str]:
        return [str(BENCHMARKS / name), *arguments, *(["--dry"] if self.dry else [])]

    def step(self, *arguments: str) -> list[str]:
        """`step.py`, dry with a tiny model."""
        where = ["--quick", "--device", "cpu"] if self.dry else ["--device", "cuda"]
        return [str(BENCHMARKS / "step.py"), *where, *arguments]


def _environment(suite: Suite, seconds: float) -> dict[str, Any]:
    file = str(suite.out / "gpu-environment.json")
    return suite.process(suite.script("gpu_parts.py", "environment", "--json", file), seconds)


def _environment_lines(suite: Suite) -> Iterator[str]:
    found = suite.read("gpu-environment.json")
    if "ceilings" in found:
        top = found["ceilings"]
        name = found.get("device", {}).get("name", "cpu")
        yield f"{name}: {top['matmul_tflops']:.4g} TFLOP/s {top['dtype']}, {top['copy_gb_per_s']:.4g} GB/s copied"
    for probe, value in found.get("probes", {}).items():
        yield f"{probe}: {value.get('reason') or ', '.join(f'{k} {_p50(v)}' for k, v in value.items() if k != 'n')}"


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


def _kernels(suite: Suite, seconds: float) -> dict[str, Any]:
    """A process that loses the device is followed by another for the operations that it did not reach."""
    end = time.monotonic() + seconds
    file, rest = suite.out / "gpu-kernels.json", suite.scratch / "gpu-kernels-rest.json"
    options = ["--quick", "--device", "cpu"] if suite.dry else ["--device", "cuda"]
    done = suite.process([str(BENCHMARKS / "kernels.py"), "--json", str(file), *options], seconds)
    result = suite.read(file.name)
    left = end - time.monotonic()
    remaining = _not_reached(result) if result else []
    if not result.get("complete") and not done["timed_out"] and remaining and left > 2 * LEAST_SECONDS:
        chosen = [word for name in remaining for word in ("--op", name)]
        command = [str(BENCHMARKS / "kernels.py"), "--json", str(rest), *options, *chosen]
        done["again"] = suite.process(command, left)
        result["cases"] += suite.read(rest).get("cases", [])
        file.write_text(json.dumps(result, indent=1) + "\n")
    return done


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


def _step(suite: Suite, seconds: float) -> dict[str, Any]:
    arguments = ("--json", str(suite.out / "gpu-step.json"), "--seconds", str(seconds - MERCY_SECONDS))
    return suite.process(suite.step(*arguments), seconds)


def _step_lines(suite: Suite) -> Iterator[str]:
    result = suite.read("gpu-step.json")
    yield from result.get("headlines", [])
    for task, entry in result.get("tasks", {}).items():
        failed = entry.get("failed", {}) | ({"all": entry["reason"]} if "reason" in entry else {})
        yield from (f"{task}, {name}: {why}" for name, why in failed.items())


def _deterministic(suite: Suite, seconds: float) -> dict[str, Any]:
    arguments = ["--json", str(suite.out / "gpu-deterministic.json"), "--seconds", str(seconds - MERCY_SECONDS)]
    arguments += ["--alone", "--deterministic", "--task", "btf", "--task", "finetune"]
    return suite.process(suite.step(*arguments), seconds)


def _deterministic_lines(suite: Suite) -> Iterator[str]:
    plain, equal = (suite.read(f"gpu-{name}.json").get("tasks", {}) for name in ("step", "deterministic"))
    for task, entry in equal.items():
        if "reason" in entry:
            yield f"{task}: {entry['reason']}"
        for lengths, rows in entry.get("rows", {}).items():
            before = plain.get(task, {}).get("rows", {}).get(lengths, {}).get("xlt-engine")
            if before:
                ratio = rows["xlt-engine"]["ms"]["p50"] / before["ms"]["p50"]
                yield f"{task}, {lengths}: {ratio:.3f} times the step without"


def _sweep(suite: Suite, seconds: float) -> dict[str, Any]:
    file = str(suite.out / "gpu-sweep.json")
    interpreter = {"XLT_KERNELS": "triton", "TRITON_INTERPRET": "1"} if suite.dry and find_spec("triton") else {}
    return suite.process(suite.script("gpu_parts.py", "sweep", "--json", file), seconds, **interpreter)


def _sweep_lines(suite: Suite) -> Iterator[str]:
    result = suite.read("gpu-sweep.json")
    yield from result.get("headlines", [])
    if "skipped" in result:
        yield f"skipped: {result['skipped']}"


PARTS = (
    Part("environment", 40, _environment, _environment_lines),
    Part("tests", 135, _tests, _test_lines),
    Part("kernels", 170, _kernels, _kernel_lines),
    Part("step", 105, _step, _step_lines),
    Part("deterministic", 25, _deterministic, _deterministic_lines),
    Part("sweep", 45, _sweep, _sweep_lines),
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
        if limit < LEAST_SECONDS and not suite.dry:
            entry["skipped"] = "no time left"
            continue
        print(f"{part.name}: at most {limit:.0f} s", flush=True)
        entry |= part.run(suite, limit)
        entry["lines"] = list(part.lines(suite))
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
