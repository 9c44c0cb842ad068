"""benchmarks/gpu_suite.py to its end on a CPU, each part in a process that sees this tree's package."""

import argparse
import io
import json
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gpu_suite
import pytest

PARTS = (
    *("ceilings", "compile", "correctness", "sweep", "kernels"),
    *("step", "peers", "tests", "run", "deterministic"),
)
PATIENCE = 3000
"""Seconds: the suite stops its parts by the clock, which on a busy machine says nothing."""


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder of a dry run, its summary, and what it printed; test_bench.py and test_step_bench.py measure all."""
    out, printed = tmp_path_factory.mktemp("suite"), io.StringIO()
    given = ["--dry", "--out", str(out), "--commit", "abc", "--wheels", str(out), "--seconds", str(PATIENCE)]
    few = {"kernels.py": ("--op", "dropout", "--op", "votes"), "step.py": ("--task", "btf")}
    few["xlt_engine.cli"] = ("--set", "pretrain.epochs=0.1")
    whole = gpu_suite.Suite.process

    def process(suite: gpu_suite.Suite, command: list[str], *more: Any, **_: str) -> dict[str, Any]:
        """Without Triton's interpreter, which tests/kernels has."""
        words = [w for name, words in few.items() if any(c.endswith(name) for c in command) for w in words]
        return whole(suite, [*command, *words], *more)

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        for name in ("XLT_KERNELS", "TRITON_INTERPRET", "XLT_DATA"):
            patch.delenv(name, raising=False)
        patch.setattr(gpu_suite.Suite, "process", process)
        patch.setattr(sys, "argv", ["gpu_suite.py", *given])
        gpu_suite.main()
    return out, json.loads((out / "gpu-suite.json").read_text()), printed.getvalue()


def read(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / name).read_text())


def test_all_parts_run(dry: tuple[Path, dict[str, Any], str]) -> None:
    out, suite, printed = dry
    assert len(list(out.iterdir())) <= 8
    assert (suite["commit"], suite["dry"], suite["notes"]) == ("abc", True, [f"no wheels in {out}"])
    assert tuple(part["name"] for part in suite["parts"]) == PARTS
    log = (out / "gpu-log.txt").read_text()
    assert [(part["name"], part["exit"], part["timed_out"]) for part in suite["parts"]] == [
        (name, 0, False) for name in PARTS
    ], log
    assert all(part["lines"] for part in suite["parts"])
    assert all(f"\n{name}: " in printed for name in PARTS)
    assert sum(part["limit"] for part in suite["parts"][:1]) < PATIENCE / 20


def test_what_the_parts_measure(dry: tuple[Path, dict[str, Any], str]) -> None:
    out, suite, _ = dry
    parts = {part["name"]: part for part in suite["parts"]}
    assert parts["ceilings"]["result"]["ceilings"]["matmul_tflops"] > 0
    if find_spec("triton") is not None:
        (job,) = parts["compile"]["result"]["jobs"]
        assert job["kernels"][0]["operation"] == "dropout"
    assert "0 failed" in parts["tests"]["lines"][0]
    for name in ("gpu-correctness.json", "gpu-kernels.json"):
        result = read(out, name)
        assert result["complete"]
        assert {case["op"] for case in result["cases"]} == set(result["operations"])
        assert all(row["reason"] is None for case in result["cases"] for row in case["rows"])
        own = [row for case in result["cases"] for row in case["rows"] if row["own"]]
        assert all("bounds" in error for row in own for error in row["error"].values())
    assert parts["correctness"]["lines"][0].endswith("0 above a bound, 0 failed")
    sweep = read(out, "gpu-sweep.json")
    assert len(sweep["probes"]) == 2
    assert sweep.get("skipped") or all("reason" not in entry for entry in sweep["tiles"])
    assert parts["run"]["result"]["recipe"] == "demo"
    assert len(parts["run"]["result"]["stages"]) == 1


def test_the_steps_of_all_tasks(dry: tuple[Path, dict[str, Any], str]) -> None:
    out, suite, _ = dry
    parts = {part["name"]: part for part in suite["parts"]}
    step, peers = read(out, "gpu-step.json"), parts["peers"]["result"]
    assert set(step["tasks"]) == set(peers["tasks"]) == {"btf"}
    for result, theirs in ((step, "transformers, eager"), (peers, "transformers, SDPA, fused AdamW")):
        assert result["complete"]
        for task, entry in result["tasks"].items():
            assert entry.get("reason") is None, task
            assert set(entry["rows"]) == {"conll, random", "conll, sorted"}
            assert all({"xlt-engine", theirs} <= set(rows) for rows in entry["rows"].values())
            assert entry["difference_fp32"] < 1e-4
    equal = parts["deterministic"]["result"]
    assert (equal["deterministic"], step["deterministic"]) == (True, False)
    sides = {name for entry in equal["tasks"].values() for rows in entry["rows"].values() for name in rows}
    assert sides == {"xlt-engine"}
    assert len(parts["deterministic"]["lines"]) >= 2


def test_a_part_that_breaks_is_said_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(suite: gpu_suite.Suite, seconds: float) -> dict[str, Any]:
        (suite.small("first")).write_text('{"kept": 1}')
        raise ValueError("half a file")

    def fine(suite: gpu_suite.Suite, seconds: float) -> dict[str, Any]:
        assert json.loads((tmp_path / "out" / "gpu-suite.json").read_text())["parts"][0]["result"] == {"kept": 1}
        return {"exit": 0, "timed_out": False, "seconds": 1.0}

    options = argparse.Namespace(dry=True, out=tmp_path / "out", wheels=None)
    (tmp_path / "scratch").mkdir()
    suite = gpu_suite.Suite(options, tmp_path / "scratch")
    parts = [
        gpu_suite.Part("first", 1, broken, lambda s: iter(())),
        gpu_suite.Part("second", 3, fine, lambda s: iter("x")),
    ]
    result = gpu_suite.run(suite, parts, 100.0, None)
    assert [part["lines"] for part in result["parts"]] == [["FAILED ValueError: half a file"], ["x"]]
    assert result["parts"][0]["limit"] == pytest.approx(25, abs=1)
    gpu_suite.show(result)
