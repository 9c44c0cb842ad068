"""Rotary positions and windows in the attention kernels, against the reference in fp64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, packed_attention, rotary_table

from ..helpers import Device, DType, Generator, all_equal, boundaries
from .test_attention import compare, differentiate, inputs

# Lengths, head size, the longest length that the call is told, window, and whether there are rotary positions.
CASES = {
    "whole": ([1, 17, 0, 40], 16, 40, 5, True),
    "whole, a window that ends with a tile": ([33, 16], 8, 33, 15, False),
    "whole, itself alone": ([5, 20], 16, 20, 0, False),
    "in blocks": ([70, 3, 135], 16, 135, 20, True),
    "in blocks, a window smaller than a tile": ([130, 65], 16, 130, 1, False),
    "in blocks, no window": ([70, 2], 16, 70, None, True),
    "odd heads": ([20, 5], 24, 20, None, True),
    "odd heads in blocks": ([66], 24, 66, 40, True),
}


def angles(lengths: list[int], size: int, device: Device) -> Tensor:
    return rotary_table(torch.cat([torch.arange(n) for n in lengths]), size, 100.0).to(device)


@pytest.mark.parametrize("seed", [None, 3], ids=["plain", "dropout"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_reference(case: Any, seed: Any, device: Any, dtype: DType, generator: Any, as_good_as: Any) -> None:
    lengths, size, longest, window, turned = case
    qkv, upstream = inputs(lengths, 1 + (longest < 64), size, device, dtype, generator)
    rotary = angles(lengths, size, device) if turned else None

    def call(x: Tensor) -> Tensor:
        rows = None if rotary is None else rotary.to(x.device)
        drop: dict[str, Any] = {"p": 0.3, "seed": seed, "site": 7}
        return packed_attention(x, boundaries(lengths, x.device), longest, **drop, rotary=rows, window=window)

    ours = differentiate(call, qkv, upstream)
    with dispatch.using("reference"):
        native = differentiate(call, qkv, upstream)
        truth = differentiate(call, qkv.cpu().double(), upstream.cpu().double())
    if window == 0:  # one probability of 1: queries and keys have no gradient
        assert float(ours[1][:, :2].abs().max()) < 1e-2
        for _, gradient in (ours, native, truth):
            gradient[:, :2] = 1
    compare(ours, native, truth, as_good_as)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of NaN
def test_blocks_beyond_the_window_are_not_read(device: Device, generator: Generator) -> None:
    """NaN far from a token changes nothing of it, forward or backward, in the blocks that its window does not touch."""
    qkv, upstream = inputs([200], 1, 16, device, torch.float32, generator)
    call = lambda x: packed_attention(x, boundaries([200], device), 200, window=20)  # noqa: E731
    expected = differentiate(call, qkv, upstream)
    qkv[128:] = float("nan")
    out, gradient = differentiate(call, qkv, upstream)
    assert torch.equal(out[:64], expected[0][:64])
    assert torch.equal(gradient[:32], expected[1][:32])


def test_strided_and_equal_to_the_bit(device: Device, dtype: DType, generator: Generator) -> None:
    qkv, upstream = inputs([33, 3], 2, 16, device, dtype, generator)
    cu_seqlens, rotary = boundaries([33, 3], device), angles([33, 3], 16, device)
    first = None
    for table in (rotary, torch.stack([rotary, -rotary], 2)[..., 0], rotary.double()):
        again = differentiate(lambda x, t=table: packed_attention(x, cu_seqlens, 33, rotary=t, window=9), qkv, upstream)
        first = first or again
        assert all_equal(again, first)
