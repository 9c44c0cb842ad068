"""The gated activation's kernels and linear_glu on them, against the definition in fp64."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import linear_glu

pytest.importorskip("triton")
from xlt_engine.kernels.fused import glu as fused

from ..helpers import AsGoodAs, Device, DType, Generator, check_all, doubles, with_gradients


def native(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str) -> Tensor:
    first, gate = functional.linear(x, weight, bias).chunk(2, 1)
    return (functional.gelu if activation == "gelu" else functional.silu)(first) * gate


def ours(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str) -> Tensor:
    return linear_glu(x, weight, bias, activation)


def layer(
    shape: tuple[int, int, int], has_bias: bool, device: Device, dtype: DType, generator: Generator
) -> tuple[list[Tensor], Tensor]:
    rows, size, width = shape
    sizes = [(rows, size), (2 * width, size), (2 * width,)][: 2 + has_bias]
    tensors = [torch.randn(s, generator=generator) for s in sizes]
    tensors[1] *= 1.5 / size**0.5
    upstream = torch.randn(rows, width, generator=generator) + 0.5
    return [t.to(device, dtype).requires_grad_() for t in tensors], upstream


@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1), (37, 5, 129), (9, 2, 700)], ids=str)
def test_linear_glu_and_its_gradients(
    shape: tuple[int, int, int],
    has_bias: bool,
    activation: str,
    device: Device,
    dtype: DType,
    generator: Generator,
    as_good_as: AsGoodAs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With fewer programs than blocks of rows."""
    monkeypatch.setattr(fused, "_PROGRAMS", 2)
    tensors, upstream = layer(shape, has_bias, device, dtype, generator)
    results = with_gradients(partial(ours, activation=activation), tensors, upstream)
    plain = with_gradients(partial(native, activation=activation), tensors, upstream)
    truth = with_gradients(partial(native, activation=activation), doubles(tensors), upstream.to(dtype))
    check_all(as_good_as, results, plain, truth)
    with torch.no_grad():
        assert torch.equal(ours(*tensors, activation=activation), results[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's, of overflow
def test_extreme_values_and_16_bits(device: Device) -> None:
    values = torch.tensor([[-60000.0, -20.0, -0.0, 0.0, 20.0, 60000.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]])
    both = values.half().to(device).requires_grad_()
    for activation in ("gelu", "silu"):
        out = fused.glu(both, None, activation)
        (gradient,) = torch.autograd.grad(out, both, torch.ones_like(out))
        torch.testing.assert_close(out.cpu().float(), torch.tensor([[0.0, 0, 0, 0, 10, 30000]]), rtol=1e-3, atol=1e-6)
        slopes = torch.tensor([[0.0, 0, 0.25, 0.25, 0.5, 0.5, 0, 0, 0, 0, 20, 60000]])
        torch.testing.assert_close(gradient.cpu().float(), slopes, rtol=1e-3, atol=1e-6)


def test_what_is_frozen_or_empty(device: Device, generator: Generator) -> None:
    (x, weight, bias), upstream = layer((9, 4, 6), True, device, torch.float32, generator)
    everything = with_gradients(partial(ours, activation="silu"), [x, weight, bias], upstream)
    both = functional.linear(x, weight, bias).detach()
    d_both, d_bias = fused.glu_backward(upstream.to(device), both, "silu", None)
    assert d_bias.shape == (0,)
    assert torch.equal(d_both @ weight, everything[1])
    alone = linear_glu(x.detach(), weight.detach(), bias, "silu")
    assert torch.equal(torch.autograd.grad(alone, bias, upstream.to(device))[0], everything[3])
    assert linear_glu(x[:0], weight, bias, "silu").shape == (0, 6)
