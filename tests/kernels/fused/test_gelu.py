"""The GELU kernels and linear_gelu on them, against the definition in fp64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import linear_gelu

pytest.importorskip("triton")
from xlt_engine.kernels.fused import gelu as fused

from ..helpers import AsGoodAs, Device, DType, Generator, all_equal, check_all, doubles, mask_of, with_gradients
from ..helpers import exact_gelu as exact


def exact_slope(x: Tensor) -> Tensor:
    return torch.special.erfc(-x / 2**0.5) / 2 + x * torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5


def native_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(functional.linear(x, weight, bias))


def exact_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return exact(functional.linear(x, weight, bias))


def layer(
    shape: tuple[int, int, int], device: Device, dtype: DType, generator: Generator
) -> tuple[list[Tensor], Tensor]:
    """x, weight and bias, and an upstream gradient."""
    rows, size, width = shape
    tensors = [torch.randn(s, generator=generator) for s in ((rows, size), (width, size), (width,))]
    tensors[1] *= 1.5 / size**0.5
    upstream = torch.randn(rows, width, generator=generator) + 0.5
    return [t.to(device, dtype).requires_grad_() for t in tensors], upstream


# (9, 2, 3000) is many tiles wide; (40000, 1, 5) has more partial sums than the second reduction loads at a time.
SHAPES = [(1, 1, 1), (127, 17, 129), (129, 5, 257), (65, 3, 31), (9, 2, 3000), (40000, 1, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_gelu_and_its_gradients(shape: Any, device: Any, dtype: DType, generator: Any, as_good_as: Any) -> None:
    tensors, upstream = layer(shape, device, dtype, generator)
    ours, native = (with_gradients(f, tensors, upstream) for f in (linear_gelu, native_layer))
    check_all(as_good_as, ours, native, with_gradients(exact_layer, doubles(tensors), upstream.to(dtype)))


def test_the_normal_distribution_is_exact_to_fp32(device: Device) -> None:
    """|gelu(x) / x - Phi(x)| and the slope's error; the tanh approximation is 5e-4 off."""
    pre = torch.cat([torch.linspace(-13, 13, 40_000), torch.logspace(-30, 0, 301), -torch.logspace(-30, 0, 301)])
    pre = pre.view(-1, 3).to(device).requires_grad_()
    out = fused.gelu(pre, None, None, 0, 0.0)
    (slope,) = torch.autograd.grad(out, pre, torch.ones_like(out))
    x = pre.detach().cpu().double()
    assert bool(((out.detach().cpu() - exact(x)).abs() <= 3e-7 * x.abs()).all())
    assert float((slope.cpu() - exact_slope(x)).abs().max()) < 3e-7
    tail = (x > -5) & (x < 0)
    assert float(((out.detach().cpu() - exact(x)) / exact(x)).abs()[tail].max()) < 1e-3


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_value(kind: DType, device: Device) -> None:
    """One rounding: equal to the rounded truth but for near ties, and never further than the next value."""
    if kind == torch.bfloat16 and device.type == "cpu":
        pytest.skip("the interpreter's bf16 is not a GPU's")
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(kind)
    x = x[x.isfinite() & (x.abs() < 1e18)]
    out = fused.gelu(x.view(-1, 2).to(device), None, None, 0, 0.0).view(-1).cpu()
    truth = exact(x.double()).to(kind)
    counted = (x > -5) & (x != 0)
    steps = (out.view(torch.int16).int() - truth.view(torch.int16).int())[counted].abs()
    assert int(steps.max()) <= 1
    assert float((steps > 0).double().mean()) < 0.01
    assert float(out[~counted].abs().max()) < 2e-6


