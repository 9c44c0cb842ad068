import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import attention_plan, dispatch, packed_attention
from xlt_engine.kernels.masks import keep_mask, keep_scale

from ..helpers import AsGoodAs, Device, DType, Generator, all_equal, boundaries

SMALL = [5, 17, 0, 1, 32]
# Lengths, heads, head size, and the longest length that the call is told. In fp32 a sequence of up to 64 tokens is
# held whole by a program of the backward kernel, in 16 bits one of up to 128; longer ones go in blocks.
CASES = {
    "edges of small tiles": ([1, 2, 15, 16, 17, 0, 31, 32, 33], 2, 64, 33),
    "edges of the largest whole tile": ([63, 64, 3], 1, 64, 64),
    "just longer": ([65, 1, 16], 2, 64, 65),
    "in blocks": ([127, 128, 129, 0, 200], 1, 64, 200),
    "told to be long": ([4, 0, 20], 3, 32, 70),
    "one sequence": ([19], 3, 48, 19),
    "in blocks of odd heads": ([70, 2], 1, 48, 70),
    "heads of 16": ([33, 5], 2, 16, 33),
    "heads below a tile": ([9, 2], 2, 8, 9),
    "wide heads": ([20, 40], 1, 128, 40),
    "wide heads in blocks": ([70], 1, 100, 70),
}


def loop(qkv: Tensor, lengths: list[int]) -> Tensor:
    """Sequence by sequence, head by head."""
    out = []
    for part in qkv.split(lengths):
        q, k, v = part.unbind(1)
        scores = torch.einsum("ihd,jhd->hij", q, k) * qkv.shape[3] ** -0.5
        out.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), v))
    return torch.cat(out)


def inputs(
    lengths: list[int], heads: int, size: int, device: Device, dtype: DType, generator: Generator
) -> tuple[Tensor, Tensor]:
    qkv = torch.randn(sum(lengths), 3, heads, size, generator=generator)
    upstream = torch.randn(sum(lengths), heads, size, generator=generator)
    return qkv.to(device, dtype), upstream.to(device, dtype)


def differentiate(call: Callable[[Tensor], Tensor], qkv: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    leaf = qkv.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = call(leaf)
    (gradient,) = torch.autograd.grad(out, leaf, upstream)
    return out.detach(), gradient


def compare(ours: tuple[Tensor, Tensor], native: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor], check: AsGoodAs):
    check(ours[0], native[0], truth[0])
    for part in range(3):
        # A row is a token: all of a head's gradient may be next to nothing, as for queries of a sequence of one token.
        a, b, c = (gradients[1][:, part].flatten(1) for gradients in (ours, native, truth))
        counted = c.abs().amax(1) > 1e-9
        assert not a[~counted.to(a.device)].abs().gt(1e-5).any()
        # A row whose terms cancel has their rounding, not its own: it counts among all rows, and not by itself.
        norms = c.norm(dim=1)
        whole = counted & (norms > norms[counted].median() / 64) if counted.any() else counted
        for rows, shape in ((counted, (1, -1)), (whole, (-1, c.shape[1]))):
            check(*(t[rows.to(t.device)].reshape(shape) for t in (a, b, c)))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_a_loop_in_fp64(case: Any, device: Device, dtype: DType, generator: Any, as_good_as: AsGoodAs) -> None:
    lengths, heads, size, longest = case
    qkv, upstream = inputs(lengths, heads, size, device, dtype, generator)
    cu_seqlens = boundaries(lengths, device)
    ours = differentiate(lambda x: packed_attention(x, cu_seqlens, longest), qkv, upstream)
    native = differentiate(lambda x: loop(x, lengths), qkv, upstream)
    truth = differentiate(lambda x: loop(x, lengths), qkv.cpu().double(), upstream.cpu().double())
    compare(ours, native, truth, as_good_as)


@pytest.mark.parametrize("longest", [100, 140], ids=["whole", "in blocks"])
@pytest.mark.parametrize("seed", [None, 3])
def test_tiles_of_16_bits(longest: int, seed: Any, device: Device, generator: Generator, as_good_as: AsGoodAs) -> None:
    """fp16, which the interpreter computes too: the tiles are larger than those of fp32."""
    lengths = [100, 3, 65]
    qkv, upstream = inputs(lengths, 1, 64, device, torch.float16, generator)
    cu_seqlens = boundaries(lengths, device)
    drop: dict[str, Any] = {"p": 0.2, "seed": seed}
    ours = differentiate(lambda x: packed_attention(x, cu_seqlens, longest, **drop), qkv, upstream)
    with dispatch.using("reference"):
        double = qkv.cpu().double(), upstream.cpu().double()
        truth = differentiate(lambda x: packed_attention(x, cu_seqlens.cpu(), longest, **drop), *double)
    native = differentiate(lambda x: loop(x, lengths), qkv, upstream)
    if seed is not None:
        plain = differentiate(lambda x: loop(x, lengths), *double)
        native = (truth[0] + (native[0].cpu() - plain[0]), truth[1] + (native[1].cpu() - plain[1]))
        native = (native[0].half(), native[1].half())
    compare(ours, native, truth, as_good_as)


