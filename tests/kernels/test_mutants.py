"""The lists of planted faults fit the code that they change; `mutants/run.py` runs them."""

import ast
import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LISTS = sorted((HERE / "mutants").glob("*.toml"))


def _runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("xlt_mutants", HERE / "mutants" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = _runner()


@pytest.mark.parametrize("path", LISTS, ids=lambda p: p.stem)
def test_every_fault_can_be_planted_and_has_its_tests(path: Path) -> None:
    mutants = runner.read_list(path)
    for mutant in mutants:
        ast.parse(runner.apply(mutant, ROOT), mutant.name)
        assert mutant.why.strip()
        for node in mutant.tests:
            file, *names = node.split("::")
            assert (ROOT / file).is_file(), f"{mutant.name}: {file}"
            source = (ROOT / file).read_text("utf-8")
            assert all(f"def {name.split('[')[0]}(" in source for name in names), f"{mutant.name}: {node}"
    counts = Counter((m.file, m.find, m.replace) for m in mutants)
    assert [place for place, times in counts.items() if times > 1] == []


def test_every_file_of_kernels_has_mutants() -> None:
    changed = {mutant.file for mutant in runner.read_lists()}
    kernels = [path for path in (ROOT / "kernels" / "fused").rglob("*.py") if "@triton.jit" in path.read_text("utf-8")]
    assert len(kernels) > 1
    assert {str(path.relative_to(ROOT)) for path in kernels} - changed == set()


GOOD = {"file": "a.py", "find": "x", "replace": "y", "test": "tests/test_a.py::test_b tests/c.py", "why": "because"}


def _write(folder: Path, table: dict[str, str]) -> Path:
    path = folder / "op.toml"
    path.write_text("[[mutant]]\n" + "".join(f"{key} = '''{value}'''\n" for key, value in table.items()), "utf-8")
    return path


def test_a_list_is_read(tmp_path: Path) -> None:
    (mutant,) = runner.read_list(_write(tmp_path, GOOD | {"k": "not slow", "raises": "IndexError"}))
    assert (mutant.name, mutant.tests, mutant.raises) == (
        "op 1",
        ("tests/test_a.py::test_b", "tests/c.py"),
        ("IndexError",),
    )
    assert mutant.selection == (mutant.tests, "not slow", "triton")
    with pytest.raises(ValueError, match=r"no list other; there are op$"):
        runner.read_lists("other", tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD | {"tests": "x"}, "unknown or missing: tests"),
        ({k: v for k, v in GOOD.items() if k != "why"}, "unknown or missing: why"),
        (GOOD | {"env": "gpu"}, "env must be one of"),
    ],
)
def test_a_malformed_list_is_refused(table: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        runner.read_list(_write(tmp_path, table))


@pytest.mark.parametrize(("text", "found"), [("a = 1", 0), ("x = x", 2)])
def test_the_text_must_occur_once(text: str, found: int, tmp_path: Path) -> None:
    (mutant,) = runner.read_list(_write(tmp_path, GOOD))
    (tmp_path / "a.py").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=f"find occurs {found} times"):
        runner.apply(mutant, tmp_path)


SKIPPED, PASSED = "<testcase><skipped/></testcase>", "<testcase/>"


def _failure(message: str, tag: str = "failure") -> str:
    return f'<testcase><{tag} message="{message}"/></testcase>'


@pytest.mark.parametrize(
    ("code", "cases", "verdict"),
    [
        (0, PASSED + SKIPPED, "passed"),
        (0, SKIPPED, "only skipped"),
        (1, PASSED + _failure("AssertionError: rows: relative error"), "failed"),
        (1, _failure("assert 1 == 2"), "failed"),
        (1, _failure("torch.testing._internal.optests.generate_tests.OpCheckError: opcheck(op, ...)"), "failed"),
        (1, _failure("Failed: DID NOT RAISE ValueError"), "failed"),
        (1, _failure("IndexError: too far"), "failed"),
        (1, _failure("NameError: name 'rowz' is not defined"), "crashed"),
        (1, _failure("AssertionError: in a fixture", "error"), "broken"),
        (2, _failure("collection failure", "error"), "broken"),
        (5, "", "broken"),
    ],
)
def test_what_counts_as_caught(code: int, cases: str, verdict: str, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>", "utf-8")
    assert runner.judge(code, report, ("IndexError",))[0] == verdict