def test_extreme_values(device: Device, dtype: DType) -> None:
    infinity, largest = float("inf"), 6e4 if dtype == torch.float16 else 1e18
    values = [infinity, -infinity, float("nan"), largest, -largest, 40.0, -40.0, 0.0, -0.0]
    pre = torch.tensor([values], device=device, dtype=dtype).requires_grad_()
    out = fused.gelu(pre, None, None, 0, 0.0)
    (slope,) = torch.autograd.grad(out, pre, torch.ones_like(out))
    expected = torch.tensor([[infinity, 0, float("nan"), largest, 0, 40, 0, 0, 0]]).to(dtype)
    torch.testing.assert_close(out.detach().cpu(), expected, rtol=0, atol=0, equal_nan=True)
    expected = torch.tensor([[1, 0, float("nan"), 1, 0, 1, 0, 0.5, 0.5]]).to(dtype)
    torch.testing.assert_close(slope.cpu(), expected, rtol=0, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("programs", [1, 5, 528])
def test_bias_gradient_is_the_column_sum(
    programs: int, kind: DType, device: Device, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32 for an fp32 bias, as under autocast; with fewer programs than blocks of rows, and as many."""
    monkeypatch.setattr(fused, "_PROGRAMS", programs)
    pre, grad = (torch.randn(300, 261, generator=generator).to(device, kind) for _ in range(2))
    d_pre, d_bias = fused.gelu_backward(grad, pre, None, 0, 0.0, True, torch.float32)
    slope = exact_slope(pre.cpu().double())
    sums, size = (slope * grad.cpu().double()).sum(0), (slope * grad.cpu().double()).abs().sum(0)
    assert d_bias.dtype == torch.float32
    assert float(((d_bias.cpu() - sums) / size).abs().max()) < 1e-6
    rounding = torch.finfo(kind).eps
    assert float(((d_pre.cpu().double().sum(0) - d_bias.cpu()) / size).abs().max()) < max(rounding, 1e-6)


@pytest.mark.parametrize(("seed", "site", "p"), [(5, 0, 0.1), (-3, 7, 0.5), (2**62 + 12345, 1_000_001, 0.97)])
def test_drops_what_the_reference_drops_and_replays_the_mask(
    seed: int, site: int, p: float, device: Device, dtype: DType, generator: Generator
) -> None:
    pre, grad = (torch.randn(65, 301, generator=generator).to(device, dtype) for _ in range(2))
    pre.requires_grad_()
    mask = mask_of((65, 301), p, seed, site)
    seeds, bias = torch.tensor([seed, 0], device=device), torch.zeros(301, device=device, requires_grad=True)
    out = fused.gelu(pre, bias, seeds, site, p)
    d_pre, d_bias = torch.autograd.grad(out, [pre, bias], grad)
    x, upstream = pre.detach().cpu().double(), grad.cpu().double()
    expected, slopes = exact(x) * mask, exact_slope(x) * mask * upstream
    tolerance = 4 * torch.finfo(dtype).eps
    for actual, true in ((out, expected), (d_pre, slopes)):
        assert torch.equal(actual.detach().cpu() == 0, true == 0)
        torch.testing.assert_close(actual.detach().cpu().double(), true, rtol=tolerance, atol=tolerance / (1 - p))
    torch.testing.assert_close(d_bias.cpu().double(), slopes.sum(0), rtol=1e-5, atol=1e-5 / (1 - p))
    overwritten = pre.detach().clone()
    fused.gelu_(overwritten, seeds, site, p)
    assert torch.equal(overwritten, out)


def test_strided_inputs_and_upstream(device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs) -> None:
    x = torch.randn(40, 65, generator=generator).to(device, dtype).t().requires_grad_()
    weight = (torch.randn(33, 80, generator=generator) / 6).to(device, dtype)[:, ::2].requires_grad_()
    bias = torch.randn(66, generator=generator).to(device, dtype)[::2].requires_grad_()
    upstream = torch.randn(33, 65, generator=generator).t()
    for given in (upstream, upstream[:, :1].expand(65, 33)):
        ours, native = (with_gradients(f, [x, weight, bias], given) for f in (linear_gelu, native_layer))
        check_all(as_good_as, ours, native, with_gradients(exact_layer, doubles([x, weight, bias]), given.to(dtype)))


def test_what_is_frozen_costs_nothing(device: Device, dtype: DType, generator: Generator, monkeypatch: Any) -> None:
    tensors, upstream = layer((19, 7, 33), device, dtype, generator)
    everything = with_gradients(linear_gelu, tensors, upstream)
    x, weight, bias = (t.detach() for t in tensors)
    alone = linear_gelu(x, weight, bias.requires_grad_())
    alone.backward(upstream.to(device, dtype))
    assert bias.grad is not None
    assert torch.equal(bias.grad, everything[3])
    made = fused.gelu_backward(alone.detach(), alone.detach(), None, 0, 0.0, False, torch.float32)
    assert [t.shape for t in made] == [(0,), (33,)]
    monkeypatch.setattr(fused, "add_parts_kernel", None)
    made = fused.gelu_backward(alone.detach(), alone.detach(), None, 0, 0.0, True, None)
    assert [t.shape for t in made] == [(19, 33), (0,)]
    assert torch.equal(
        with_gradients(lambda x: linear_gelu(x, weight, bias.detach()), tensors[:1], upstream)[1], everything[1]
    )


def test_without_gradients_it_overwrites_the_pre_activation(
    device: Device, dtype: DType, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, _ = layer((19, 7, 33), device, dtype, generator)
    before = [t.detach().clone() for t in tensors]
    kept = linear_gelu(*tensors)
    monkeypatch.setattr(fused, "gelu", None)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(linear_gelu(*tensors), kept)
    frozen = linear_gelu(*(t.detach() for t in tensors))
    assert torch.equal(frozen, kept)
    assert not frozen.requires_grad
    assert all_equal(before, tensors)


def test_same_bits_every_time(device: Device, dtype: DType, generator: Generator) -> None:
    tensors, upstream = layer((100, 8, 300), device, dtype, generator)
    first, *runs = (with_gradients(linear_gelu, tensors, upstream) for _ in range(100 if device.type == "cuda" else 2))
    assert all(all_equal(run, first) for run in runs)


@pytest.mark.parametrize("shape", [(0, 4, 5), (3, 4, 0), (0, 4, 0)], ids=str)
def test_empty(shape: tuple[int, int, int], device: Device, dtype: DType, generator: Generator) -> None:
    tensors, upstream = layer(shape, device, dtype, generator)
    out, *gradients = with_gradients(linear_gelu, tensors, upstream)
    assert out.shape == (shape[0], shape[2])
    assert all(g.shape == t.shape and not g.any() for g, t in zip(gradients, tensors, strict=True))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(kind: DType, device: Device, generator: Generator, as_good_as: AsGoodAs) -> None:
    """16-bit product, gradients in the parameters' fp32."""
    tensors, upstream = layer((37, 16, 70), device, torch.float32, generator)
    with torch.autocast(device.type, kind):
        ours, native = (with_gradients(f, tensors, upstream) for f in (linear_gelu, native_layer))
    truth = with_gradients(exact_layer, doubles(tensors), upstream.to(kind).double())
    assert ours[0].dtype == kind
    for actual, plain, true in zip(ours, native, truth, strict=True):
        error, allowed = ((t.detach().cpu().double() - true).norm() / true.norm() for t in (actual, plain))
        assert actual.dtype == plain.dtype
        assert error <= 2 * allowed
