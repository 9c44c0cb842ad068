"""Whole training steps of a small model: the kernels in the places where the model calls them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xlt_engine.data import PackedBatch, pack
from xlt_engine.engine.training.objectives import cross_entropy, masked_lm, soft_labels
from xlt_engine.kernels import dispatch
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, TaskModel, VoterHeads

from ..helpers import Device, DType

VOCABULARY, HIDDEN, LENGTHS = 83, 32, (5, 1, 17, 9)


def masked_lm_model() -> nn.Module:
    return MaskedLM(Encoder(_config(), seed=1))


def tagger() -> nn.Module:
    head = VoterHeads(HIDDEN, 3, (20, 21, 22), 0.1, seed=2, initializer_range=0.5)
    return TaskModel(Encoder(_config(), seed=1), head, "ner", ("O", "B-X", "I-X"))


def _config() -> EncoderConfig:
    return EncoderConfig(
        VOCABULARY, HIDDEN, 2, 2, 48, max_positions=20, dropout=0.1, attention_dropout=0.1, initializer_range=0.2
    )


def batch(device: Device, targets: str) -> PackedBatch:
    """Random tokens; every token but the first of a sequence has a target."""
    rng = np.random.default_rng(7)
    items = [np.arange(length)[min(1, length - 1) :] for length in LENGTHS]
    top = VOCABULARY if targets == "tokens" else 3
    if targets == "soft":
        given: dict[str, Any] = {"soft_targets": [rng.dirichlet(np.ones(3), len(i)).astype(np.float32) for i in items]}
    else:
        given = {"labels": [rng.integers(top, size=len(i)) for i in items]}
    made = pack([rng.integers(5, VOCABULARY, size=n).tolist() for n in LENGTHS], items=items, **given)
    moved = {f.name: getattr(made, f.name) for f in fields(made) if isinstance(getattr(made, f.name), Tensor)}
    return replace(made, **{name: tensor.to(device) for name, tensor in moved.items()})


def gradients(
    model: nn.Module, objective: Callable[..., Tensor], given: PackedBatch, precision: torch.dtype
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    device = next(model.parameters()).device.type
    with torch.autocast(device, precision, enabled=precision != torch.float32):
        loss = objective(model, given, 5) / given.num_targets
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("make", "objective", "targets"),
    [
        (masked_lm_model, masked_lm, "tokens"),
        (tagger, cross_entropy, "classes"),
        (tagger, soft_labels, "soft"),
    ],
    ids=["masked-lm", "classes", "soft"],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_equals_that_of_plain_torch(
    make: Callable[[], nn.Module],
    objective: Callable[..., Tensor],
    targets: str,
    frozen: bool,
    device: Device,
    dtype: DType,
) -> None:
    """Loss and every gradient beside plain torch in float64, with dropout on: both paths drop the same elements."""
    model = make().to(device)
    if frozen:
        model.encoder.freeze(embeddings=True, layers=1)
    given = batch(device, targets)
    loss, found = gradients(model, objective, given, dtype)
    with dispatch.using("reference"):
        expected_loss, expected = gradients(deepcopy(model).double(), objective, given, torch.float32)
        native = gradients(model, objective, given, dtype)[1]
    bound = 1e-5 if dtype == torch.float32 else 0.05
    assert abs(loss - expected_loss) <= bound * abs(expected_loss)
    assert set(found) == set(expected) == {name for name, p in model.named_parameters() if p.requires_grad}
    # A bias adds up what cancels: a key's to zero, as it moves all scores of a query alike, soft labels' to 1 % of all.
    size = float(torch.stack([g.norm() for g in expected.values()]).norm())
    for name, gradient in found.items():
        error = float((gradient - expected[name]).norm())
        # What plain torch loses in the same dtype: much, where a loss is as ill-conditioned as MSE after a softmax.
        usual = 2 * float((native[name] - expected[name]).norm())
        assert error <= max(usual, bound * max(float(expected[name].norm()), 0.05 * size)), name


def test_the_logits_of_inference_equal_those_of_plain_torch(device: Device) -> None:
    model = tagger().to(device)
    given = batch(device, "classes")
    with torch.no_grad():
        found = model(given)
        with dispatch.using("reference"):
            expected = model(given)
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())
