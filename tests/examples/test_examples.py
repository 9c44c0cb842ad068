"""Each example runs as it stands, and what it prints is what its text promises."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def numbers(name: str, capsys: pytest.CaptureFixture[str]) -> list[float]:
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    return [float(x) for x in re.findall(r"\d+\.\d+(?:e-\d+)?", capsys.readouterr().out)]


def test_embed_in_your_trainer_accepts_better_labels_than_it_drops(capsys: pytest.CaptureFixture[str]) -> None:
    alpha, everything, accepted = numbers("embed_in_your_trainer.py", capsys)
    assert 0.5 < alpha < 1
    assert 0.55 < everything < accepted


def test_kernels_only_equals_plain_torch(capsys: pytest.CaptureFixture[str]) -> None:
    ours, plain, difference, *sweep = numbers("kernels_only.py", capsys)
    assert ours == pytest.approx(plain, rel=1e-6)
    assert difference < 1e-6
    shares = sweep[1::2]
    assert shares == sorted(shares)
    assert len(shares) == 4


def test_new_reader_learns(capsys: pytest.CaptureFixture[str]) -> None:
    first, last = numbers("new_reader.py", capsys)
    assert last < first / 2


def test_examples_are_short_and_complete() -> None:
    files = sorted(FOLDER.glob("*.py"))
    assert [f.name for f in files] == ["embed_in_your_trainer.py", "kernels_only.py", "new_reader.py"]
    for file in files:
        assert len(file.read_text("utf-8").splitlines()) < 60, file.name
