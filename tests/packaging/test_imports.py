"""Which room may import which, and what an import loads."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from xlt_engine.cli import COMMANDS as COMMAND_TABLE
from xlt_engine.cli import main_group

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "data", "model", "engine")


def allowed_by_design() -> dict[str, set[str]]:
    """Room -> rooms that it may import, from the table of docs/design.md."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    table = dict(re.findall(r"^\| `(\w+)(?:/|\.py)` \|[^|]*\| ([^|]*) \|$", text, re.M))
    return {room: set(re.findall(rf"`({'|'.join(ROOMS)})`", cell)) for room, cell in table.items()}


def python_files() -> list[Path]:
    return [ROOT / "__init__.py", ROOT / "cli.py", ROOT / "tasks.py", ROOT / "untrusted.py"] + [
        path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))
    ]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


COMMANDS = ROOT / "engine" / "commands"


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of all modules that a file imports, at any depth of its code, with the line."""
    package = ["xlt_engine", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            yield from ((".".join([*module, alias.name]), node.lineno) for alias in node.names)


def test_the_table_of_the_design_is_read() -> None:
    assert allowed_by_design() == {
        "kernels": set(),
        "data": set(),
        "model": {"kernels"},
        "engine": {"model", "data", "kernels"},
        "cli": {"engine"},
    }


def test_rooms_import_in_one_direction() -> None:
    allowed, wrong, crossings = allowed_by_design(), [], 0
    for path in python_files():
        room = room_of(path)
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] != "xlt_engine" or len(parts) < 2 or room == "__init__":
                continue
            other = parts[1]
            crossings += other in ROOMS and other != room
            if name.startswith("xlt_engine.engine.storage."):  # the ground, which knows none of the others
                continue
            if other == "cli" or (other in ROOMS and other != room and other not in allowed[room]):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert crossings > 30
    assert wrong == []


def test_commands_are_imported_by_cli_alone() -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for path in python_files()
        for name, _ in imports(path)
        if name.startswith("xlt_engine.engine.commands") and path.parent != COMMANDS
    }
    assert importers == {"cli.py"}


def test_rooms_import_each_other_relatively() -> None:
    absolute = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files()
        if room_of(path) in ROOMS
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.match(r"\s*(from|import) xlt_engine", line)
    ]
    assert absolute == []


def test_data_and_model_do_not_import_foreign_libraries() -> None:
    """`kernels` and `model` need torch alone (and safetensors for files); `data` numpy, tokenizers and torch.

    The multi-pattern matcher and the language identifier are the extra `corpus`; only the corpus builder asks for them,
    when it runs (`test_libraries_of_the_corpus_builder_are_not_needed`). pyarrow is the extra `datasets`, onnx and
    onnxruntime `onnx`, huggingface_hub `hub`, spaCy is in none; what needs them says so.
    """
    allowed = {
        "kernels": {"torch", "triton"},
        "model": {"torch", "safetensors"},
        "data": {"torch", "numpy", "tokenizers", "ahocorasick_rs", "py3langid", "pyarrow", "spacy"},
        "engine": {"torch", "numpy", "safetensors", "tqdm", "onnx", "onnxruntime", "huggingface_hub", "tensorboard"},
        "cli": {"click"},
        "__init__": set[str](),
        "tasks": set[str](),
        "untrusted": set[str](),
    }
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in python_files()
        for name, line in imports(path)
        if (top := name.split(".")[0]) not in sys.stdlib_module_names
        and top != "xlt_engine"
        and top not in (allowed["cli"] if path.parent == COMMANDS else allowed[room_of(path)])
    ]
    assert wrong == []


def test_libraries_of_the_corpus_builder_are_not_needed() -> None:
    code = (
        "import sys\nsys.modules.update(ahocorasick_rs=None, py3langid=None)\n"
        "import xlt_engine.data.corpus.title_links, xlt_engine.data.corpus.language_id\n"
        "from xlt_engine.engine import *\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "statement",
    [
        "import xlt_engine",
        "import xlt_engine.engine",
        "import xlt_engine.cli; xlt_engine.cli.main(['--version'])",
        "import xlt_engine.cli; xlt_engine.cli.main(['--help'])",
        "import xlt_engine.cli; xlt_engine.cli.main(['bench', 'kernels', '--help'])",
    ],
)
def test_light_import(statement: str) -> None:
    code = (
        "import atexit, sys\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'safetensors', 'triton', 'transformers'}\n"
        "atexit.register(lambda: sys.stderr.write('loaded: ' + ' '.join(sorted(heavy & set(sys.modules)))))\n"
        + statement
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "loaded: "


def test_the_table_of_commands_is_what_the_commands_say() -> None:
    """Every name is that of a command with a help; and every module of `engine/commands/` has its row."""
    for name in COMMAND_TABLE:
        command = main_group.get_command(click.Context(main_group), name)
        assert command.name == name
        assert command.help
    modules = {path.stem for path in COMMANDS.glob("*.py")} - {"__init__", "console", "options"}
    assert set(COMMAND_TABLE.values()) == modules


def test_import_changes_nothing() -> None:
    """No logging set up, no seed drawn, no environment variable set, no warning filter, no output."""
    code = (
        "import logging, os, random, sys, warnings, torch, numpy\n"
        "def state():\n"
        "    return (dict(os.environ), logging.root.handlers[:], logging.root.level, random.getstate(),\n"
        "            torch.get_rng_state().tolist(), str(numpy.random.get_state()), warnings.filters[:],\n"
        "            torch.get_num_threads(), torch.get_default_dtype())\n"
        "before = state()\n"
        "import xlt_engine.cli\nfrom xlt_engine.engine import *\n"
        "sys.exit(','.join(str(i) for i, (a, b) in enumerate(zip(before, state())) if a != b) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_of_a_room(room: str) -> None:
    """`__all__` is sorted, is what the room's `__init__` imports or defines, and every name says what it is."""
    module = importlib.import_module(f"xlt_engine.{room}")
    listed = list(module.__all__)
    for name in listed:
        getattr(module, name)  # a lazy one is defined from now on
    assert listed == sorted(set(listed))
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }
    assert set(listed) == public
    for name in listed:
        value = getattr(module, name)
        assert not isinstance(value, types.ModuleType), f"{name} is a module"
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        assert value.__module__.startswith("xlt_engine."), f"{name} is not ours"
        own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert own, f"{name} has no docstring"
        assert not own.startswith(f"{name}("), f"{name} has the docstring that dataclass makes"


@pytest.mark.parametrize("door", ["", *(room for room in ROOMS if room != "kernels")])
def test_lazy_names_of_a_door(door: str) -> None:
    """What the type checker sees, `__all__`, `dir()` and what is resolved agree; no module has a public name."""
    module = importlib.import_module(f"xlt_engine.{door}".rstrip("."))
    tree = ast.parse((ROOT / door / "__init__.py").read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
    lazy = {alias.name: node.module for node in imports for alias in node.names}
    assert set(lazy) <= set(module.__all__) <= set(dir(module))
    if door:
        assert sorted(lazy) == module.__all__
    assert not set(lazy) & {path.stem for path in (ROOT / door).iterdir()}
    for name in lazy:
        assert getattr(module, name) is vars(module)[name]
        assert vars(module)[name] is vars(importlib.import_module(f"{module.__name__}.{lazy[name]}"))[name]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert not [node for node in tree.body if getattr(node, "name", "") == "__getattr__"], "a typing error would be Any"
