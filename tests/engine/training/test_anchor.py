"""`l2_to_base`: the pull back to the start, by itself, in a loop, and across a stage that is cut off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from xlt_engine import ConfigError, Interrupted
from xlt_engine.engine.runs.graph import make_plan
from xlt_engine.engine.training.config import OptimizerConfig
from xlt_engine.engine.training.optimizer import L2ToBase, OptimizerStep
from xlt_engine.engine.training.precision import MasterWeights

STRENGTH, LR = 2.0, 0.05


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.encoder = nn.ParameterDict({"matrix": nn.Parameter(torch.randn(3, 4, generator=generator))})
        self.head = nn.ParameterDict({"matrix": nn.Parameter(torch.randn(2, 3, generator=generator))})


def reference(start: np.ndarray, gradients: list[np.ndarray], pulled: bool) -> np.ndarray:
    """AdamW without weight decay in float64, written out, with the pull before each step; rates decay linearly."""
    w, m, v = start.astype(np.float64), np.zeros(start.shape), np.zeros(start.shape)
    for t, gradient in enumerate(gradients, 1):
        lr = LR * (len(gradients) - t + 1) / len(gradients)
        if pulled:
            w = w - lr * STRENGTH * (w - start)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def test_update_is_the_reference() -> None:
    model = Toy()
    config = OptimizerConfig(lr=LR, l2_to_base=STRENGTH, weight_decay=0.0, clip=0.0, warmup=0.0)
    optimizer_step = OptimizerStep(MasterWeights(model, "fp32"), config, torch.device("cpu"), "fp32")
    start = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    rng = np.random.default_rng(0)
    given = {name: [rng.normal(size=value.shape) for _ in range(6)] for name, value in start.items()}
    for step in range(6):
        optimizer_step.set_lr(step, 6)
        for name, parameter in model.named_parameters():
            parameter.grad = torch.tensor(given[name][step], dtype=torch.float32)
        optimizer_step.apply(torch.tensor(1.0))
    for name, parameter in model.named_parameters():
        expected = reference(start[name], given[name], pulled=name.startswith("encoder."))
        np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=2e-6)


def test_a_step_that_is_skipped_moves_nothing() -> None:
    model = Toy()
    config = OptimizerConfig(lr=LR, l2_to_base=STRENGTH)
    optimizer_step = OptimizerStep(MasterWeights(model, "fp32"), config, torch.device("cpu"), "fp32")
    with torch.no_grad():
        model.encoder["matrix"].add_(1.0)
    before = model.encoder["matrix"].detach().clone()
    optimizer_step.set_lr(0, 4)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer_step.apply(torch.tensor(1.0))
    assert torch.equal(model.encoder["matrix"], before)


def test_the_pull_alone_comes_back_to_the_start() -> None:
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    l2_to_base = L2ToBase(dict(model.named_parameters()), 1.0)
    start = model.encoder["matrix"].detach().clone()
    with torch.no_grad():
        model.encoder["matrix"].add_(8.0)
    for halvings in range(1, 4):
        l2_to_base.pull(optimizer, torch.zeros(()))
        torch.testing.assert_close(model.encoder["matrix"] - start, torch.full((3, 4), 8.0 / 2**halvings))


def test_a_pull_beyond_the_start_is_refused(tiny: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"training\.l2_to_base: times finetune\.lr is above 1"):
        tiny("classification").resolved("finetune.lr=0.05", "training.l2_to_base=21")


def test_it_belongs_to_the_fingerprint_of_its_stages(tiny: Callable[..., Any]) -> None:
    recipe = tiny("classification")
    off, on = (make_plan(recipe.resolved(f"training.l2_to_base={x}").config) for x in (0, 1))
    assert [b.id for a, b in zip(off, on, strict=True) if a.settings != b.settings] == [
        s.id for s in on if s.kind != "pretrain"
    ]


SHORT = ("selftrain.on=false", "btf.on=false", "training.l2_to_base=5")


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "seed-0" / "baseline" / "model.safetensors")


def distance(run: Path) -> float:
    """How far fine-tuning has moved the encoder from the pre-trained one."""
    start = load_file(run / "seed-0" / "pretrain" / "model.safetensors")
    end = weights(run)
    shared = [name for name in end if name in start and "encoder.layer" in name]
    assert shared
    return float(np.sqrt(sum(((end[name] - start[name]) ** 2).sum() for name in shared)))


def test_a_stage_keeps_near_its_start_and_goes_on_exactly(tiny: Callable[..., Any]) -> None:
    recipe = tiny("classification")
    recipe.run(*SHORT, where="whole")
    recipe.run(*SHORT[:2], where="free")
    assert 0 < distance(recipe.folder / "whole") < 0.9 * distance(recipe.folder / "free")
    steps = 0

    def stop() -> int:
        nonlocal steps
        done = recipe.folder / "cut" / "seed-0" / "pretrain" / "stage.json"
        steps += done.exists()
        return 15 if steps == 4 else 0

    with pytest.raises(Interrupted):
        recipe.run(*SHORT, where="cut", should_stop=stop)
    recipe.run(*SHORT, where="cut")
    whole, cut = weights(recipe.folder / "whole"), weights(recipe.folder / "cut")
    assert all(np.array_equal(whole[name], cut[name]) for name in whole)
