"""Sequences of every class of lengths in one batch: the backward kernels hold short ones whole, and cut long ones.

In fp16, which the interpreter computes too, and whose classes are up to 64 tokens, up to 128, and more.
"""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, packed_attention, rotary_table

from ..helpers import Device, Generator, boundaries
from .test_attention import differentiate, inputs

attention: Any = importlib.import_module("xlt_engine.kernels.fused.attention")
Launch = tuple[str, dict[str, Any]]
SHORT, MIDDLE, LONG = [1, 0, 33, 64], [65, 128, 70], [129, 200]
# Lengths, the longest length that the call is told, whether tokens see a window with rotary positions, and of what
# classes launches have to be: more than, up to.
BATCHES = {
    "short": (SHORT, 64, True, [(0, 64)]),
    "short, told to be longer": (SHORT, 65, False, [(0, 64), (64, 128)]),
    "the shortest of the second": ([65, 0], 65, False, [(0, 64), (64, 128)]),
    "the longest of the first": ([1, 64, 63, 65, 2], 66, True, [(0, 64), (64, 128)]),
    "short and longer": ([*MIDDLE, *SHORT, 2, 0], 128, False, [(0, 64), (64, 128)]),
    "hardly a short one": ([128, *MIDDLE, 3], 128, True, [(0, 128)]),
    "all": ([65, *SHORT, 129, 128, 3], 130, False, []),
    "all, in a window": ([65, *SHORT, 129, 128, 3], 130, True, []),
    "long": (LONG, 200, True, []),
    "short, told to be long": (SHORT, 129, False, []),
}


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What is launched; a launch apart for short sequences pays already where there are two."""
    several: list[Launch] = []

    def record(kernel: Any, *arguments: Any, **constants: Any) -> None:
        several.append((kernel.__name__, constants))
        launch(kernel, *arguments, **constants)

    launch = attention.launch
    monkeypatch.setattr(attention, "launch", record)
    monkeypatch.setattr(attention, "_AT_ONCE", 1)
    return several


def near(actual: Tensor, truth: Tensor) -> bool:
    return bool((actual.cpu().double() - truth).norm() <= 2e-3 * truth.norm())


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_every_class_equals_the_reference_in_fp64(batch: Any, launches: Any, device: Device, generator: Any) -> None:
    """With dropout. Each sequence counts, since a class may have but one."""
    lengths, longest, windowed, classes = batch
    qkv, upstream = inputs(lengths, 1, 16, device, torch.float16, generator)
    places = torch.cat([torch.arange(n) for n in lengths])
    rotary, window = (rotary_table(places, 16, 100.0), 20) if windowed else (None, None)

    def call(x: Tensor) -> Tensor:
        turned = None if rotary is None else rotary.to(x.device)
        drop: dict[str, Any] = {"p": 0.2, "seed": 5, "site": 3}
        return packed_attention(x, boundaries(lengths, x.device), longest, **drop, rotary=turned, window=window)

    ours = differentiate(call, qkv, upstream)
    with dispatch.using("reference"):
        truth = differentiate(call, qkv.cpu().double(), upstream.cpu().double())
    backward = [constants for name, constants in launches if name == "backward_whole_kernel"]
    assert [(constants["ABOVE"], constants["ROWS"]) for constants in backward] == classes
    assert near(ours[0], truth[0])
    for n, actual, expected in zip(lengths, *(result[1].split(lengths) for result in (ours, truth)), strict=True):
        for part in range(0 if n > 1 else 2, 3):  # queries and keys of one token have no gradient
            assert near(actual[:, part], expected[:, part]), (n, part)


def test_short_sequences_do_not_go_the_long_way(device: Device, generator: Generator) -> None:
    """Beside a long one they need no output of forward, and have the bits of a batch of their own."""
    lengths = [*SHORT, 129]
    qkv, upstream = inputs(lengths, 1, 16, device, torch.float16, generator)
    short, seed = sum(SHORT), torch.tensor([3, 0], device=device)

    def gradient(count: int, most: int) -> Tensor:
        rows, bounds = slice(0, sum(lengths[:count])), boundaries(lengths[:count], device)
        out, log_sum = attention.packed_attention(qkv[rows], bounds, most, seed, 1, 0.2, True)
        out[:short] = float("nan")
        return attention.packed_attention_backward(upstream[rows], qkv[rows], out, log_sum, bounds, most, seed, 1, 0.2)

    alone, together = gradient(len(SHORT), 64), gradient(len(lengths), 129)
    assert not together.isnan().any()
    assert torch.equal(together[:short], alone)


@pytest.mark.parametrize(
    ("tokens", "sequences", "apart"), [(64 * 45, 45, True), (64 * 45 + 1, 45, False), (44 * 8, 44, False)]
)
def test_a_launch_for_short_sequences_needs_many(tokens: int, sequences: int, apart: bool) -> None:
    """45 sequences and 12 heads are more programs than an H100 holds at once, 44 are not."""
    qkv, bounds = torch.empty(tokens, 3, 12, 64, dtype=torch.float16), torch.empty(sequences + 1, dtype=torch.int32)
    assert attention._Call(qkv, 100, bounds, None, 0, 0.0, None, None).many_short is apart
