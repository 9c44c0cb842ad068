"""The optimizer's step on the fused path: what the engine makes of gradients, by the definition in fp64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xlt_engine.data import PackedBatch, pack
from xlt_engine.engine.training.config import OptimizerConfig
from xlt_engine.engine.training.loop import Loop
from xlt_engine.engine.training.objectives import cross_entropy
from xlt_engine.engine.training.optimizer import OptimizerStep
from xlt_engine.engine.training.precision import MasterWeights
from xlt_engine.kernels import dispatch
from xlt_engine.model import Encoder, EncoderConfig, TaskModel, VoterHeads
from xlt_engine.model.weights import tensors_hash

CONFIG = OptimizerConfig(lr=2e-2, head_lr=5e-2, weight_decay=0.1, clip=0.5, warmup=0.5)
STEPS, OVERFLOW = 4, 2


class Toy(nn.Module):
    """A weight of each group: with and without decay, of the encoder and the head; and one that has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        shapes = {"encoder": {"matrix": (3, 40), "norm_weight": (40,), "idle": (4,)}, "head": {"matrix": (2, 3)}}
        shapes["head"]["bias"] = (3,)
        for part, members in shapes.items():
            values = {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in members.items()}
            self.add_module(part, nn.ParameterDict(values))


class Truth:
    """AdamW on the toy in fp64, with the norm's clipping before it."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {n: p.detach().cpu().double() for n, p in model.named_parameters()}
        self.count, self.norm = 0, 0.0
        self.moments = {n: (torch.zeros_like(w), torch.zeros_like(w)) for n, w in self.weights.items()}

    def step(self, gradients: dict[str, Tensor], factor: float) -> None:
        self.count += 1
        self.norm = float(torch.cat([g.flatten() for g in gradients.values()]).norm())
        scale = min(1.0, CONFIG.clip / (self.norm + 1e-6))
        for name, w in self.weights.items():
            rate = factor * (0.05 if name.startswith("head.") else 0.02)
            if name in gradients:
                m, v = self.moments[name]
                g = gradients[name] * scale
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
                self.moments[name] = m, v
                decay = 0.0 if "bias" in name or "norm" in name else 0.1
                root = (v / (1 - 0.999**self.count)).sqrt() + 1e-8
                w = w * (1 - rate * decay) - rate * m / (1 - 0.9**self.count) / root
            self.weights[name] = w


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_steps_equal_the_definition(precision: str, device: torch.device) -> None:
    """Groups, clipping, the loss scale and an overflow, copies; gradients as one micro-batch leaves them."""
    model = Toy().to(device)
    truth, parameters = Truth(model), dict(model.named_parameters())
    weights = MasterWeights(model, precision)
    step = OptimizerStep(weights, CONFIG, device, precision)
    generator = torch.Generator().manual_seed(5)
    for number in range(STEPS):
        step.set_lr(number, STEPS)
        scale = 1.0 if step.scaler is None else float(step.scaler.scale)
        overflows = number == OVERFLOW and precision == "fp16"
        for name, parameter in parameters.items():
            if "idle" not in name:
                parameter.grad = (scale * torch.randn(parameter.shape, generator=generator) / 8).to(parameter)
        given = {n: p.grad.cpu().double() / scale for n, p in parameters.items() if p.grad is not None}
        if overflows:
            parameters["head.matrix"].grad.view(-1)[3] = torch.inf  # type: ignore[union-attr]
        _, norm, skipped, _ = step.apply(torch.tensor(1.0, device=device)).tolist()
        assert skipped == overflows
        if not overflows:
            truth.step(given, min(1.0, (number + 1) / 2, (STEPS - number) / 2))
            assert norm == pytest.approx(truth.norm, rel=1e-6)
            assert norm > 2 * CONFIG.clip
        for name, expected in truth.weights.items():
            found = weights.trainable[name].detach()
            assert float((found.cpu().double() - expected).norm()) <= 1e-6 * float(expected.norm()), name
            assert torch.equal(parameters[name].detach(), found.to(parameters[name].dtype))
        weights.clear()
    state = step.state()
    for name, moments in truth.moments.items():
        if "idle" in name:
            assert f"optimiser.{name}.exp_avg" not in state
            continue
        assert float(state[f"optimiser.{name}.step"]) == truth.count == STEPS - (precision == "fp16")
        for key, expected in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
            found = state[f"optimiser.{name}.{key}"].cpu().double()
            assert float((found - expected).norm()) <= 2e-6 * float(expected.norm())


class Steps:
    """A word's class is its id modulo three; each step in so many parts."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return 4

    def __getitem__(self, step: int) -> list[PackedBatch]:
        rng = np.random.default_rng([7, step])
        words = [rng.integers(5, 40, size=4) for _ in range(4)]
        size = 4 // self.parts
        return [
            pack(w, items=[np.arange(4)] * size, labels=[x % 3 for x in w])
            for w in (words[a : a + size] for a in range(0, 4, size))
        ]


def loop(device: torch.device, parts: int = 1) -> Loop:
    encoder = Encoder(EncoderConfig(40, 16, 1, 1, 24, max_positions=8, initializer_range=0.3), seed=1)
    model = TaskModel(encoder, VoterHeads(16, 3, (12, 13), seed=2), "ner", ("O", "B-X", "I-X")).to(device)
    return Loop(model, Steps(parts), cross_entropy, optimizer=CONFIG, seed=1, precision="bf16")


@pytest.mark.parametrize("parts", [1, 2])
def test_a_loop_follows_that_of_the_reference(parts: int, device: torch.device, monkeypatch: Any) -> None:
    """Gradients of a step in one part stay in 16 bits; checkpoints are those of the other path."""
    ours, read = loop(device, parts), set[torch.dtype]()
    gradients = ours.weights.gradients

    def watched() -> dict[nn.Parameter, Tensor]:
        read.update(g.dtype for g in gradients().values())
        return gradients()

    monkeypatch.setattr(ours.weights, "gradients", watched)
    with dispatch.using("reference"):
        theirs = loop(device, parts)
        theirs.run()
    ours.run()
    assert read == {torch.float32} | ({torch.bfloat16} if parts == 1 else set())
    found, expected = ours.state()[0], theirs.state()[0]
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in expected.items()}
    a, b = (torch.cat([t.double().flatten() for t in s.values()]) for s in (found, expected))
    # A weight that is rounded the other way moves the next gradients by an ulp of bf16.
    assert float((a - b).norm()) < 5e-3 * float(b.norm())
    assert ours.trace.grad_norm[0] == pytest.approx(theirs.trace.grad_norm[0], rel=1e-5)


def test_a_loop_goes_on_exactly(device: torch.device) -> None:
    whole, first, second = (loop(device) for _ in range(3))
    whole.run()
    for _ in range(2):
        first.advance()
    tensors, meta = first.state()
    second.restore(2, {name: tensor.clone() for name, tensor in tensors.items()}, meta)
    second.run()
    assert tensors_hash(whole.state()[0]) == tensors_hash(second.state()[0])
