"""Each example runs as it stands, and what it prints is what its text promises."""

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine import kernels

from ..engine.conftest import write_tiny

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


def test_transformers_step_has_the_same_losses_and_gradients(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(sys, "argv", ["transformers_step.py"])
    found = numbers("transformers_step.py", capsys)
    assert len(found) == 6
    for plain, ours, difference in (found[:3], found[3:]):
        assert plain > 0.01
        assert ours == pytest.approx(plain, rel=1e-5)
        assert 0 < difference < 1e-5


@pytest.mark.parametrize("name", ["linear_cross_entropy", "soft_label_loss"])
def test_transformers_step_notices_another_gradient(name: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the same; its gradient is 1.0001 times what it should be."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(sys, "argv", ["transformers_step.py"])
    right = getattr(kernels, name)

    def wrong(*args: Any, **options: Any) -> Tensor:
        loss: Tensor = right(*args, **options)
        return loss * 1.0001 - loss.detach() * 0.0001

    monkeypatch.setattr(kernels, name, wrong)
    with pytest.raises(SystemExit, match="not the same"):
        numbers("transformers_step.py", capsys)


@pytest.mark.parametrize(("name", "needs"), [("hf_trainer.py", "accelerate"), ("lightning_module.py", "lightning")])
def test_accumulated_gradients_are_those_of_the_whole_step(name: str, needs: str, tmp_path: Path) -> None:
    """In a process of its own, since these trainers set up logging and warn; they leave nothing behind."""
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")
    words = [sys.executable, str(FOLDER / name)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    learned, difference = re.findall(r"\d\.\de[+-]\d+", done.stdout.splitlines()[-1])
    assert float(learned) > 0.1
    assert float(difference) < 1e-4 * float(learned)
    assert list(tmp_path.iterdir()) == []


def test_examples_are_short_and_complete() -> None:
    files = sorted(FOLDER.glob("*.py"))
    assert [f.name for f in files] == [
        "embed_in_your_trainer.py",
        "hf_trainer.py",
        "kernels_only.py",
        "lightning_module.py",
        "mlflow_progress.py",
        "new_reader.py",
        "new_stage.py",
        "onnx_predict.py",
        "transformers_step.py",
        "wandb_progress.py",
    ]
    for file in files:
        assert len(file.read_text("utf-8").splitlines()) < 60, file.name


def test_new_stage_runs_from_the_command_line_and_its_rule_chooses_alpha(tmp_path: Path) -> None:
    """In a process of its own, since what it registers stays for the life of one."""
    recipe, run = write_tiny(tmp_path / "files"), tmp_path / "run"
    small = ["selftrain.rounds=1", "finetune.epochs=20", "selftrain.soft.epochs=40", 'selftrain.alpha.rule="half-way"']
    words = [sys.executable, str(FOLDER / "new_stage.py"), "run", str(recipe), "--run-dir", str(run)]
    words += [word for setting in small for word in ("--set", setting)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    stages = [row["stage"] for row in json.loads((run / "summary.json").read_bytes())["stages"]]
    assert stages[-1] == "hard1-replay"
    folder = run / "seed-0" / "de"
    assert json.loads((folder / "hard1" / "decision.json").read_bytes())["rule"] == "half-way"
    record = json.loads((folder / "hard1-replay" / "stage.json").read_bytes())
    assert (record["kind"], record["inputs"]) == ("replay", {"student": "seed-0/de/hard1"})
    assert record["steps"] > 0
