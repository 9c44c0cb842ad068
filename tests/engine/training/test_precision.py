import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xlt_engine import DivergedError
from xlt_engine.data import PackedBatch
from xlt_engine.engine import train
from xlt_engine.engine.training.checkpoint import load_latest, save_checkpoint
from xlt_engine.engine.training.config import OptimizerConfig
from xlt_engine.engine.training.device import choose_precision
from xlt_engine.engine.training.loop import Loop
from xlt_engine.engine.training.objectives import cross_entropy
from xlt_engine.engine.training.optimizer import SKIPS_IN_A_ROW
from xlt_engine.engine.training.precision import DTYPES, LossScaler, MasterWeights, computing_in
from xlt_engine.model import TaskModel
from xlt_engine.model.weights import tensors_hash

from .models import Words, outcome, tagger

OPTIMIZER = OptimizerConfig(lr=2e-3)
in_16_bits = pytest.mark.parametrize("precision", ["bf16", "fp16"])


def loop(count: int, precision: str, objective: object = cross_entropy) -> Loop:
    return Loop(tagger(0.1, fresh=True), Words(count), objective, optimizer=OPTIMIZER, seed=1, precision=precision)


def curve(precision: str) -> np.ndarray:
    """Means over 25 steps of a run of 250."""
    fast = OptimizerConfig(lr=5e-3)
    trace = train(tagger(0.1, fresh=True), Words(250), cross_entropy, optimizer=fast, seed=1, precision=precision)
    return np.array(trace.loss).reshape(10, 25).mean(1)


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    return curve("fp32")


@pytest.mark.parametrize(
    ("capability", "device", "expected"),
    [((9, 0), "auto", "bf16"), ((8, 0), "cuda", "bf16"), ((7, 5), "auto", "fp16"), ((9, 0), "cpu", "fp32")],
)
def test_auto_takes_what_the_device_is_made_for(capability: Any, device: str, expected: str, monkeypatch: Any) -> None:
    assert choose_precision("fp16", "cpu") == "fp16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_precision("auto", device) == expected


@in_16_bits
def test_loss_curves_follow_fp32_over_250_steps(precision: str, full: np.ndarray) -> None:
    """Within 3 % of the start's loss all along, and the rule is learned."""
    half = curve(precision)
    assert full[0] > 1.0
    assert full[-1] < 0.3
    assert np.abs(half - full).max() < 0.03 * full[0]
    assert not np.array_equal(full, half)


@in_16_bits
def test_weights_are_fp32_and_copies_are_rounded_from_them(precision: str) -> None:
    model = tagger(0.1, fresh=True)
    model.encoder.freeze(True, 1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loop = Loop(model, Words(3), cross_entropy, optimizer=OPTIMIZER, seed=1, precision=precision)
    loop.run()
    dtype = DTYPES[precision]
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "norm" in name else dtype)
        if name in loop.weights.trainable:
            assert torch.equal(parameter.detach(), loop.weights.trainable[name].detach().to(parameter.dtype))
    trained = {n: p.detach().clone() for n, p in loop.weights.trainable.items()}
    loop.close()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter.detach(), trained.get(name, before[name]))
        assert torch.equal(parameter.detach(), before[name]) == (name not in trained)


