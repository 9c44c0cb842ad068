"""Sizes of files and functions, and what library code never does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "data", "model", "engine")
MAX_FILE, MAX_FUNCTION = 400, 60


def library_files() -> list[Path]:
    root = [ROOT / "__init__.py", ROOT / "cli.py", ROOT / "tasks.py", ROOT / "untrusted.py"]
    return [*root, *(p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py")))]


def files_with_budget() -> list[Path]:
    extra = [p for folder in ("benchmarks", "examples") for p in sorted((ROOT / folder).rglob("*.py"))]
    return [*library_files(), ROOT / "setup.py", *extra]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def test_files_are_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in files_with_budget()}
    assert len(lengths) > 40
    assert {name: n for name, n in lengths.items() if n > MAX_FILE} == {}


def test_functions_are_short() -> None:
    """Counted without decorators, arguments and docstring: a kernel's arguments take a line each, with their shapes."""
    found = {}
    for path in files_with_budget():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                first = body[0].lineno if body else node.lineno
                found[f"{where(path, node)} {node.name}"] = (node.end_lineno or node.lineno) - first + 1
    assert len(found) > 300
    assert {name: n for name, n in found.items() if n > MAX_FUNCTION} == {}


def names(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Dotted names that are imported, called or read."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node), node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield f"{node.func.id}()", node


FORBIDDEN = ("pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "requests", "urllib", "http", "socketserver")
CALLS = ("print()", "eval()", "exec()", "breakpoint()", "input()")


@pytest.mark.parametrize("path", library_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_library_code_has_no_pickle_no_network_no_print(path: Path) -> None:
    assert [
        f"{where(path, node)}: {name}"
        for name, node in names(path)
        if name in CALLS
        or name.split(".")[0] in FORBIDDEN
        or name in ("torch.load", "torch.save", "torch.manual_seed", "logging.basicConfig")
        or ("allow_pickle" in name)
    ] == []


@pytest.mark.parametrize("path", library_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_broad_except(path: Path) -> None:
    """`cli.main` is the one place that catches everything; `except BaseException` must raise again."""
    wrong = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = [ast.unparse(node.type)] if node.type is not None else [""]
        raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        broad = {"", "Exception", "BaseException"} & set(caught)
        if broad and not raises and path.name != "cli.py":
            wrong.append(where(path, node))
    assert wrong == []
    if path.name == "cli.py":
        assert path.read_text("utf-8").count("except Exception") == 1


def test_numpy_never_unpickles() -> None:
    """`np.load` says allow_pickle=False each time: the default has changed before."""
    loads = [
        (where(path, node), node)
        for path in library_files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load")
    ]
    for place, call in loads:
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        assert given.get("allow_pickle") == "False", place
    assert loads
