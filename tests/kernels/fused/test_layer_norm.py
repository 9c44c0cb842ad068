from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import dropout_residual_layer_norm
from xlt_engine.kernels.fused.norms import layer_norm as operators

from ..helpers import AsGoodAs, Device, DType, Error, Generator, all_equal, mask_of, normed, with_gradients

NAMES = ("x", "residual", "weight", "bias")
SHAPES = [(1, 127), (3, 767), (129, 33), (1, 1024), (2, 1536)]
SITE = 4


def inputs(rows: int, size: int, generator: Generator, device: Device, dtype: DType) -> dict[str, Tensor]:
    shapes = {"x": (rows, size), "residual": (rows, size), "weight": (size,), "bias": (size,)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    made["residual"] += 3
    return {name: t.to(device, dtype).requires_grad_() for name, t in made.items()}


def formula(tensors: dict[str, Tensor], mask: Tensor, eps: float) -> Tensor:
    return normed(tensors["x"] * mask + tensors.get("residual", 0), tensors["weight"], tensors["bias"], eps)


def gradients(out: Tensor, tensors: dict[str, Tensor], upstream: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(out, list(tensors.values()), upstream.to(out))
    result = dict(zip(tensors, found, strict=True))
    if "x_bias" not in result:
        result["x_bias"] = result["x"].sum(0)
    return result


def check(
    tensors: dict[str, Tensor], p: float, seed: int | None, upstream: Tensor, as_good_as: AsGoodAs, eps: float = 1e-12
) -> None:
    """Output and every gradient against the formula in fp64, no worse than torch's own LayerNorm in the same dtype."""
    upstream = upstream.to(tensors["x"].dtype)
    ours = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    truth = {name: t.detach().cpu().double().requires_grad_() for name, t in tensors.items()}
    native = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    mask = mask_of(tensors["x"].shape, p, seed, SITE)
    total = native["x"] * mask.to(native["x"]) + native.get("residual", 0)
    plain = functional.layer_norm(total, native["weight"].shape, native["weight"], native["bias"], eps)
    expected = formula(truth, mask, eps)
    # The value of x_bias is already in x and must not be read.
    x_bias = torch.full_like(ours["weight"], torch.nan).requires_grad_()
    given = (ours["x"], ours.get("residual"), ours["weight"], ours["bias"])
    out = dropout_residual_layer_norm(*given, eps=eps, p=p, seed=seed, site=SITE, x_bias=x_bias)
    as_good_as(out, plain, expected)
    ours["x_bias"] = x_bias
    found, by_torch, true = (gradients(o, t, upstream) for o, t in ((out, ours), (plain, native), (expected, truth)))
    for name in true:
        as_good_as(found[name], by_torch[name], true[name])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [None, 7])
def test_output_and_gradients(shape: Any, seed: Any, device: Any, dtype: Any, generator: Any, as_good_as: Any) -> None:
    upstream = torch.randn(shape, generator=generator) * 3
    check(inputs(*shape, generator, device, dtype), 0.2, seed, upstream, as_good_as)


@pytest.mark.parametrize("seed", [None, 7])
def test_without_a_residual_it_is_a_plain_layer_norm(
    seed: int | None, device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs
) -> None:
    tensors = inputs(33, 130, generator, device, dtype)
    del tensors["residual"]
    check(tensors, 0.2, seed, torch.randn(33, 130, generator=generator), as_good_as, eps=1e-5)


@pytest.mark.parametrize("seed", [None, 7])
def test_a_program_walks_over_many_blocks(
    seed: int | None,
    device: Device,
    dtype: DType,
    generator: Generator,
    as_good_as: AsGoodAs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operators, "MAX_PROGRAMS", 4)
    check(inputs(331, 60, generator, device, dtype), 0.1, seed, torch.randn(331, 60, generator=generator), as_good_as)


@pytest.mark.parametrize("seed", [5, -3, 2**62 + 12345])
def test_drops_what_the_reference_drops(seed: int, device: Device, generator: Generator) -> None:
    tensors = inputs(9, 129, generator, device, torch.float32)
    x = tensors["x"].detach().abs().add(1).requires_grad_()
    for given in (seed, torch.tensor(seed, device=device)):
        rest = [tensors[name] for name in NAMES[1:]]
        out = dropout_residual_layer_norm(x, *rest, eps=1e-5, p=0.3, seed=given, site=SITE)
        (d_x,) = torch.autograd.grad(out, x, torch.randn(9, 129, generator=generator).to(device))
        assert torch.equal(d_x.cpu() != 0, mask_of(x.shape, 0.3, seed, SITE) != 0)


def test_strided_inputs_and_a_broadcast_upstream_gradient(device: Device, dtype: DType, generator: Generator) -> None:
    tensors = inputs(40, 40, generator, device, dtype)
    x, residual = tensors["x"].detach(), tensors["residual"].detach()
    wide = torch.stack([tensors["weight"], tensors["bias"]], 1).detach()
    strided = (x.t(), residual.t(), wide[:, 0], wide[:, 1])
    found = []
    for given in (strided, [t.contiguous() for t in strided]):
        leaves = [t.detach().requires_grad_() for t in given]
        call = lambda *t: dropout_residual_layer_norm(*t, eps=1e-5, p=0.2, seed=1, site=SITE)  # noqa: E731
        found.append(with_gradients(call, leaves, torch.ones(1, device=device).expand(40, 40)))
    assert all_equal(*found)


def test_extreme_values(device: Device, generator: Generator, as_good_as: AsGoodAs) -> None:
    tensors = inputs(6, 96, generator, device, torch.float32)
    with torch.no_grad():
        for name in ("x", "residual"):
            tensors[name][0] *= 1e15
            tensors[name][1] *= 1e-6
            tensors[name][2] += 1000
    check(tensors, 0.2, 7, torch.randn(6, 96, generator=generator), as_good_as, eps=1e-5)
    constant = torch.full((6, 96), 3.0, device=device)
    out = dropout_residual_layer_norm(constant, constant, tensors["weight"], tensors["bias"], eps=1e-12)
    assert torch.equal(out, tensors["bias"].expand(6, 96))


def test_no_rows(device: Device, dtype: DType, generator: Generator) -> None:
    tensors = [*inputs(0, 24, generator, device, dtype).values()]
    x_bias = tensors[3].detach().clone().requires_grad_()
    out = dropout_residual_layer_norm(*tensors, eps=1e-5, p=0.1, seed=1, x_bias=x_bias)
    found = torch.autograd.grad(out, [*tensors, x_bias], torch.empty_like(out))
    assert out.shape == found[0].shape == (0, 24)
    assert not any(bool(g.any()) for g in found)
    assert [tuple(g.shape) for g in found[2:]] == [(24,)] * 3


@pytest.mark.parametrize("seed", [None, 7])
def test_gradients_are_made_only_where_needed(seed: Any, device: Device, dtype: DType, generator: Generator) -> None:
    tensors = [*inputs(5, 40, generator, device, dtype).values()]
    upstream = torch.randn(5, 40, generator=generator).to(device, dtype)

    def run(*needed: int) -> list[Tensor | None]:
        leaves = [t.detach().clone().requires_grad_(i in needed) for i, t in enumerate([*tensors, tensors[3]])]
        out = dropout_residual_layer_norm(*leaves[:4], eps=1e-5, p=0.1, seed=seed, x_bias=leaves[4])
        out.backward(upstream)
        return [t.grad for t in leaves]

    complete = run(0, 1, 2, 3, 4)
    for i in range(5):
        for j, gradient in enumerate(run(i)):
            assert (gradient is not None) == (i == j)
            assert gradient is None or torch.equal(gradient, complete[j])
    assert not dropout_residual_layer_norm(*(t.detach() for t in tensors), eps=1e-5).requires_grad


def test_what_is_not_needed_is_not_allocated(device: Device, generator: Generator) -> None:
    x, residual, weight, bias = (t.detach() for t in inputs(5, 40, generator, device, torch.float32).values())
    seed = torch.tensor([3, 0], device=device)
    forward, backward = operators.residual_norm, operators.residual_norm_backward
    out, *saved = forward(x, residual, weight, bias, None, seed, 1e-5, 0.1, 0, False, False, False)
    assert [t.numel() for t in saved] == [0, 0, 0]
    _, total, mean, rstd = forward(x, None, weight, bias, None, None, 1e-5, 0.1, 0, False, False, True)
    assert (total.numel(), mean.dtype, rstd.shape) == (0, torch.float32, (5,))
    sizes = {"d_total": 200, "d_x": 200, "affine": 40, "x_bias": 40}
    for i, (name, size) in enumerate(sizes.items()):
        found = backward(out, None, residual, mean, rstd, weight, seed, 0.1, 0, False, [i == j for j in range(4)])
        expected = [name == "d_total", name == "d_x", name == "affine", name == "affine", name == "x_bias"]
        assert [t.numel() for t in found] == [size * e for e in expected]


def test_mixed_dtypes_as_under_autocast(device: Device, generator: Generator, relative_error: Error) -> None:
    tensors = inputs(17, 50, generator, device, torch.float32)
    x = tensors["x"].detach().half().requires_grad_()
    leaves = [x, *(tensors[name] for name in NAMES[1:])]
    out = dropout_residual_layer_norm(*leaves, eps=1e-5, x_bias=tensors["bias"])
    assert out.dtype == torch.float16
    found = torch.autograd.grad(out, leaves, torch.randn(17, 50, generator=generator).to(out))
    assert [g.dtype for g in found] == [torch.float16] + [torch.float32] * 3
    truth = formula({n: t.detach().cpu().double() for n, t in zip(NAMES, leaves, strict=True)}, torch.ones(()), 1e-5)
    assert relative_error(out.cpu(), truth) < 5e-4


def test_equal_runs_give_equal_bits(device: Device, dtype: DType, generator: Generator) -> None:
    tensors = [*inputs(129, 33, generator, device, dtype).values()]
    call = lambda *t: dropout_residual_layer_norm(*t, eps=1e-5, p=0.1, seed=2, x_bias=t[3])  # noqa: E731
    first, *runs = (with_gradients(call, tensors, tensors[0]) for _ in range(100 if device.type == "cuda" else 2))
    assert all(all_equal(run, first) for run in runs)
