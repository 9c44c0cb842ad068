"""Rotary positions and sliding windows of packed attention, against loops in fp64 and transformers."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import attention_plan, packed_attention, rotary_table

from .helpers import Error, Generator, boundaries, doubles, with_gradients

planning = importlib.import_module("xlt_engine.kernels.attention_plan")
LENGTHS = [7, 1, 12, 0, 3, 40, 29, 33]
HEADS, SIZE = 2, 8


@pytest.fixture(params=[(4, 0), (4, 10**9), (64, 3000)], ids=["blocks", "blocks of padded groups", "default"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_QUERIES", request.param[0])
    monkeypatch.setattr(planning, "_GROUP_COST", request.param[1])


def positions(lengths: list[int]) -> Tensor:
    return torch.cat([torch.arange(n) for n in lengths])


def turned(x: Tensor, base: float) -> Tensor:
    """[L, d] at positions 0 to L - 1, pair by pair, by complex numbers."""
    half = x.shape[1] // 2
    powers = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(len(x), dtype=torch.float64)[:, None] * powers
    pairs = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real, pairs.imag), 1)


def reference(qkv: Tensor, lengths: list[int], base: float | None, window: int | None) -> Tensor:
    """Sequence by sequence, head by head."""
    out = []
    for part in qkv.split(lengths):
        place = torch.arange(len(part))
        hidden = (place - place[:, None]).abs() > (len(part) if window is None else window)
        heads = []
        for head in part.unbind(2):
            q, k, v = head.unbind(1)
            if base is not None:
                q, k = turned(q, base), turned(k, base)
            heads.append((q @ k.t() / q.shape[1] ** 0.5).masked_fill(hidden, -torch.inf).softmax(1) @ v)
        out.append(torch.stack(heads, 1))
    return torch.cat(out)


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("base", [None, 100.0], ids=["plain", "rotary"])
@pytest.mark.parametrize("window", [None, 0, 5, 6, 31])
def test_equals_a_loop_in_fp64(window: int | None, base: Any, generator: Generator, relative_error: Error) -> None:
    cu_seqlens = boundaries(LENGTHS)
    qkv = torch.randn(sum(LENGTHS), 3, HEADS, SIZE, generator=generator).requires_grad_()
    rotary = None if base is None else rotary_table(positions(LENGTHS), SIZE, base)
    plan, upstream = attention_plan(cu_seqlens), torch.randn(sum(LENGTHS), HEADS, SIZE, generator=generator)
    packed_attention(qkv, cu_seqlens, 40, plan=plan)  # a layer of another window shares the plan
    call = lambda x: packed_attention(x, cu_seqlens, 40, plan=plan, rotary=rotary, window=window)  # noqa: E731
    out, gradient = with_gradients(call, [qkv], upstream)
    expected, right = with_gradients(lambda x: reference(x, LENGTHS, base, window), doubles([qkv]), upstream)
    assert relative_error(out, expected) < 2e-6
    with torch.no_grad():
        assert relative_error(call(qkv), expected) < 2e-6
    for part in range(3):
        if window != 0 or part == 2:
            assert relative_error(gradient[:, part], right[:, part]) < 1e-5
        else:  # one probability of 1: nothing of it depends on its score
            assert float(gradient[:, part].abs().max()) < 1e-5


@pytest.mark.parametrize(("window", "seed"), [(None, None), (3, 5)])
def test_gradcheck(window: int | None, seed: int | None, generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_QUERIES", 2)
    lengths = [3, 1, 0, 9]
    cu_seqlens, rotary = boundaries(lengths), rotary_table(positions(lengths), 4, 100.0)
    qkv = torch.randn(13, 3, 1, 4, generator=generator).double().requires_grad_()
    call = lambda x: packed_attention(x, cu_seqlens, 9, p=0.3, seed=seed, rotary=rotary, window=window)  # noqa: E731
    assert torch.autograd.gradcheck(call, (qkv,))


def test_dropout_drops_the_same_in_blocks(generator: Generator, relative_error: Error, monkeypatch: Any) -> None:
    """Of every key, by its place in its sequence, wherever its block begins."""
    qkv = torch.randn(sum(LENGTHS), 3, HEADS, SIZE, generator=generator).requires_grad_()
    options = {"p": 0.4, "seed": torch.tensor([2**62 + 1, 11]), "site": 3, "window": 5}
    whole = packed_attention(qkv, boundaries(LENGTHS), 40, **options)
    (expected,) = torch.autograd.grad(whole.square().sum(), qkv)
    monkeypatch.setattr(planning, "_QUERIES", 6)
    out = packed_attention(qkv, boundaries(LENGTHS), 40, **options)
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv)
    assert relative_error(out, whole) < 1e-6
    assert relative_error(gradient, expected) < 1e-5


def test_a_window_over_everything_changes_no_bit(generator: Generator) -> None:
    qkv = torch.randn(sum(LENGTHS), 3, HEADS, SIZE, generator=generator).requires_grad_()
    results = []
    for window in (None, 39):
        out = packed_attention(qkv, boundaries(LENGTHS), 40, p=0.1, seed=1, window=window)
        results.append((out, torch.autograd.grad(out.sum(), qkv)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("gradient", [True, False])
def test_cost_is_linear_in_the_length(gradient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, counted."""
    attention = importlib.import_module("xlt_engine.kernels.attention")
    counted: list[int] = []
    for owner, name in ((attention.functional, "scaled_dot_product_attention"), (attention, "_attend")):
        original = getattr(owner, name)

        def count(*args: object, original: Callable[..., Tensor] = original, **options: object) -> Tensor:
            first = args[0]
            counted.append(
                args[1].shape[2] * first.shape[2] if isinstance(first, Tensor) else first.shape[0] * first.shape[1]
            )
            return original(*args, **options)

        monkeypatch.setattr(owner, name, count)
    scores = []
    for length in (512, 1024, 2048):
        counted.clear()
        qkv = torch.zeros(length, 3, 1, 2, requires_grad=gradient)
        packed_attention(qkv, boundaries([length]), length, window=16)
        scores.append(sum(counted))
    assert scores[2] - scores[1] == 2 * (scores[1] - scores[0])
    assert scores[2] < 2048 * (64 + 2 * 16 + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_that_of_transformers(dtype: torch.dtype, generator: Generator) -> None:
    modeling = pytest.importorskip("transformers.models.modernbert.modeling_modernbert")
    config = modeling.ModernBertConfig(hidden_size=HEADS * SIZE, num_attention_heads=HEADS)
    embedding = modeling.ModernBertRotaryEmbedding(config)
    q, k = torch.randn(2, 1, HEADS, 30, SIZE, generator=generator).to(dtype)
    for kind, parameters in config.rope_parameters.items():
        angles = embedding(torch.ones(1), torch.arange(30)[None], kind)
        table = rotary_table(torch.arange(30), SIZE, parameters["rope_theta"])
        assert torch.equal(table[:, : SIZE // 2], angles[0][0, :, : SIZE // 2])
        assert torch.equal(table[:, SIZE // 2 :], angles[1][0, :, : SIZE // 2])
        from xlt_engine.kernels.attention import rotate, rotate_

        for x, expected in zip((q, k), modeling.apply_rotary_pos_emb(q, k, *angles), strict=True):
            torch.testing.assert_close(rotate(x, table), expected)
            inside = x.clone()
            rotate_(inside, table)
            torch.testing.assert_close(inside, expected)
            rotate_(inside, table, back=True)
            torch.testing.assert_close(inside, x, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=2e-2)


def test_exported_it_is_the_same(generator: Generator, relative_error: Error) -> None:
    class Layer(torch.nn.Module):
        def forward(self, qkv: Tensor, cu_seqlens: Tensor, rotary: Tensor) -> Tensor:
            return packed_attention(qkv, cu_seqlens, 40, rotary=rotary, window=5)

    inputs = (
        torch.randn(sum(LENGTHS), 3, HEADS, SIZE, generator=generator),
        boundaries(LENGTHS),
        rotary_table(positions(LENGTHS), SIZE, 100.0),
    )
    program = torch.export.export(Layer(), inputs)
    assert relative_error(program.module()(*inputs), Layer()(*inputs)) < 1e-6


def test_what_does_not_fit() -> None:
    qkv = torch.zeros(5, 3, 1, 4)
    with pytest.raises(ValueError, match="rotary .* fit together"):
        packed_attention(qkv, boundaries([5]), 5, rotary=torch.zeros(4, 4))
    with pytest.raises(ValueError, match="rotary .* fit together"):
        packed_attention(qkv[..., :3], boundaries([5]), 5, rotary=torch.zeros(5, 3))
    with pytest.raises(ValueError, match="window must be 0 or more, got -1"):
        packed_attention(qkv, boundaries([5]), 5, window=-1)
    with pytest.raises(ValueError, match="heads of size 3"):
        rotary_table(torch.arange(3), 3, 1e4)


@pytest.mark.parametrize("gradient", [True, False])
def test_a_batch_in_order_is_not_turned_in_place(gradient: bool, generator: Generator, relative_error: Error) -> None:
    lengths = [16, 16, 16]
    qkv = torch.randn(48, 3, HEADS, SIZE, generator=generator).requires_grad_(gradient)
    before, rotary = qkv.detach().clone(), rotary_table(positions(lengths), SIZE, 100.0)
    assert attention_plan(boundaries(lengths)).layout.in_order
    out = packed_attention(qkv, boundaries(lengths), 16, rotary=rotary, window=2)
    assert relative_error(out, reference(before.double(), lengths, 100.0, 2)) < 2e-6
    assert torch.equal(qkv, before)