def test_steps_smaller_than_a_16_bit_ulp_add_up() -> None:
    """One update of 1e-5 on weights near 1 is below half an ulp of bf16 (2e-3): lost in a copy, kept in fp32."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)

    def slope(model: nn.Module, batch: PackedBatch, seed: int) -> Tensor:
        return next(model.parameters()).sum() * batch.num_targets

    config = OptimizerConfig(lr=1e-5, warmup=0, weight_decay=0, clip=0)
    train(model, Words(400), slope, optimizer=config, precision="bf16")
    assert float(model.weight.detach()) == pytest.approx(1 - 1e-5 * 200.5, rel=1e-5)


@in_16_bits
def test_micro_batches_add_up_in_fp32(precision: str) -> None:
    """Cut into eight, a step's gradient has the error of its parts' rounding, not that of a 16-bit sum."""
    gradients = {}
    for name, parts in (("fp32", 1), (precision, 1), (precision, 8)):
        model = tagger(0.1, fresh=True)
        weights = MasterWeights(model, name)
        for batch in Words(1, parts)[0]:
            (cross_entropy(model, batch, 5) / 30 if parts else None).backward()
            weights.accumulate()
        found = {n: p.grad for n, p in weights.trainable.items()}
        assert all(g is not None and g.dtype == torch.float32 for g in found.values())
        gradients[name, parts] = torch.cat([g.flatten() for g in found.values() if g is not None])
    assert gradients[precision, 8].norm() > 0
    without_dropout = gradients[precision, 1] - gradients["fp32", 1]
    assert float(without_dropout.norm() / gradients["fp32", 1].norm()) < (2e-2 if precision == "bf16" else 4e-3)


class Overflowing:
    """The objective of a tagger, with an infinite gradient at the given steps (by call)."""

    def __init__(self, at: set[int]) -> None:
        self.at, self.calls = at, 0

    def __call__(self, model: TaskModel, batch: PackedBatch, seed: int) -> Tensor:
        loss = cross_entropy(model, batch, seed)
        self.calls += 1
        return loss * math.inf if self.calls - 1 in self.at else loss


def test_an_overflow_is_skipped_counted_and_halves_the_scale() -> None:
    training = loop(6, "fp16", Overflowing({2, 3}))
    seen = []
    for _ in range(6):
        before = tensors_hash(dict(training.weights.trainable))
        result = training.advance()
        seen.append((result.skipped, float(training.optimizer_step.scaler.scale)))
        assert (tensors_hash(dict(training.weights.trainable)) == before) == bool(result.skipped)
        assert math.isfinite(result.loss)
        assert math.isfinite(result.grad_norm)
    assert seen == [(0, 65536.0), (0, 65536.0), (1, 32768.0), (1, 16384.0), (0, 16384.0), (0, 16384.0)]
    assert training.trace.skipped == [0, 0, 1, 1, 0, 0]
    assert {int(s["step"]) for s in training.optimizer_step.optimizer.state.values()} == {4}


def test_the_scale_doubles_after_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LossScaler, "INTERVAL", 3)
    training = loop(7, "fp16")
    training.run()
    assert float(training.optimizer_step.scaler.scale) == 4 * 65536.0


def test_gradients_do_not_depend_on_the_scale() -> None:
    norms = []
    for scale in (1024.0, 65536.0):
        training = loop(1, "fp16")
        training.optimizer_step.scaler.scale.fill_(scale)
        norms.append(training.advance().grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=2e-3)


def test_too_many_overflows_in_a_row_are_an_error() -> None:
    count = SKIPS_IN_A_ROW + 5
    training = loop(count, "fp16", Overflowing(set(range(count))))
    before = tensors_hash(dict(training.weights.trainable))
    with pytest.raises(DivergedError, match=rf"step {SKIPS_IN_A_ROW - 1}: .*overflow of fp16 in a row"):
        training.run()
    assert tensors_hash(dict(training.weights.trainable)) == before


@pytest.mark.parametrize(("precision", "overflows"), [("bf16", set()), ("fp16", {1}), ("fp16", {0, 1, 2, 3})])
def test_resuming_is_exact(precision: str, overflows: set[int], tmp_path: Path) -> None:
    """Weights, moments and the loss scale with its counters, through a checkpoint on disk; also before any update."""
    whole, first, second = (loop(8, precision, Overflowing(at)) for at in (overflows, overflows, set()))
    whole.run()
    for _ in range(4):
        first.advance()
    tensors, meta = first.state()
    save_checkpoint(tmp_path, step=first.step, tensors=tensors, meta=meta)
    found = load_latest(tmp_path)
    second.restore(found.step, found.tensors, found.meta)
    second.run()
    assert outcome(second) == outcome(whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_computing_in_gives_the_weights_back(precision: str) -> None:
    model = tagger(0.1, fresh=True)
    before = tensors_hash(dict(model.named_parameters()))
    (batch,) = Words(1)[0]
    with torch.inference_mode():
        truth = model(batch)
    with computing_in(model, precision), torch.inference_mode():
        logits = model(batch).float()
    assert tensors_hash(dict(model.named_parameters())) == before
    error = float((logits - truth).norm() / truth.norm())
    assert error == 0.0 if precision == "fp32" else 0.0 < error < 2e-2
