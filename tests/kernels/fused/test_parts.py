"""A part of a batch whose seed says where it begins drops what the whole drops, in every operation with dropout."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine import kernels
from xlt_engine.kernels import dispatch

from ..helpers import Device, Error

LENGTHS, HIDDEN, HEADS, SEED = (5, 1, 40, 9), 24, 2, 2**62 + 12345
FIRST, LAST = 1, 3
"""The part: the sequences FIRST to LAST - 1."""
DROP = {"p": 0.4, "site": 3}
AFFINE = {"weight": torch.ones(HIDDEN), "bias": torch.zeros(HIDDEN), "eps": 1e-6}


def dropout(x: Tensor, lengths: Sequence[int], seed: Tensor) -> Tensor:
    return kernels.dropout(x, seed=seed, **DROP)


def layer_norm(x: Tensor, lengths: Sequence[int], seed: Tensor) -> Tensor:
    affine = {name: v.to(x.device) if isinstance(v, Tensor) else v for name, v in AFFINE.items()}
    return kernels.dropout_residual_layer_norm(x, None, seed=seed, **affine, **DROP)


def embedding(x: Tensor, lengths: Sequence[int], seed: Tensor) -> Tensor:
    """Each row of `x` is one of the word table."""
    affine = {name: v.to(x.device) if isinstance(v, Tensor) else v for name, v in AFFINE.items()}
    ids, zeros = torch.arange(len(x), device=x.device), torch.zeros(len(x), dtype=torch.int64, device=x.device)
    table = x.new_zeros(1, HIDDEN)
    return kernels.embedding_layer_norm(ids, zeros, zeros, x, table, table, seed=seed, **affine, **DROP)


def attention(x: Tensor, lengths: Sequence[int], seed: Tensor) -> Tensor:
    """Queries, keys and values are pieces of a row."""
    ends = torch.tensor([0, *lengths]).cumsum(0).int().to(x.device)
    qkv = x.view(len(x), 3, HEADS, HIDDEN // (3 * HEADS))
    return kernels.packed_attention(qkv, ends, max(lengths), seed=seed, **DROP).flatten(1)


def voter_mlp(x: Tensor, lengths: Sequence[int], seed: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    w1, b1, w2, b2 = (
        torch.randn(2, *shape, generator=generator).to(x.device)
        for shape in ((7, HIDDEN), (7,), (HIDDEN, 7), (HIDDEN,))
    )
    return kernels.voter_mlp(x, w1, b1, w2, b2, seed=seed, **DROP).transpose(0, 1).flatten(1)


def results(call: Callable[..., Tensor], x: Tensor, lengths: Sequence[int], seed: Tensor, upstream: Tensor) -> Tensor:
    """Values and gradients, side by side."""
    x = x.clone().requires_grad_()
    out = call(x, lengths, seed)
    return torch.cat([out, torch.autograd.grad(out, x, upstream[:, : out.shape[1]])[0]], 1).detach()


@pytest.mark.parametrize("call", [dropout, layer_norm, embedding, attention, voter_mlp])
def test_a_part_drops_what_the_whole_drops(call: Any, device: Device, generator: Any, relative_error: Error) -> None:
    x, upstream = (torch.randn(sum(LENGTHS), width, generator=generator).to(device) for width in (HIDDEN, 2 * HIDDEN))
    begin, end = sum(LENGTHS[:FIRST]), sum(LENGTHS[:LAST])
    part = x[begin:end], LENGTHS[FIRST:LAST]
    expected = results(call, x, LENGTHS, torch.tensor(SEED, device=device), upstream)[begin:end]
    seed = torch.tensor([SEED, begin], device=device)
    assert relative_error(results(call, *part, seed, upstream[begin:end]), expected) < 1e-5
    with dispatch.using("reference"):
        assert relative_error(results(call, *part, seed, upstream[begin:end]), expected) < 1e-5
    without = results(call, *part, torch.tensor(SEED, device=device), upstream[begin:end])
    assert relative_error(without, expected) > 0.1, "a part that begins elsewhere would not be noticed"