@pytest.mark.parametrize(
    ("lengths", "longest"), [(SMALL, 32), ([40, 3], 40), ([33, 65], 65)], ids=["small", "whole", "in blocks"]
)
def test_drops_what_the_reference_drops(
    lengths: list[int], longest: int, device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs
) -> None:
    """Forward and backward: a mask that is not replayed, or moved by one, is wrong by the size of the result."""
    qkv, upstream = inputs(lengths, 2, 64, device, dtype, generator)
    cu_seqlens = boundaries(lengths, device)
    drop: dict[str, Any] = {"p": 0.3, "seed": -(2**62) + 5, "site": 7}
    ours = differentiate(lambda x: packed_attention(x, cu_seqlens, longest, **drop), qkv, upstream)
    with dispatch.using("reference"):
        call = lambda x: packed_attention(x, cu_seqlens.to(x.device), longest, **drop)  # noqa: E731
        native = differentiate(call, qkv, upstream)
        truth = differentiate(call, qkv.cpu().double(), upstream.cpu().double())
    compare(ours, native, truth, as_good_as)


@pytest.mark.parametrize("longest", [24, 65])
def test_masks_are_counters_of_token_head_and_key(longest: int, device: Device, dtype: DType) -> None:
    """With one-hot values the output is the dropped probability matrix: equal scores, so 0 or keep_scale / length."""
    lengths, heads, size, seed, site = [7, 0, 24, 3], 3, 32, 11, 5
    qkv = torch.zeros(sum(lengths), 3, heads, size)
    starts = boundaries(lengths).tolist()
    for start, length in zip(starts, lengths, strict=False):
        qkv[start : start + length, 2] = torch.eye(size)[:length, None]
    drop: dict[str, Any] = {"p": 0.4, "seed": torch.tensor(seed, device=device), "site": site}
    out = packed_attention(qkv.to(device, dtype), boundaries(lengths, device), longest, **drop).cpu()
    for start, length in zip(starts, lengths, strict=False):
        rows = (torch.arange(start, start + length)[:, None] * heads + torch.arange(heads)).flatten()
        if length:
            kept = keep_mask(rows, length, 0.4, seed, site).view(length, heads, length)
            expected = kept * (keep_scale(0.4) / length)
            torch.testing.assert_close(out[start : start + length, :, :length].float(), expected, rtol=5e-3, atol=0.0)
            assert torch.equal(out[start : start + length, :, :length] != 0, kept.bool())


def test_a_sequence_depends_on_its_place_in_the_batch_and_not_on_its_neighbours(
    device: Device, dtype: DType, generator: Generator
) -> None:
    qkv, upstream = inputs([30], 2, 32, device, dtype, generator)
    drop: dict[str, Any] = {"p": 0.2, "seed": 9}
    expected = None
    for lengths in ([4, 6, 20], [10, 20], [0, 10, 20]):
        cu_seqlens = boundaries(lengths, device)
        out, gradient = differentiate(lambda x, c=cu_seqlens: packed_attention(x, c, 20, **drop), qkv, upstream)
        if expected is None:
            expected = out[10:], gradient[10:]
        assert all_equal((out[10:], gradient[10:]), expected)


@pytest.mark.parametrize("longest", [20, 65])
def test_extreme_scores(longest: int, device: Device, dtype: DType, generator: Generator) -> None:
    """Scores of +-2000 that are exact in every dtype: the last key takes all; and equal ones, which share alike."""
    qkv, upstream = inputs([20], 2, 64, device, dtype, generator)
    cu_seqlens = boundaries([20], device)
    values = qkv[:, 2].cpu().double()
    for key, expected in (
        (torch.arange(20.0) * 256 - 2000, values[-1:].expand(20, -1, -1)),
        (torch.full((20,), -2000.0), values.mean(0, keepdim=True).expand(20, -1, -1)),
        (torch.full((20,), 2000.0), values.mean(0, keepdim=True).expand(20, -1, -1)),
    ):
        qkv[:, :2] = 0
        qkv[:, 0, :, 0] = 8
        qkv[:, 1, :, 0] = key.to(qkv)[:, None]
        out, gradient = differentiate(lambda x: packed_attention(x, cu_seqlens, longest), qkv, upstream)
        torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-2, atol=1e-2)
        assert gradient.isfinite().all()
    # Scaled before, since 30 times a gradient may be more than fp16 has.
    out, gradient = differentiate(lambda x: packed_attention(x, cu_seqlens, longest, p=0.1, seed=1), qkv * 30, upstream)
    assert out.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("longest", [33, 65])
