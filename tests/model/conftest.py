"""Batches, configurations and a guarded transformers for the model's tests."""

import importlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xlt_engine.model import Encoder, EncoderConfig, MaskedLM, save_model

CLASSES = {
    "bert": "Bert",
    "xlm-roberta": "XLMRoberta",
    "distilbert": "DistilBert",
    "modernbert": "ModernBert",
    "eurobert": "EuroBert",
}
"""What transformers calls each layout."""


@dataclass(frozen=True)
class Packed:
    token_ids: Tensor
    positions: Tensor
    segments: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    item_index: Tensor
    first_token: int = 0
    first_item: int = 0


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


def _disturb(model):
    """Gives every parameter, biases too, values that a mix-up would show; the voters' padding stays zero."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.startswith(("head.in_", "head.out_weight")):
                value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


def _edit(folder, change, name="model.safetensors"):
    """Rewrites the weights after `change(tensors)`."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)


def _shard(folder):
    """Splits the weights over two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = {"part-1.safetensors": keys[::2], "part-2.safetensors": keys[1::2]}
    for file, members in parts.items():
        save_file({key: tensors[key] for key in members}, folder / file)
    mapping = {key: file for file, members in parts.items() for key in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": mapping}))
    return mapping


def _same(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture
def disturb():
    return _disturb


@pytest.fixture
def edit():
    return _edit


@pytest.fixture
def shard():
    return _shard


@pytest.fixture
def same():
    return _same


@pytest.fixture
def masked(tiny):
    return _disturb(MaskedLM(Encoder(tiny, seed=1)))


@pytest.fixture
def folder(masked, tmp_path):
    save_model(masked, tmp_path / "model")
    return tmp_path / "model"
