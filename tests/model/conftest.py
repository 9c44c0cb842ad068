"""Batches, configurations and a guarded transformers for the model's tests."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType

import pytest
import torch
from torch import Tensor
from xlt_engine.model import EncoderConfig


@dataclass(frozen=True)
class Packed:
    token_ids: Tensor
    positions: Tensor
    segments: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    item_index: Tensor


def make_packed(sequences: Sequence[Tensor], items: Sequence[int] | None = None) -> Packed:
    """The sequences end to end; the second half of each is segment 1; items default to the first tokens."""
    lengths = [len(ids) for ids in sequences]
    starts = [0, *accumulate(lengths)]
    return Packed(
        torch.cat(list(sequences)),
        torch.cat([torch.arange(n) for n in lengths]),
        torch.cat([(torch.arange(n) >= n // 2).long() for n in lengths]),
        torch.tensor(starts, dtype=torch.int32),
        max(lengths),
        torch.tensor(starts[:-1] if items is None else items),
    )


def make_sequences(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, vocab_size, (n,), generator=generator) for n in lengths]


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the largest expected value."""
    assert actual.shape == expected.shape
    return float((actual.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


@pytest.fixture
def packed() -> Callable[..., Packed]:
    return make_packed


@pytest.fixture
def sequences() -> Callable[..., list[Tensor]]:
    return make_sequences


@pytest.fixture
def error() -> Callable[[Tensor, Tensor], float]:
    return relative


@pytest.fixture
def tiny() -> EncoderConfig:
    return EncoderConfig(
        vocab_size=97, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=64, max_positions=40
    )


@pytest.fixture(scope="session")
def transformers() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of its own import are not ours to answer for
        module = importlib.import_module("transformers")
        for name in ("BertForMaskedLM", "AutoModelForTokenClassification"):
            getattr(module, name)
    module.utils.logging.disable_progress_bar()
    return module
