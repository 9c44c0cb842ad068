"""Plants each fault of the lists beside this file in a copy of the tree, and expects the tests to go red.

    python tests/kernels/mutants/run.py [--op NAME] [-j N] [--python PATH]

A list is a TOML file, `<operation>.toml`, of [[mutant]] tables:

    file     what to change, from the root: "kernels/fused/votes.py"
    find     text that occurs in it exactly once
    replace  what stands there instead
    test     pytest node or nodes that must fail, from the root
    k        expression for pytest -k (optional)
    env      "triton" (default): the kernels, on Triton's interpreter; "reference": plain torch
    raises   names of exceptions by which the fault may show, besides an assertion (optional)
    why      what a user would suffer from the fault

First the named tests run once on the tree as it is. A mutant is caught when a test fails by an assertion; a crash, a
fault that does not compile or import, a time-out, or tests that only skip do not count. Exits with 1 when one survives,
with 2 when a list is wrong or the tests fail without a fault.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
ROOMS = ("kernels", "data", "model", "engine")
REQUIRED = ("file", "find", "replace", "test", "why")
OPTIONAL = ("k", "env", "raises")
ENVIRONMENTS = {
    "triton": {"XLT_KERNELS": "triton", "TRITON_INTERPRET": "1"},
    "reference": {"XLT_KERNELS": "reference", "TRITON_INTERPRET": "0"},
}
# How a test says that a result is wrong: assert, pytest.raises and pytest.fail, torch.library.opcheck, gradcheck.
VERDICTS = ("AssertionError", "assert", "Failed", "OpCheckError", "GradcheckError")
BASELINE_SECONDS = 900.0


class Mutant(NamedTuple):
    """One fault: see the keys above."""

    operation: str
    number: int
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    k: str
    env: str
    raises: tuple[str, ...]
    why: str

    @property
    def name(self) -> str:
        return f"{self.operation} {self.number}"

    @property
    def selection(self) -> Selection:
        return Selection(self.tests, self.k, self.env)


class Selection(NamedTuple):
    """Which tests to run, and on which path."""

    tests: tuple[str, ...]
    k: str
    env: str


class Outcome(NamedTuple):
    """What the tests said: "passed", "failed" (by an assertion), or what else went wrong."""

    verdict: str
    detail: str
    seconds: float


def read_list(path: Path) -> list[Mutant]:
    """The mutants of one file.

    Raises:
        ValueError: a key is missing, unknown or of the wrong type.
    """
    tables = tomllib.loads(path.read_text("utf-8"))
    if set(tables) != {"mutant"} or not tables["mutant"]:
        raise ValueError(f"{path.name}: must hold [[mutant]] tables and nothing else")
    return [_mutant(path.stem, number, table) for number, table in enumerate(tables["mutant"], 1)]


def _mutant(operation: str, number: int, table: dict[str, Any]) -> Mutant:
    where = f"{operation}.toml, mutant {number}"
    if wrong := [key for key in table if key not in REQUIRED + OPTIONAL] + [k for k in REQUIRED if k not in table]:
        raise ValueError(f"{where}: unknown or missing: {', '.join(wrong)}")
    texts = {key: _texts(where, key, table.get(key, [])) for key in ("test", "raises")}
    for key in {*REQUIRED, *OPTIONAL} - set(texts):
        if not isinstance(table.get(key, ""), str):
            raise ValueError(f"{where}: {key} must be a string")
    env = table.get("env", "triton")
    if env not in ENVIRONMENTS:
        raise ValueError(f"{where}: env must be one of {', '.join(ENVIRONMENTS)}, got {env!r}")
    rest = (table.get("k", ""), env, texts["raises"], table["why"])
    return Mutant(operation, number, table["file"], table["find"], table["replace"], texts["test"], *rest)


def _texts(where: str, key: str, value: object) -> tuple[str, ...]:
    """A list of strings, or one string with white space between them."""
    parts = value.split() if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{where}: {key} must be a string or a list of strings")
    return tuple(parts)


def read_lists(operation: str | None = None, folder: Path = HERE) -> list[Mutant]:
    """The mutants of one operation, or of all.

    Raises:
        ValueError: there is no such list, or one is malformed.
    """
    paths = sorted(folder.glob("*.toml"))
    chosen = [path for path in paths if operation in (None, path.stem)]
    if not chosen:
        raise ValueError(f"no list {operation}; there are {', '.join(path.stem for path in paths) or 'none'}")
    return [mutant for path in chosen for mutant in read_list(path)]


def apply(mutant: Mutant, root: Path) -> str:
    """The file's text with the fault in it.

    Raises:
        ValueError: the text to replace does not occur exactly once, or is not changed.
    """
    text = (root / mutant.file).read_text("utf-8")
    if (found := text.count(mutant.find)) != 1:
        raise ValueError(f"{mutant.name}: find occurs {found} times in {mutant.file}, must be once:\n{mutant.find}")
    if mutant.find == mutant.replace:
        raise ValueError(f"{mutant.name}: replace is what stood there")
    return text.replace(mutant.find, mutant.replace)


def copy_tree(folder: Path) -> Path:
    """A copy of package and kernel tests; `folder/path` makes it importable as `xlt_engine`."""
    tree = folder / "source"
    tree.mkdir()
    for file in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
        shutil.copyfile(file, tree / file.name)
    for name in (*ROOMS, "tests/kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    (folder / "path").mkdir()
    (folder / "path" / "xlt_engine").symlink_to(tree, target_is_directory=True)
    return tree


def run_tests(selection: Selection, mutant: Mutant | None, python: str, seconds: float) -> Outcome:
    """Run tests in a fresh copy, with a fault or without."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="xlt-mutant-") as name:
        folder = Path(name)
        tree = copy_tree(folder)
        if mutant is not None:
            (tree / mutant.file).write_text(apply(mutant, tree), "utf-8")
        report = folder / "report.xml"
        # -P: the root of the tree must not be on the path, where `kernels` could be another package.
        command = [python, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += [*selection.tests, *(["-k", selection.k] if selection.k else [])]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        path = {"PYTHONPATH": str(folder / "path"), "PYTHONDONTWRITEBYTECODE": "1"}
        environment = os.environ | threads | path | ENVIRONMENTS[selection.env]
        try:
            done = subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome("time-out", f"after {seconds:.0f} s", time.monotonic() - started)
        verdict, detail = judge(done.returncode, report, () if mutant is None else mutant.raises)
        if not detail and verdict != "passed":
            detail = (done.stdout + done.stderr)[-500:]
    return Outcome(verdict, detail, time.monotonic() - started)


def judge(code: int, report: Path, raises: Iterable[str]) -> tuple[str, str]:
    """What pytest's exit code and report mean, and the first line of the failure."""
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    if code == 0:
        ran = [case for case in cases if case.find("skipped") is None]
        return ("passed", "") if ran else ("only skipped", "no test ran")
    failures = [message(node) for case in cases for node in case.findall("failure")]
    errors = [message(node) for case in cases for node in case.findall("error")]
    if code != 1 or errors or not failures:
        return "broken", "; ".join([*errors, *failures])
    kind = failures[0].split(":")[0].split()[0].rsplit(".", 1)[-1]
    if kind in VERDICTS or kind in raises:
        return "failed", failures[0]
    return "crashed", failures[0]


def message(node: ElementTree.Element) -> str:
    """The first line of what a report says about a failure."""
    lines = (node.get("message") or node.text or "").strip().splitlines()
    return lines[0][:160] if lines else "?"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def run_all(mutants: list[Mutant], python: str, jobs: int) -> int:
    """Baseline, then the mutants; the exit code."""
    selections = sorted({mutant.selection for mutant in mutants})
    with ThreadPoolExecutor(jobs) as pool:
        say(f"{len(mutants)} mutants; first their {len(selections)} selections of tests without a fault")
        normal = dict(
            zip(selections, pool.map(lambda s: run_tests(s, None, python, BASELINE_SECONDS), selections), strict=True)
        )
        bad = {selection: outcome for selection, outcome in normal.items() if outcome.verdict != "passed"}
        for selection, outcome in bad.items():
            say(f"without a fault, {' '.join(selection.tests)} -k {selection.k!r}: {outcome.verdict}: {outcome.detail}")
        if bad:
            return 2
        limits = {selection: 60 + 5 * outcome.seconds for selection, outcome in normal.items()}
        outcomes = pool.map(lambda m: run_tests(m.selection, m, python, limits[m.selection]), mutants)
        survivors = 0
        for mutant, outcome in zip(mutants, outcomes, strict=True):
            caught = outcome.verdict == "failed"
            survivors += not caught
            say(f"{'caught' if caught else 'NOT CAUGHT'}  {mutant.name:28} {outcome.seconds:5.1f} s  {mutant.why}")
            if not caught:
                say(f"    {mutant.file}: {outcome.verdict}: {outcome.detail}")
    say(f"{len(mutants) - survivors} of {len(mutants)} mutants caught")
    return 1 if survivors else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Plant faults in the kernels and expect the tests to find them.")
    parser.add_argument("--op", metavar="NAME", help="one list, by its name without .toml; all by default")
    parser.add_argument("-j", dest="jobs", metavar="N", type=int, default=1, help="how many at a time")
    parser.add_argument("--python", metavar="PATH", default=sys.executable, help="interpreter that runs the tests")
    options = parser.parse_args(arguments)
    try:
        mutants = read_lists(options.op)
        for mutant in mutants:
            apply(mutant, ROOT)
    except (OSError, ValueError) as error:
        say(f"error: {error}")
        return 2
    return run_all(mutants, options.python, max(1, options.jobs))


if __name__ == "__main__":
    sys.exit(main())
