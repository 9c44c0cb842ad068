"""What reaches a terminal: no control characters of files, paths, labels and words."""

import ast
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xlt_engine.engine.storage.run_warning import RunWarning
from xlt_engine.engine.training.progress import ConsoleProgress
from xlt_engine.untrusted import printable

ROOT = Path(__file__).resolve().parents[2]
EVIL = "\x1b]0;owned\x07\x9b31m\x7f\u202egpj\u2066.exe\r"
RAW = {*EVIL} - {*"]0;ownedgpj.exe31m"}


def clean(text: str) -> bool:
    return not RAW & set(text)


def test_printable() -> None:
    every = "".join(map(chr, range(0x3000))) + "\ud800\udfff"
    shown = printable(every)
    kept = {chr(c) for c in (*range(32, 127), *range(0xA0, 0x3000), 9, 10)}
    turned = {chr(c) for c in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
    assert set(shown) == kept - turned
    assert json.loads(printable(json.dumps([EVIL], ensure_ascii=False))) == [EVIL]
    assert printable("Ünïcode العربية 漢字 \u200f\t\n") == "Ünïcode العربية 漢字 \u200f\t\n"


def test_errors_and_results_of_commands(cli: Any, tmp_path: Path) -> None:
    for words in (["check", f"{EVIL}.toml"], ["info", str(tmp_path / EVIL)], ["run", f"--{EVIL}"], [EVIL]):
        done = cli(*words)
        assert done.code != 0
        assert clean(done.out + done.err)
        assert "]0;owned" in done.out + done.err
    (tmp_path / "en.tsv").write_text(f"text\tlabel\na\t{EVIL[:-1]}\n", "utf-8")
    (tmp_path / "x.toml").write_text(
        'task = "classification"\nlabels = ["x"]\n[model.new]\n[source]\nlanguage = "en"\ntrain = "en.tsv"\n'
        '[[targets]]\nlanguage = "de"\nunlabelled = ["en.tsv"]\n', "utf-8",
    )  # fmt: skip
    done = cli("check", str(tmp_path / "x.toml"))
    assert clean(done.out + done.err)
    assert "owned" in done.out + done.err


def test_progress() -> None:
    stream = io.StringIO()
    progress = ConsoleProgress(stream)
    progress.note(EVIL)
    progress.warning(RunWarning("raw-text", EVIL, {}))
    progress.begin(EVIL, 3, 0)
    progress.end(EVIL, EVIL)
    progress.begin_reading(EVIL, 3)
    assert clean(stream.getvalue())
    assert stream.getvalue().count("owned") == 6


def test_predictions_are_exact_in_a_file_and_harmless_on_a_terminal() -> None:
    code = (
        "from xlt_engine.engine.prediction.output_formats import out_files\n"
        f"with out_files(['-']) as files: files.emit[0]({EVIL!r} + 'end\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=300)
    assert done.stdout.decode() == EVIL + "end\n"
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs)
    assert process.wait(timeout=300) == 0
    said = os.read(ours, 1000).decode()
    assert clean(said.removesuffix("\r\n"))
    assert "\\u001b]0;owned" in said


def test_nothing_else_writes_to_a_terminal() -> None:
    """One printer for the commands, one for progress, one for labelled text."""
    writers = set()
    for path in [ROOT / "cli.py", *(ROOT / "engine").rglob("*.py"), *(ROOT / "data").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            stream = isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr")
            if stream or name in ("echo", "secho", "print", "print_exc"):
                writers.add((path.relative_to(ROOT).as_posix(), name))
    assert writers == {
        ("cli.py", "stdout"),  # looked at, not written to
        ("engine/commands/console.py", "echo"),
        ("engine/prediction/output_formats.py", "stdout"),
        ("engine/training/progress.py", "stderr"),
    }


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLT_DATA", raising=False)
