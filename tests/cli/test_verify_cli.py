"""`verify`, and outputs and paths that the system refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def test_verify(cli: Any, finished: Any, tmp_path: Path) -> None:
    """What is damaged, and what the next run does about it, with the code of its kind; nothing is written."""
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run, symlinks=True)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    answer = cli("verify", run)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("every file is as it was written\n")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    stage = run / "seed-0" / "de" / "soft1"
    (stage / "scores.json").unlink()
    store = sorted(run.glob("store/*/token_ids.npy"))[0]
    store.write_bytes(store.read_bytes()[:-1])
    (run / "failed.json").write_text("{", "utf-8")
    answer = cli("verify", run)
    assert answer.code == 3
    assert "damaged: seed-0/de/soft1/scores.json is missing; the stage is scored again\n" in answer.out
    (stage / "trace.json").write_text("{}", "utf-8")
    damaged = json.loads(cli("verify", run, "--json").out)["damaged"]
    assert {one["path"]: one["remedy"] for one in damaged} == {
        "failed.json": "delete it; the next run writes it",
        "seed-0/de/soft1/scores.json": "the stage is made anew",
        "seed-0/de/soft1/trace.json": "the stage is made anew",
        f"store/{store.parent.name}": "the text is read again",
    }
    (run / "failed.json").unlink()
    shutil.rmtree(store.parent)
    assert cli("verify", run).code == 4
    answer = cli("verify", tmp_path)
    assert answer.code == 3
    assert "not a run folder" in answer.err


@pytest.mark.parametrize(
    ("output", "code", "said"), [("/dev/full", 5, "cannot write the output: No space"), ("&-", 0, "")]
)
def test_full_and_closed_output(output: str, code: int, said: str) -> None:
    shell = f'exec "$0" -c "from xlt_engine.cli import main; main()" "$@" >{output}'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, "run", "--help"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == code
    assert done.stderr.startswith(f"error: {said}" if said else "")
    assert done.stderr.count("\n") == bool(said)


def test_paths_that_are_not_to_be_had(cli: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(os.fsencode(files) + b"/\xff")
    for arguments in (("info", odd), ("run", "tiny.toml", "--run-dir", odd)):
        answer = cli(*arguments)
        assert answer.code == 2
        assert "is not UTF-8; rename" in answer.err
    for long in ("a" * 300, "a/" * 1900):
        answer = cli("run", files / "tiny.toml", "--run-dir", files / long)
        assert answer.code in (2, 5)
        assert "choose" in answer.err
        assert cli("info", files / long).code in (2, 4)
    os.mkdir(odd)
    monkeypatch.chdir(odd)
    answer = cli("run", "demo")
    assert answer.code == 2
    assert "is not UTF-8; rename" in answer.err
