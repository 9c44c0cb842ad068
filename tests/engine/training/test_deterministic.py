"""`deterministic = true`: what it sets, what it refuses, and a stopped run that ends in the same bits."""

import importlib
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt_engine import ConfigError, Interrupted
from xlt_engine.engine import Progress
from xlt_engine.engine.lab.ablation import rows
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.storage.files import sha256_file
from xlt_engine.engine.training.device import WORKSPACE, WORKSPACES, _settings, deterministic, refusal

laboratory = importlib.import_module("xlt_engine.engine.lab.ablation.ablate")  # the function of that name hides it


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that would find a GPU and has not used it yet."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setenv("NCCL_ALGO", "")
    monkeypatch.delenv("NCCL_ALGO")


@pytest.mark.parametrize(("wanted", "device"), [(True, "cpu"), (False, "cuda")])
def test_nothing_to_do(on_gpu: None, wanted: bool, device: str) -> None:
    before = _settings()
    with deterministic(wanted, device):
        assert _settings() == before
        assert WORKSPACE not in os.environ


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_what_it_sets_on_a_gpu_and_takes_back(on_gpu: None, device: str) -> None:
    before = _settings()
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True, device):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert os.environ[WORKSPACE] == WORKSPACES[0]
        assert os.environ["NCCL_ALGO"] == "Ring"
    assert _settings() == before
    with pytest.raises(ZeroDivisionError), deterministic(True, device):
        raise ZeroDivisionError
    assert _settings() == before


def test_nothing_looks_at_the_device_before(on_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Looking starts CUDA, and after that it could only refuse."""

    def look(*arguments: Any, **named: Any) -> None:
        raise ZeroDivisionError(os.environ.get(WORKSPACE))

    monkeypatch.setattr(rows, "default_jobs", look)
    monkeypatch.setattr(laboratory, "plan_rows", look)
    with pytest.raises(ZeroDivisionError, match=WORKSPACES[0]):
        laboratory.ablate("demo", overrides=["deterministic=true"], run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("workspace", "used", "refused"),
    [
        *((value, True, None) for value in WORKSPACES),
        (":0:0", False, f"{WORKSPACE}=:0:0 in the environment"),
        (None, True, "has used CUDA already"),
    ],
)
def test_it_refuses_what_it_cannot_make_so(
    on_gpu: None, monkeypatch: pytest.MonkeyPatch, workspace: str | None, used: bool, refused: str | None
) -> None:
    if workspace is not None:
        monkeypatch.setenv(WORKSPACE, workspace)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    with nullcontext() if refused is None else pytest.raises(ConfigError, match=refused), deterministic(True, "cuda"):
        pass
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_torch_refuses_is_an_error_of_the_configuration(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own words, from an operation that has no deterministic form on any device."""
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError) as caught:
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    finally:
        torch.use_deterministic_algorithms(False)
    error = caught.value
    assert "put_ does not have" in str(refusal(error))
    assert refusal(RuntimeError("shape mismatch")) is None
    assert refusal(MemoryError()) is None

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("xlt_engine.engine.training.optimizer.OptimizerStep.apply", refuse)
    run = tiny("ner")
    with pytest.raises(ConfigError, match="^deterministic = true, but put_"):
        run.run(stage="pretrain")
    assert json.loads((run.folder / "run" / "status.json").read_bytes())["exit_code"] == 2


def test_results_made_without_it_are_not_taken_for_its_own(tiny: Any) -> None:
    plain, strict = (make_plan(tiny("ner").resolved(*o).config) for o in ((), ("deterministic=true",)))
    assert not any(stage.settings["deterministic"] for stage in plain)
    assert all(stage.settings["deterministic"] for stage in strict)


class Stopper(Progress):
    """Stops a run after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, done: int, total: int, loss: float, tokens: int, lr: float) -> None:
        self.left -= 1

    def signal(self) -> int:
        return 15 if self.left == 0 else 0


def stopped_often(run: Any, device: str) -> None:
    """Makes the run "often" with a stop after every seventh step, and the run "alone" without any."""
    settings = ("deterministic=true", f"device={device}", "selftrain.rounds=1")
    run.run(*settings, where="alone")
    for _ in range(100):
        stopper = Stopper(7)
        try:
            run.run(*settings, where="often", progress=stopper, should_stop=stopper.signal)
            return
        except Interrupted:
            continue
    raise AssertionError("the run never ended")


def results(run: Any, where: str) -> dict[str, str]:
    folder = run.folder / where
    names = ("*.safetensors", "trace.json", "decision.json", "scores.json")
    return {str(p.relative_to(folder)): sha256_file(p) for n in names for p in sorted(folder.glob(f"seed-*/**/{n}"))}


def test_stopped_runs_end_in_the_same_bits(tiny: Any) -> None:
    run = tiny("classification")
    stopped_often(run, "cpu")
    assert results(run, "alone") == results(run, "often")
    assert len(results(run, "alone")) > 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_runs_end_in_the_same_bits_on_a_gpu(tiny: Any, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    # Earlier tests of this process have used CUDA.
    monkeypatch.setenv(WORKSPACE, WORKSPACES[0])
    run = tiny("ner")
    text = run.recipe.read_text("utf-8").replace('device = "cpu"', f'device = "cuda"\nprecision = "{precision}"')
    run.recipe.write_text(text, encoding="utf-8")
    stopped_often(run, "cuda")
    assert results(run, "alone") == results(run, "often")
