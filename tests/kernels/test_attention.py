import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import attention_plan, packed_attention

from .helpers import Error, Generator, boundaries, doubles, with_gradients

module = importlib.import_module("xlt_engine.kernels.attention")
planning = importlib.import_module("xlt_engine.kernels.attention_plan")
LENGTHS = {
    "ragged": [7, 1, 12, 3, 3, 19, 7],
    "equal": [6, 6, 6, 6],
    "one": [9],
    "with empty sequences": [0, 4, 0, 11, 5, 0],
    "sorted pairs": [2, 2, 5, 5],
}


@pytest.fixture(params=[0, 3000, 10**9], ids=["a group for each length", "default", "one group"])
def grouped(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_GROUP_COST", request.param)
    monkeypatch.setattr(module, "_SPAN_ELEMENTS", 300)


def reference(qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Sequence by sequence, head by head."""
    out = []
    ends = cu_seqlens.tolist()
    for start, end in zip(ends, ends[1:], strict=False):
        q, k, v = qkv[start:end].unbind(1)
        heads = []
        for h in range(qkv.shape[2]):
            scores = q[:, h] @ k[:, h].t() / qkv.shape[3] ** 0.5
            heads.append(scores.softmax(-1) @ v[:, h])
        out.append(torch.stack(heads, 1))
    return torch.cat(out)


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_fp32_equals_a_loop_over_sequences_in_fp64(lengths: list[int], generator: Any, relative_error: Error) -> None:
    cu_seqlens = boundaries(lengths, dtype=torch.int64)
    qkv = (torch.randn(sum(lengths), 3, 3, 8, generator=generator) * 2).requires_grad_()
    upstream = torch.randn(sum(lengths), 3, 8, generator=generator)
    out, gradient = with_gradients(lambda x: packed_attention(x, cu_seqlens, max(lengths)), [qkv], upstream)
    expected, truth = with_gradients(lambda x: reference(x, cu_seqlens), doubles([qkv]), upstream)
    assert relative_error(out, expected) < 1e-6
    with torch.no_grad():
        assert relative_error(packed_attention(qkv, cu_seqlens, max(lengths)), expected) < 1e-6
    for part in range(3):
        assert relative_error(gradient[:, part], truth[:, part]) < 1e-5


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("seed", [None, 5])
def test_gradcheck_with_and_without_dropout(seed: int | None, generator: Generator) -> None:
    cu_seqlens = boundaries([3, 1, 0, 5, 3])
    qkv = torch.randn(12, 3, 2, 3, generator=generator).double().requires_grad_()
    plan = attention_plan(cu_seqlens)
    assert torch.autograd.gradcheck(lambda x: packed_attention(x, cu_seqlens, 5, p=0.3, seed=seed, plan=plan), (qkv,))


def observed_probabilities(lengths: list[int], p: float, seed: int, site: int = 0, heads: int = 2) -> list[Tensor]:
    """[heads, L, L] for each sequence: with one-hot values the output is the dropped probability matrix."""
    size = max(lengths)
    qkv = torch.randn(sum(lengths), 3, heads, size, generator=torch.Generator().manual_seed(1))
    cu_seqlens = boundaries(lengths)
    for start, length in zip(cu_seqlens.tolist(), lengths, strict=False):
        qkv[start : start + length, 2] = torch.eye(size)[:length, None]
    out = packed_attention(qkv, cu_seqlens, size, p=p, seed=seed, site=site)
    parts = out.split(lengths)
    return [part[..., :length].transpose(0, 1) for part, length in zip(parts, lengths, strict=True)]


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_zeroes_probabilities_at_its_rate_and_rescales_the_others(p: float) -> None:
    lengths = [40, 64, 64, 37, 5]
    plain = torch.cat([m.flatten() for m in observed_probabilities(lengths, 0.0, 1)])
    dropped = torch.cat([m.flatten() for m in observed_probabilities(lengths, p, 1)])
    kept = dropped != 0
    assert abs(float(kept.float().mean()) - (1 - p)) < 5 * (p * (1 - p) / kept.numel()) ** 0.5
    torch.testing.assert_close(dropped[kept], plain[kept] / (1 - p), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("seed", [None, 5])
def test_groups_of_a_multiple_give_the_same(seed: int | None, generator: Generator, relative_error: Error) -> None:
    lengths = [3, 17, 40, 0, 33, 40]
    cu_seqlens = boundaries(lengths)
    plan, wide = attention_plan(cu_seqlens), attention_plan(cu_seqlens, multiple=24)
    assert all(group.length % 24 == 0 for group in wide.layout.groups)
    assert any(group.length % 24 for group in plan.layout.groups)
    results = []
    for used in (plan, wide):
        qkv = torch.randn(133, 3, 2, 8, generator=generator.manual_seed(3)).double().requires_grad_()
        out = packed_attention(qkv, cu_seqlens, 40, p=0.3, seed=seed, plan=used)
        out.backward(torch.randn(out.shape, generator=generator).double())
        results.append((out, qkv.grad))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-12


def test_dropout_depends_on_seed_and_site_only() -> None:
    lengths = [20, 31]
    first = observed_probabilities(lengths, 0.5, 1)
    torch.manual_seed(9)
    again = observed_probabilities(lengths, 0.5, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (observed_probabilities(lengths, 0.5, 2), observed_probabilities(lengths, 0.5, 1, site=1)):
        same = (other[1] != 0) == (first[1] != 0)
        assert abs(float(same.float().mean()) - 0.5) < 5 * 0.5 / same.numel() ** 0.5
    heads = (first[1][0] != 0) == (first[1][1] != 0)
    assert abs(float(heads.float().mean()) - 0.5) < 5 * 0.5 / heads.numel() ** 0.5


def test_a_sequence_does_not_depend_on_its_batch(generator: Generator, relative_error: Error) -> None:
    pieces = [torch.randn(n, 3, 2, 8, generator=generator) for n in (9, 4, 17, 10)]
    alone = packed_attention(pieces[0], boundaries([9]), 9)
    together = packed_attention(torch.cat(pieces), boundaries([9, 4, 17, 10]), 17)
    assert relative_error(together[:9], alone) < 1e-6


@pytest.mark.parametrize("seed", [None, 3])
def test_bf16_is_no_worse_than_the_loop_in_bf16(seed: int | None, generator: Generator, relative_error: Error) -> None:
    lengths = LENGTHS["ragged"]
    cu_seqlens = boundaries(lengths)
    qkv = torch.randn(sum(lengths), 3, 2, 16, generator=generator).bfloat16().requires_grad_()
    upstream = torch.randn(sum(lengths), 2, 16, generator=generator).bfloat16()
    ours, truth = (
        with_gradients(lambda x: packed_attention(x, cu_seqlens, 19, p=0.2, seed=seed), leaves, upstream)
        for leaves in ([qkv], doubles([qkv]))
    )
    native, plain = (
        with_gradients(lambda x: reference(x, cu_seqlens), leaves, upstream) for leaves in ([qkv], doubles([qkv]))
    )
    assert ours[0].dtype == torch.bfloat16
    # The loop has no dropout, and so a rounding less in its gradient.
    for number, factor in enumerate((1.1, 1.1 if seed is None else 1.2)):
        assert relative_error(ours[number], truth[number]) < factor * relative_error(native[number], plain[number])


def test_autocast_changes_nothing(generator: Generator) -> None:
    qkv = torch.randn(12, 3, 2, 8, generator=generator).requires_grad_()
    plain = packed_attention(qkv, boundaries([5, 7]), 7, p=0.1, seed=1)
    (expected,) = torch.autograd.grad(plain.sum(), qkv)
    with torch.autocast("cpu", torch.bfloat16):
        out = packed_attention(qkv, boundaries([5, 7]), 7, p=0.1, seed=1)
        (gradient,) = torch.autograd.grad(out.sum(), qkv)
    assert torch.equal(out, plain)
    assert torch.equal(gradient, expected)


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_plan_holds_every_token_once(lengths: list[int]) -> None:
    plan = attention_plan(boundaries(lengths)).layout
    slots = plan.slot_token.numel()
    real = torch.ones(slots, dtype=torch.bool) if plan.padding is None else ~plan.padding
    assert sorted(plan.slot_token[real].tolist()) == list(range(sum(lengths)))
    assert torch.equal(plan.slot_token[plan.token_slot], torch.arange(sum(lengths)))
    assert slots == sum(g.sequences * g.length for g in plan.groups)
    assert sum(g.sequences for g in plan.groups) == sum(n > 0 for n in lengths)
    assert all(g.length in lengths or g.length == planning._SHORTEST > min(lengths) for g in plan.groups)


def test_equal_lengths_form_one_group_without_padding() -> None:
    plan = attention_plan(boundaries([48] * 32)).layout
    assert [(g.sequences, g.length, g.key_mask) for g in plan.groups] == [(32, 48, None)]
    assert plan.in_order
    assert plan.padding is None


def test_cuts_have_the_least_cost_of_all_partitions(generator: Generator) -> None:
    def cost(spans: list[tuple[int, int]], lengths: list[int]) -> int:
        total = 0
        for begin, end in spans:
            longest = max(lengths[end - 1], planning._SHORTEST)
            total += planning._GROUP_COST + (end - begin) * longest * (longest + planning._TOKEN_COST)
        return total

    lengths = sorted(torch.randint(1, 120, (9,), generator=generator).tolist())
    partitions = []
    for choice in range(1 << 8):
        edges = [0, *(i + 1 for i in range(8) if choice >> i & 1), 9]
        partitions.append(list(zip(edges, edges[1:], strict=False)))
    assert cost(planning._cuts(lengths), lengths) == min(cost(spans, lengths) for spans in partitions)


def test_no_tokens_and_wrong_shapes() -> None:
    empty = torch.zeros(0, 3, 2, 4, requires_grad=True)
    packed_attention(empty, torch.tensor([0, 0]), 0).sum().backward()
    assert packed_attention(empty.detach(), torch.tensor([0]), 0).shape == (0, 2, 4)
    with pytest.raises(ValueError, match="3, heads, d"):
        packed_attention(torch.zeros(5, 2, 2, 4), boundaries([5]), 5)
    with pytest.raises(ValueError, match="end at 4"):
        packed_attention(torch.zeros(5, 3, 2, 4), boundaries([4]), 4)
    with pytest.raises(ValueError, match="probability"):
        packed_attention(torch.zeros(5, 3, 2, 4), boundaries([5]), 5, p=1.0, seed=1)
    with pytest.raises(ValueError, match="cu_seqlens"):
        attention_plan(torch.tensor([0, 5, 3]))


def test_a_plan_is_made_once_when_it_is_first_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = planning._make_layout
    monkeypatch.setattr(planning, "_make_layout", lambda *args: made.append(args) or original(*args))
    plan = attention_plan(boundaries([3, 5]))
    assert plan.tokens == 8
    assert made == []
    assert len(plan.layout.groups) == len(attention_plan(boundaries([3, 5])).layout.groups)
    assert plan.layout is plan.layout
    assert plan.rows(2, 3) is plan.rows(2, 3)
    assert len(made) == 2


def test_boundaries_on_a_device_are_not_read_before_the_first_use() -> None:
    plan = attention_plan(torch.empty(3, dtype=torch.int32, device="meta"))
    assert plan.tokens is None
    with pytest.raises(NotImplementedError):
        _ = plan.layout


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("seed", [None, 5])
def test_nothing_waits_for_a_device_where_the_host_knows_the_lengths(window: int | None, seed: int | None) -> None:
    """On "meta" tensors have no values: whatever asks for one fails."""
    lengths = [3, 17, 40, 33, 40]
    cu_seqlens = boundaries(lengths).to("meta")
    plan = attention_plan(cu_seqlens, starts=boundaries(lengths).tolist())
    qkv = torch.empty(133, 3, 2, 8, device="meta", requires_grad=True)
    with torch.no_grad():
        packed_attention(qkv, cu_seqlens, 40, plan=plan, window=window)
    packed_attention(qkv, cu_seqlens, 40, p=0.3, seed=seed, plan=plan, window=window).sum().backward()
    assert qkv.grad is not None
    with pytest.raises(NotImplementedError):
        packed_attention(qkv, cu_seqlens, 40)
