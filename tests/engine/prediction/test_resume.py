"""`predict` on a file that was broken off: the same call ends in the bytes of one that was not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xlt_engine import DataError, RunInUseError
from xlt_engine.engine import Predictor, Progress, predict_file
from xlt_engine.engine.prediction import file_predictor, output_formats

LINES = ["Anna lives in Paris", "", "Carl saw London today", "the city of Oslo is old", "a good book about Berlin"] * 4
HOLD = """
import fcntl, sys
with open(sys.argv[1], "wb") as part:
    fcntl.lockf(part, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(folders: dict[str, Path]) -> Path:
    return folders["ner"]


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_predictor, "CHUNK_RECORDS", 3)
    monkeypatch.setattr(output_formats, "SECONDS", 0.0)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in LINES))
    return tmp_path / "in.txt"


class Notes(Progress):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self, text: str) -> None:
        self.seen.append(text)


def stopped(monkeypatch: pytest.MonkeyPatch, calls: int, *about: Any, **more: Any) -> None:
    """A call that a signal ends after so many chunks, with half of what is not recorded on the disk."""
    tag, left = Predictor.tag, iter(range(calls))

    def counted(self: Predictor, texts: Any) -> Any:
        if next(left, None) is None:
            for part in Path(about[2]).parent.glob(".*.part"):
                with part.open("ab") as file:
                    file.write(b"half a li")
            raise SystemExit(143)
        return tag(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "tag", counted)
        pytest.raises(SystemExit, predict_file, *about, **more)


@pytest.mark.parametrize("form", ["same", "conll", "entities", "tsv", "brat"])
def test_the_same_bytes(folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    (tmp_path / "out").mkdir()
    whole, broken = tmp_path / "whole.ann", tmp_path / "out" / "broken.ann"
    expected = predict_file(folder, text, whole, output_format=form)
    stopped(monkeypatch, 3, folder, text, broken, output_format=form)
    assert not broken.exists()
    notes = Notes()
    counts = predict_file(folder, text, broken, output_format=form, progress=notes).counts
    assert notes.seen == [f"{broken}: going on after 9 records that were written before"]
    assert (broken.read_bytes(), counts) == (whole.read_bytes(), expected.counts)
    names = {"broken.ann", "broken.txt"} if form == "brat" else {"broken.ann"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    if form == "brat":
        assert broken.with_suffix(".txt").read_bytes() == whole.with_suffix(".txt").read_bytes()


def test_what_decides_the_labels_has_changed(folder: Path, text: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out, notes = tmp_path / "out", Notes()
    stopped(monkeypatch, 2, folder, text, out)
    predict_file(folder, text, out, raw=True, progress=notes)
    stopped(monkeypatch, 2, folder, text, out)
    text.write_text("Anna\n" + text.read_text())
    predict_file(folder, text, out, progress=notes)
    assert (notes.seen, out.read_text().split("\t")[0]) == ([], "Anna")
    assert {path.name for path in tmp_path.iterdir()} == {"in.txt", "out"}


def test_an_error_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.conll").write_text("\n".join([*["Anna O", ""] * 9, "Anna"]))
    pytest.raises(DataError, predict_file, folder, tmp_path / "in.conll", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in.conll"]


def test_two_at_once(folder: Path, text: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".out.part")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunInUseError, match="another process is writing it"):
            predict_file(folder, text, tmp_path / "out")
        other.communicate(b"")
    predict_file(folder, text, tmp_path / "out")
