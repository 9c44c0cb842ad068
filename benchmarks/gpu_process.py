"""How `gpu_suite.py` runs its parts: a process of its own for each, with a time limit."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
MERCY_SECONDS = 8.0


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
                running.wait(seconds - min(mercy, seconds / 4))
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
            content: dict[str, Any] = json.loads((self.out / name).read_text())
            return content
        return {}

    def small(self, name: str) -> Path:
        """Where a part leaves what goes into gpu-suite.json."""
        return self.scratch / f"{name}.json"

    def script(self, name: str, file: Path) -> list[str]:
        """A script of `gpu/`."""
        return [str(BENCHMARKS / "gpu" / name), "--json", str(file), *(["--dry"] if self.dry else [])]

    def step(self, *arguments: str) -> list[str]:
        """`step.py`, dry with a tiny model."""
        where = ["--quick", "--device", "cpu"] if self.dry else ["--device", "cuda"]
        return [str(BENCHMARKS / "step.py"), *where, *arguments]
