"""The kernels of `residual_norm` against the definition in fp64."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, residual_norm

from ..helpers import AsGoodAs, Device, DType, Generator, check_all, doubles, normed

NORMS = {"without a bias": (False, False), "with a bias": (True, False), "rms": (False, True)}


def formula(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, rms: bool) -> list[Tensor]:
    total = x if residual is None else x + residual
    return [total, normed(total, weight, bias, 1e-6, rms)]


def problem(
    shape: tuple[int, int], has_bias: bool, device: Device, dtype: DType, generator: Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """x, residual, weight and bias, and an upstream gradient of both results."""
    tensors = [torch.randn(s, generator=generator) for s in (shape, shape, shape[1:], shape[1:])[: 3 + has_bias]]
    tensors[1] += 1
    upstream = [torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2)]
    return [t.to(device, dtype).requires_grad_() for t in tensors], upstream


def differentiate(call: Callable[..., list[Tensor]], tensors: list[Tensor], upstream: list[Tensor]) -> list[Tensor]:
    results = list(call(*tensors))
    given = [u.to(r.device, r.dtype) for u, r in zip(upstream, results, strict=True)]
    return [*results, *torch.autograd.grad(results, tensors, given)]


@pytest.mark.parametrize(("has_bias", "rms"), NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("shape", [(1, 33), (3, 767), (70, 32)], ids=str)
@pytest.mark.parametrize("has_residual", [True, False])
def test_both_results_and_their_gradients(
    has_residual: bool,
    shape: tuple[int, int],
    has_bias: bool,
    rms: bool,
    device: Device,
    dtype: DType,
    generator: Generator,
    as_good_as: AsGoodAs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xlt_engine.kernels.fused.norms.layer_norm.MAX_PROGRAMS", 2)
    tensors, upstream = problem(shape, has_bias, device, dtype, generator)
    none = [] if has_bias else [None]
    if not has_residual:
        del tensors[1]

    def parts(x: Tensor, *rest: Tensor) -> list[Tensor | None]:
        return [x, *([] if has_residual else [None]), *rest, *none]

    call = lambda *t: residual_norm(*parts(*t), eps=1e-6, rms=rms)  # noqa: E731
    ours = differentiate(call, tensors, upstream)
    plain, truth = (
        differentiate(lambda *t: formula(*parts(*t), rms), t, upstream) for t in (tensors, doubles(tensors))
    )
    check_all(as_good_as, ours, plain, truth)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(call(*tensors), ours, strict=False))


def test_each_result_alone_and_what_is_frozen(device: Device, generator: Generator) -> None:
    tensors, (upstream, _) = problem((9, 24), True, device, torch.float32, generator)
    x, residual, weight, bias = tensors
    with dispatch.using("reference"):
        expected = [
            torch.autograd.grad(r, x, upstream, retain_graph=True)[0] for r in residual_norm(*tensors, eps=1e-6)
        ]
    total, normed = residual_norm(*tensors, eps=1e-6)
    found = [torch.autograd.grad(r, x, upstream, retain_graph=True)[0] for r in (total, normed)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    frozen = [t.detach() for t in tensors]
    alone = torch.autograd.grad(residual_norm(*frozen[:2], weight, frozen[3], eps=1e-6)[1], weight, upstream)[0]
    assert torch.equal(alone, torch.autograd.grad(normed, weight, upstream)[0])
    fused = importlib.import_module("xlt_engine.kernels.fused.norms.layer_norm")
    kept = fused.residual_norm(*frozen, None, None, 1e-6, 0.0, 0, False, True, False)
    assert [t.shape for t in kept[2:]] == [(0,), (0,)]
    assert residual_norm(frozen[0], None, *frozen[2:], eps=1e-6)[0] is frozen[0]
    assert torch.equal(
        residual_norm(frozen[0].view(3, 3, 24), None, *frozen[2:], eps=1e-6)[1].view(9, 24),
        fused.residual_norm(frozen[0], None, *frozen[2:], None, None, 1e-6, 0.0, 0, False, False, False)[0],
    )
