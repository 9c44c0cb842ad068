"""The gradient of a word embedding that is the decoder too is the sum of both in fp64."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xlt_engine.data import PackedBatch, pack
from xlt_engine.engine.training import objectives
from xlt_engine.engine.training.config import OptimizerConfig
from xlt_engine.engine.training.distributed import ProcessGroup
from xlt_engine.engine.training.loop import Loop
from xlt_engine.kernels import dispatch, linear_cross_entropy
from xlt_engine.model import Encoder, EncoderConfig, MaskedLM

VOCABULARY, TEXTS, LENGTH = 40, 4, 6


def model_on(device: torch.device) -> MaskedLM:
    config = EncoderConfig(VOCABULARY, 16, 2, 1, 24, max_positions=8, initializer_range=0.3, attention_dropout=0.1)
    return MaskedLM(Encoder(config, seed=1), seed=2).to(device)


class Step:
    """One step of a few texts, of which every word is masked; words come up several times."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return 1

    def __getitem__(self, step: int) -> list[PackedBatch]:
        words = np.random.default_rng(3).integers(5, 12, size=(TEXTS, LENGTH))
        size = TEXTS // self.parts
        return [
            pack(list(words[a : a + size]), items=[np.arange(LENGTH)] * size, labels=list(words[a : a + size, ::-1]))
            for a in range(0, TEXTS, size)
        ]


def truth(parts: int, seeds: Sequence[Any]) -> Tensor:
    """The gradients of two matrices, an embedding and a decoder, added up in fp64."""
    with dispatch.using("reference"):
        model = model_on(torch.device("cpu")).double()
        word = model.encoder.word_embedding
        decoder = word.detach().clone().requires_grad_()
        for seed, batch in zip(seeds, Step(parts)[0], strict=True):
            assert batch.labels is not None
            hidden = model.transform(batch, seed=seed)
            loss = linear_cross_entropy(hidden, decoder, model.decoder_bias, batch.labels) / (TEXTS * LENGTH)
            loss.backward()  # type: ignore[no-untyped-call]
        assert 0.1 < float(word.grad.norm() / decoder.grad.norm()) < 10
        return word.grad + decoder.grad


class Apart(ProcessGroup):
    """A process that meets no other; keeps what it would have told them."""

    told: list[Tensor]

    def all_reduce_max(self, *values: int) -> list[int]:
        return list(values)

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        self.told = [tensor.clone() for tensor in tensors[1:]]


def gradient(
    device: torch.device, parts: int, precision: str, recompute: bool, processes: ProcessGroup | None = None
) -> tuple[Tensor, list[Any]]:
    """What the update of a first step is given for the embedding, in fp64 and without the loss scale; and the seeds."""
    model = model_on(device)
    model.encoder.recompute = recompute
    seeds: list[Any] = []

    def objective(model: MaskedLM, batch: PackedBatch, seed: Any) -> Tensor:
        seeds.append(copy.copy(seed))
        return objectives.masked_lm(model, batch, seed)

    config = OptimizerConfig(lr=1e-3)
    loop = Loop(model, Step(parts), objective, optimizer=config, seed=5, precision=precision, processes=processes)
    scale = 1.0 if loop.optimizer_step.scaler is None else float(loop.optimizer_step.scaler.scale)
    kept: list[Tensor] = []
    update = loop.optimizer_step.apply

    def apply(loss: Tensor) -> Tensor:
        master = loop.weights.trainable["encoder.embeddings.word"]
        kept.append(loop.weights.gradients()[master].cpu().double() / scale)
        return update(loss)

    loop.optimizer_step.apply = apply  # type: ignore[method-assign]
    loop.advance()
    assert all(p.grad is None for p in model.parameters())
    return kept[0], seeds


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each loss of the objective whether the gradient goes into the matrix' own `grad`."""
    seen: list[bool] = []

    def loss(hidden: Tensor, weight: Tensor, *rest: Any, weight_grad: Tensor | None, **options: Any) -> Tensor:
        seen.append(weight_grad is not None and weight_grad is weight.grad)
        return linear_cross_entropy(hidden, weight, *rest, weight_grad=weight_grad, **options)

    monkeypatch.setattr(objectives, "linear_cross_entropy", loss)
    return seen


@pytest.mark.parametrize(
    ("precision", "parts", "recompute"), [("fp32", 1, False), ("fp32", 2, True), ("fp16", 1, True), ("fp16", 2, False)]
)
def test_one_gradient_is_the_sum_of_two(precision: str, parts: int, recompute: bool, device: Any, buffers: Any) -> None:
    found, seeds = gradient(device, parts, precision, recompute)
    assert buffers == [True] * parts
    expected = truth(parts, seeds)
    assert float((found - expected).norm()) <= (1e-5 if precision == "fp32" else 4e-3) * float(expected.norm())


def test_processes_add_up_theirs(device: torch.device, buffers: list[bool]) -> None:
    seeds: list[Any] = []
    total = torch.zeros(VOCABULARY, 16, dtype=torch.float64)
    for rank in range(2):
        processes = Apart(rank, 2)
        part, own = gradient(device, 2, "fp32", False, processes)
        assert any(torch.equal(part, told.cpu().double()) for told in processes.told if told.shape == part.shape)
        total += part
        seeds += own
    assert buffers == [True] * 2
    expected = truth(2, seeds)
    assert float((total - expected).norm()) <= 1e-5 * float(expected.norm())


def test_a_frozen_matrix_and_the_reference_have_no_buffer(device: torch.device, buffers: list[bool]) -> None:
    (batch,) = Step(1)[0]
    model, there = model_on(device), batch.to(device)
    with dispatch.using("reference"):
        objectives.masked_lm(model, there, 3)
    with torch.no_grad():
        objectives.masked_lm(model, there, 3)
    model.encoder.freeze(True, 1)
    objectives.masked_lm(model, there, 3).backward()  # type: ignore[no-untyped-call]
    assert buffers == [False] * 3
    assert model.decoder_weight.grad is None
