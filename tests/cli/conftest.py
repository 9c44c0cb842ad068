"""The command line in this process, and a run of a few seconds that the tests share."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

EN = ["{p} lives in {l}", "today {p} saw {l}", "the city of {l} is old"]
DE = ["{p} wohnt in {l}", "heute sah {p} {l}", "die Stadt {l} ist alt"]
PEOPLE, PLACES = ["Anna", "Berta", "Carl", "Dora", "Emil"], ["Paris", "London", "Berlin", "Oslo"]

RECIPE = """
name = "tiny"
task = "ner"
device = "cpu"
max_length = 16
pretrain.epochs = 1
btf.epochs = 1
finetune = {epochs = 15, batch_size = 8, lr = 2e-2}
training = {freeze_embeddings = false, freeze_layers = 0}
selftrain.rounds = 1
selftrain.soft = {epochs = 8, batch_size = 8, lr = 2e-2}
selftrain.hard = {epochs = 1, batch_size = 8, lr = 1e-3}
selftrain.alpha.rule = "fixed:0.2"
arms.baseline = false
[model.new]
vocab_size = 120
hidden_size = 16
num_layers = 1
num_heads = 2
intermediate_size = 32
[source]
language = "en"
train = "train.conll"
test = "test.en.conll"
general = ["general.en.txt"]
[[targets]]
language = "de"
unlabelled = ["de.txt"]
test = "test.de.conll"
general = ["general.de.txt"]
"""


@dataclass(frozen=True)
class Answer:
    """What a command returned."""

    code: int
    out: str
    err: str


def call(*arguments: str | Path, data: bytes = b"") -> Answer:
    """`xlt-engine ARGUMENTS` in this process, with `data` as its standard input."""
    from xlt_engine.cli import main

    streams = sys.stdin, sys.stdout, sys.stderr
    handlers = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    sys.stdout, sys.stderr = out, err
    try:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in arguments])
        texts = []
        for stream in (out, err):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        for number, handler in handlers.items():
            signal.signal(number, handler)
    code = caught.value.code
    assert isinstance(code, int)
    return Answer(code, *texts)


def start(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """`xlt-engine ARGUMENTS` in a process of its own, on one thread."""
    program = "from xlt_engine.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def _sentence(templates: list[str], number: int) -> list[tuple[str, str]]:
    names = {"{p}": (PEOPLE[number % 5], "B-PER"), "{l}": (PLACES[number % 4], "B-LOC")}
    return [names.get(word, (word, "O")) for word in templates[number % 3].split()]


def _conll(templates: list[str], numbers: range) -> str:
    return "\n".join("".join(f"{w} {t}\n" for w, t in _sentence(templates, n)) for n in numbers)


def _text(templates: list[str], numbers: range) -> str:
    return "".join(" ".join(w for w, _ in _sentence(templates, n)) + "\n" for n in numbers)


def write_files(folder: Path) -> Path:
    """The recipe `tiny.toml` with its data."""
    folder.mkdir(exist_ok=True)
    contents = {
        "tiny.toml": RECIPE,
        "train.conll": _conll(EN, range(30)),
        "test.en.conll": _conll(EN, range(30, 40)),
        "test.de.conll": _conll(DE, range(30, 40)),
        "de.txt": _text(DE, range(30)),
        "general.en.txt": _text(EN, range(40, 60)),
        "general.de.txt": _text(DE, range(40, 60)),
    }
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Finished:
    """A run that was made by the command line, and what it printed."""

    files: Path
    folder: Path
    answer: Answer

    @property
    def model(self) -> Path:
        return self.folder / "seed-0" / "de" / "hard1"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    import torch

    torch.set_num_threads(1)
    files = write_files(tmp_path_factory.mktemp("files"))
    folder = files / "run"
    return Finished(files, folder, call("run", files / "tiny.toml", "--run-dir", folder))


@pytest.fixture(scope="session")
def cli() -> Callable[..., Answer]:
    return call


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        started.append(start(*arguments, **environment))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path / "files")
