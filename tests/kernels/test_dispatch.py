"""Which path an operation takes and why, and what importing the room does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from xlt_engine.kernels import dispatch, dropout

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _automatic(_reference_path: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process with triton, without its interpreter and without XLT_KERNELS."""
    with dispatch.using("auto"):
        monkeypatch.setattr(dispatch, "_has_triton", True)
        monkeypatch.setattr(dispatch, "_interpreted", False)
        yield


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """A CUDA device of the capability in here."""
    found = {"is": (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: found["is"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
    return found


def test_automatic_choice(capability: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert dispatch.kernels_path("cpu") == ("reference", "plain torch is the implementation for cpu tensors")
    assert dispatch.kernels_path("mps") == ("reference", "plain torch is the implementation for mps tensors")
    assert dispatch.kernels_path(CUDA) == ("triton", "Some GPU")
    capability["is"] = (8, 0)
    assert dispatch.kernels_path(CUDA)[0] == "triton"
    capability["is"] = (7, 5)
    assert dispatch.kernels_path(CUDA) == ("reference", "compute capability 7.5 is below 8.0")
    capability["is"] = (12, 0)
    assert dispatch.kernels_path(CUDA)[0] == "triton"
    monkeypatch.setattr(dispatch, "_has_triton", False)
    assert dispatch.kernels_path(CUDA) == ("reference", "triton is not installed")


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "mps"])
def test_the_reference_can_be_asked_for(device: str, capability: dict[str, tuple[int, int]]) -> None:
    with dispatch.using("reference"):
        assert dispatch.kernels_path(device) == ("reference", "XLT_KERNELS=reference")


def test_triton_can_be_asked_for(capability: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with dispatch.using("triton"):
        assert dispatch.kernels_path(CUDA) == ("triton", "XLT_KERNELS=triton")
        with pytest.raises(RuntimeError, match="XLT_KERNELS=triton, but CPU tensors need TRITON_INTERPRET=1"):
            dispatch.kernels_path("cpu")
        with pytest.raises(RuntimeError, match="XLT_KERNELS=triton, but there are no kernels for mps tensors"):
            dispatch.kernels_path("mps")
        capability["is"] = (7, 5)
        with pytest.raises(RuntimeError, match=r"XLT_KERNELS=triton, but compute capability 7\.5 is below 8\.0"):
            dispatch.kernels_path(CUDA)
        monkeypatch.setattr(dispatch, "_interpreted", True)
        assert dispatch.kernels_path("cpu") == ("triton", "XLT_KERNELS=triton, interpreted on the CPU")
        monkeypatch.setattr(dispatch, "_has_triton", False)
        for device in ("cpu", CUDA):
            with pytest.raises(RuntimeError, match="XLT_KERNELS=triton, but triton is not installed"):
                dispatch.kernels_path(device)


def test_beside_a_gpu_triton_is_not_asked_of_the_cpu(capability: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and votes are computed on logits that were copied there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with dispatch.using("triton"):
        assert dispatch.kernels_path("cpu")[0] == "reference"
        assert dispatch.kernels_path(CUDA)[0] == "triton"
        assert not dispatch.use_triton(torch.ones(2))
        monkeypatch.setattr(dispatch, "_has_triton", False)
        with pytest.raises(RuntimeError, match="XLT_KERNELS=triton, but triton is not installed"):
            dispatch.kernels_path(CUDA)


def test_the_interpreter_alone_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_interpreted", True)
    assert dispatch.kernels_path("cpu")[0] == "reference"


def test_unknown_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match="mode must be one of auto, reference, triton, got 'fast'"),
        dispatch.using("fast"),
    ):
        pass
    monkeypatch.setattr(dispatch, "_mode", "Triton")
    with pytest.raises(ValueError, match="XLT_KERNELS must be one of auto, reference, triton, got 'Triton'"):
        dispatch.kernels_path("cpu")
    with pytest.raises(ValueError, match="XLT_KERNELS must be one of"):
        dropout(torch.ones(3), 0.5, seed=1)


@pytest.mark.parametrize("interpreted", [True, False])
def test_types_that_the_kernels_do_not_take(interpreted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every 16-bit and 32-bit type runs in the kernels; the interpreter's bf16 is wrong."""
    monkeypatch.setattr(dispatch, "_interpreted", interpreted)
    monkeypatch.setattr(dispatch, "_obstacle", lambda device: None)
    with dispatch.using("triton"):
        found = {
            dtype
            for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
            if dispatch.use_triton(torch.ones(1, dtype=dtype))
        }
    assert found == {torch.float16, torch.float32} | (set() if interpreted else {torch.bfloat16})


def test_a_block_of_another_mode_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_obstacle", lambda device: None)
    x = torch.ones(1)
    assert not dispatch.use_triton(x)

    def fail() -> None:
        with dispatch.using("triton"):
            assert dispatch.use_triton(x)
            with dispatch.using("reference"):
                assert not dispatch.use_triton(x)
            assert dispatch.use_triton(x)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert dispatch._mode == "auto"
    assert not dispatch.use_triton(x)


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("XLT_KERNELS", "TRITON_INTERPRET")}
    given = {"env": kept | environment, "capture_output": True, "text": True, "timeout": 120, "check": False}
    return subprocess.run([sys.executable, "-c", code], **given)  # type: ignore[call-overload,no-any-return]


# Every operation once, forward and backward.
EVERY_OPERATION = """
import sys, torch
from xlt_engine import kernels
assert not [m for m in sys.modules if m.split(".")[0] == "triton" or m == "torch._dynamo"], "imported"
assert not torch.cuda.is_initialized()
torch.set_num_threads(1)
r = lambda *shape: torch.randn(shape, requires_grad=True)
i = lambda top, n: torch.randint(top, (n,))
drop = dict(p=0.1, seed=1, site=2)
norm = dict(eps=1e-5) | drop
cu = torch.tensor([0, 3, 5])
results = [
    kernels.dropout(r(5, 8), 0.1, seed=1, site=2),
    kernels.dropout_residual_layer_norm(r(5, 8), r(5, 8), r(8), r(8), **norm),
    kernels.embedding_layer_norm(i(9, 5), i(5, 5), i(2, 5), r(9, 8), r(5, 8), r(2, 8), r(8), r(8), **norm),
    kernels.linear_cross_entropy(r(5, 8), r(9, 8), r(9), i(9, 5)),
    kernels.linear_gelu(r(5, 8), r(9, 8), r(9)),
    kernels.linear_glu(r(5, 8), r(6, 8), None, "silu"),
    kernels.packed_attention(r(5, 3, 2, 4), cu, 3, **drop, rotary=kernels.rotary_table(i(3, 5), 4, 1e4), window=1),
    *kernels.residual_norm(r(5, 8), r(5, 8), r(8), None, eps=1e-5),
    kernels.soft_label_loss(r(3, 5, 4), torch.rand(5, 4).softmax(-1)),
    kernels.supervised_contrastive(r(5, 8), i(2, 5), temperature=0.1),
    kernels.voter_cross_entropy(r(3, 5, 4), i(4, 5)),
    kernels.voter_mlp(r(5, 8), r(3, 6, 8), r(3, 6), r(3, 8, 6), r(3, 8), **drop),
]
kernels.votes(torch.randn(3, 5, 4))
state = [torch.zeros(5)], [torch.zeros(5)], [torch.zeros(())]
kernels.adamw_step([torch.ones(5)], [torch.ones(5)], *state, [None], [0.1], [0.0], betas=(0.9, 0.99), eps=1e-8)
kernels.gradient_norm([torch.ones(5)])
without_gradient = {"adamw_step", "attention_plan", "gradient_norm", "rotary_table", "votes"}
public = {name for name in kernels.__all__ if name[0].islower()} - without_gradient
assert len(results) == len(public) + 1, public
sum(x.sum() for x in results).backward()
assert "triton" not in sys.modules, "the reference imported triton"
assert not torch.cuda.is_initialized()
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch itself may import triton on a CUDA machine")
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_the_cpu_path_imports_no_triton_and_touches_no_device(mode: str) -> None:
    done = _python(EVERY_OPERATION, XLT_KERNELS=mode)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Hides an installed triton from import and find_spec, as if it were not there.
WITHOUT_TRITON = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "triton" else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
try:
    import triton
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("triton is not hidden")
"""

TRAINING_STEP = """
import torch
from xlt_engine.data import pack
from xlt_engine.engine import train
from xlt_engine.engine.training.objectives import masked_lm
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM
config = EncoderConfig(20, 8, 1, 2, 16, max_positions=6, dropout=0.1, attention_dropout=0.1)
batch = pack([[2, 7, 8, 3], [2, 9, 3]], items=[[1, 2], [1]], labels=[[7, 11], [9]])
model = MaskedLM(Encoder(config))
before = model.decoder_weight.detach().clone()
train(model, [[batch]], masked_lm)
assert not torch.equal(model.decoder_weight, before)
"""
COMMAND = "from xlt_engine.cli import main\nmain({})\n"


def test_without_triton_operations_run_and_models_train() -> None:
    done = _python(WITHOUT_TRITON + EVERY_OPERATION + TRAINING_STEP, XLT_KERNELS="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_triton_the_environment_says_which_path() -> None:
    done = _python(WITHOUT_TRITON + COMMAND.format(["env"]))
    assert done.returncode == 0, done.stderr
    assert 'kernels: {"cpu": "reference: ' in done.stdout
    done = _python(WITHOUT_TRITON + COMMAND.format(["env"]), XLT_KERNELS="triton", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: XLT_KERNELS=triton, but triton is not installed")


@pytest.mark.parametrize(
    ("command", "mode", "message"),
    [
        (["env"], "fast", "XLT_KERNELS must be one of auto, reference, triton, got 'fast'"),
        (["run", "demo"], "fast", "XLT_KERNELS must be one of auto, reference, triton, got 'fast'"),
        (["run", "demo"], "triton", "XLT_KERNELS=triton, but "),
    ],
)
def test_commands_refuse_what_they_cannot_do(command: list[str], mode: str, message: str, tmp_path: Path) -> None:
    if command[0] == "run":
        command = [*command, "--device", "cpu", "--run-dir", str(tmp_path / "run")]
    done = _python(COMMAND.format(command), XLT_KERNELS=mode)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("run/seed-*"))
