"""What no file of the package does: run what it reads, open a connection, print, set global state, hide a bug."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *(ROOT / name for name in ("__init__.py", "cli.py", "tasks.py", "untrusted.py")),
    *(path for room in ("kernels", "data", "model", "engine") for path in (ROOT / room).rglob("*.py")),
]
MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "code", "codeop", "pty",
    "yaml",
    "socket", "_socket", "socketserver", "ssl", "asyncio", "urllib", "http", "ftplib", "smtplib", "xmlrpc", "requests",
    "httpx", "aiohttp", "huggingface_hub", "webbrowser", "telnetlib", "imaplib", "poplib", "ctypes", "cffi",
}  # fmt: skip
CALLS = {"eval", "exec", "__import__", "execfile", "system", "popen", "execv", "execve", "execvp", "spawnv", "spawnl"}
CALLS |= {"torch.load", "torch.hub", "from_pretrained", "torch.compile", "torch.save", "torch.manual_seed"}
CALLS |= {"print", "input", "breakpoint", "basicConfig"}
BUILTINS = {"eval", "print", "input"}  # methods may have these names
TRUE = {"shell", "allow_pickle", "trust_remote_code"}


def faults(text: str) -> Iterator[str]:
    """What a file of Python does that it must not."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        else:
            names = []
        yield from (f"imports {name}" for name in names if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            method = called.rpartition(".")[2]
            if called in CALLS or method in CALLS - BUILTINS:
                yield f"calls {called}"
            if method == "compile" and not called.startswith("re."):
                yield f"calls {called}"
            for keyword in node.keywords:
                if keyword.arg in TRUE and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value):
                    yield f"gives {keyword.arg}"
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if caught in ("everything", "Exception", "BaseException") and not raises:
                yield f"catches {caught}"


ALLOWED = {
    ("engine/storage/run_folder.py", "imports socket"),  # for the name of the host alone
    ("engine/recipe/hub.py", "imports huggingface_hub"),  # where --download asks for it
    ("engine/bench/case.py", "calls torch.compile"),  # of code of its own, to compare with
    ("cli.py", "catches Exception"),  # the end of the program: a bug is printed with its traceback
}


def test_no_file_runs_what_it_reads() -> None:
    assert len(FILES) > 250
    files = ((path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in FILES)
    assert {(name, fault) for name, text in files for fault in faults(text)} == ALLOWED


def test_the_name_of_the_host_is_all_that_is_asked_of_sockets() -> None:
    text = (ROOT / "engine" / "storage" / "run_folder.py").read_text("utf-8")
    asked = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "socket"
    }
    assert asked == {"gethostname"}


@pytest.mark.parametrize(
    "planted",
    [
        "import pickle",
        "def late():\n    from pickle import loads",
        "import numpy.lib, socket",
        "from urllib.request import urlopen",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "np.load(path, allow_pickle=True)",
        "compile(text, 'x', 'exec')",
        "AutoModel.from_pretrained(name)",
        "print(name)",
        "torch.manual_seed(0)",
        "try:\n    call()\nexcept Exception:\n    pass",
        "try:\n    call()\nexcept:\n    pass",
    ],
)
def test_what_is_planted_is_found(planted: str) -> None:
    assert len(list(faults(planted))) == 1


def test_np_load_never_takes_the_default() -> None:
    """Which has been False for years; a reader of the file should not need to know."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert any(keyword.arg == "allow_pickle" for keyword in node.keywords), path