def test_strides_and_types_of_boundaries_change_nothing(longest: int, device: Any, dtype: Any, generator: Any) -> None:
    lengths = [5, 0, 33]
    qkv, upstream = inputs(lengths, 2, 32, device, dtype, generator)
    drop: dict[str, Any] = {"p": 0.1, "seed": 4}

    def call(x: Tensor, cu_seqlens: Tensor) -> Tensor:
        return packed_attention(x, cu_seqlens, longest, **drop)

    expected = differentiate(lambda x: call(x, boundaries(lengths, device)), qkv, upstream)
    room = qkv.new_full((qkv.shape[0], 4, 3, 40), float("nan"))
    part = room[:, 1:, 1:, 3:35]
    part.copy_(qkv)
    apart = qkv.new_full((*qkv.shape, 2), float("nan"))[..., 0].copy_(qkv)
    spread = torch.stack([upstream, upstream], -1)[..., 0]
    long = boundaries(lengths, device, torch.int64)
    for given in (part, apart):
        leaf = given.detach().requires_grad_()
        out = call(leaf, torch.stack([long, -long], 1)[:, 0])
        (gradient,) = torch.autograd.grad(out, leaf, spread)
        assert all_equal((out, gradient), expected)


@pytest.mark.parametrize("longest", [33, 65])
def test_runs_are_equal_to_the_bit(longest: int, device: Device, dtype: DType, generator: Generator) -> None:
    qkv, upstream = inputs([33, 3], 2, 64, device, dtype, generator)
    cu_seqlens = boundaries([33, 3], device)
    call = lambda x: packed_attention(x, cu_seqlens, longest, p=0.1, seed=2)  # noqa: E731
    first, *runs = (differentiate(call, qkv, upstream) for _ in range(100 if device.type == "cuda" else 2))
    assert all(all_equal(run, first) for run in runs)


def test_without_a_wanted_gradient_nothing_is_kept(device: Device, dtype: DType, generator: Generator) -> None:
    fused = importlib.import_module("xlt_engine.kernels.fused.attention")
    qkv, _ = inputs([7, 3], 2, 16, device, dtype, generator)
    cu_seqlens = boundaries([7, 3], device)
    seed = torch.tensor([3, 0], device=device)
    out, log_sum = fused.packed_attention(qkv, cu_seqlens, 7, seed, 1, 0.2, False)
    assert log_sum.numel() == 0
    with_gradient = packed_attention(qkv.clone().requires_grad_(), cu_seqlens, 7, p=0.2, seed=3, site=1)
    assert torch.equal(out, with_gradient)
    kept = {t.shape for t in with_gradient.grad_fn.saved_tensors if t is not None}
    assert kept == {qkv.shape, (2, 10), cu_seqlens.shape, (2,)}
    assert packed_attention(qkv, cu_seqlens, 7).grad_fn is None
    with torch.no_grad():
        assert packed_attention(qkv.clone().requires_grad_(), cu_seqlens, 7).grad_fn is None


def test_no_tokens(device: Device, dtype: DType) -> None:
    for starts, longest in (([0], 0), ([0, 0, 0], 0), ([0, 0], 5)):
        qkv = torch.zeros(0, 3, 2, 16, device=device, dtype=dtype, requires_grad=True)
        out = packed_attention(qkv, torch.tensor(starts, device=device), longest, p=0.1, seed=1)
        out.sum().backward()
        assert out.shape == (0, 2, 16)
        assert qkv.grad is not None


def test_compiled_for_any_length(device: Device, generator: Generator) -> None:
    """The longest length is a symbol; programs are made again only where it chooses other kernels."""
    compiled = torch.compile(packed_attention, fullgraph=True, backend="aot_eager", dynamic=True)
    for lengths in ([9, 3], [17, 5, 2], [65]):
        qkv, upstream = inputs(lengths, 1, 16, device, torch.float32, generator)
        results = [
            differentiate(lambda x, f=f, n=lengths: f(x, boundaries(n, device), max(n), p=0.2, seed=3), qkv, upstream)
            for f in (packed_attention, compiled)
        ]
        assert all_equal(*results)
    torch._dynamo.reset()


def test_wide_heads_and_fp64_run_in_plain_torch(device: Device, generator: Generator) -> None:
    wide, _ = inputs([9], 1, 136, device, torch.float32, generator)
    for qkv in (wide, wide.double()):
        torch.testing.assert_close(packed_attention(qkv, boundaries([9], device), 9), loop(qkv, [9]))


def test_a_plan_is_checked_where_its_end_is_known(device: Device) -> None:
    qkv = torch.zeros(5, 3, 1, 16, device=device)
    plan = attention_plan(boundaries([4]))
    with pytest.raises(ValueError, match="end at 4"):
        packed_attention(qkv, boundaries([4], device), 4, plan=plan)
    with pytest.raises(ValueError, match="cu_seqlens on meta"):
        packed_attention(qkv, boundaries([5]).to("meta"), 5)


def test_nothing_reads_boundaries_on_the_host(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    cu_seqlens = boundaries([4, 1], device)
    plan = attention_plan(cu_seqlens)

    def refuse(*_: Any) -> None:
        raise AssertionError("the host read cu_seqlens")

    planning = importlib.import_module("xlt_engine.kernels.attention_plan")
    for name in ("_checked", "_make_layout"):
        monkeypatch.setattr(planning, name, refuse)
    qkv = torch.zeros(5, 3, 1, 16, device=device)
    packed_attention(qkv, cu_seqlens, 4, plan=plan)
    packed_attention(qkv, cu_seqlens, 4)
