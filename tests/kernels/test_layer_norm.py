from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import dropout, dropout_residual_layer_norm, residual_norm

Error = Callable[[Tensor, Tensor], float]


def inputs(rows: int, size: int, generator: torch.Generator, dtype: torch.dtype) -> list[Tensor]:
    made = [
        torch.randn(rows, size, generator=generator),
        torch.randn(rows, size, generator=generator) + 3,
        torch.randn(size, generator=generator),
        torch.randn(size, generator=generator),
    ]
    return [t.to(dtype).requires_grad_() for t in made]


def reference(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, mask: Tensor) -> Tensor:
    total = x * mask + residual
    centred = total - total.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def mask_of(x: Tensor, p: float, seed: int | None) -> Tensor:
    return dropout(torch.ones(x.shape, dtype=torch.float64), p, seed=seed, site=4)


@pytest.mark.parametrize("shape", [(1, 9), (1, 768), (13, 33), (129, 64)])
@pytest.mark.parametrize("seed", [None, 7])
def test_fp32_equals_the_formula_in_fp64(
    shape: tuple[int, int], seed: int | None, generator: torch.Generator, relative_error: Error
) -> None:
    ours = inputs(*shape, generator, torch.float32)
    truth = [t.detach().double().requires_grad_() for t in ours]
    out = dropout_residual_layer_norm(*ours, eps=1e-5, p=0.2, seed=seed, site=4)
    expected = reference(*truth, eps=1e-5, mask=mask_of(ours[0], 0.2, seed))
    assert relative_error(out, expected) < 1e-6
    upstream = torch.randn(shape, generator=generator)
    out.backward(upstream)
    expected.backward(upstream.double())
    for a, b in zip(ours, truth, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert relative_error(a.grad, b.grad) < 1e-5


@pytest.mark.parametrize("seed", [None, 7])
def test_gradcheck(seed: int | None, generator: torch.Generator) -> None:
    tensors = inputs(6, 5, generator, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *t: dropout_residual_layer_norm(*t, eps=1e-5, p=0.3, seed=seed, site=1), tensors
    )


def test_bf16_is_rounded_once_and_its_gradients_are_no_worse_than_native_ones(
    generator: torch.Generator, relative_error: Error
) -> None:
    ours = inputs(31, 96, generator, torch.bfloat16)
    truth = [t.detach().double().requires_grad_() for t in ours]
    native = [t.detach().clone().requires_grad_() for t in ours]
    mask = mask_of(ours[0], 0.1, 3)
    out = dropout_residual_layer_norm(*ours, eps=1e-12, p=0.1, seed=3, site=4)
    expected = reference(*truth, eps=1e-12, mask=mask)
    x, residual, weight, bias = native
    plain = functional.layer_norm(x * mask.bfloat16() + residual, weight.shape, weight, bias, 1e-12)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, expected) < 1.1 * relative_error(expected.bfloat16(), expected)
    upstream = torch.randn(out.shape, generator=generator).bfloat16()
    out.backward(upstream)
    expected.backward(upstream.double())
    plain.backward(upstream)
    for a, b, c in zip(ours, truth, native, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert c.grad is not None
        assert a.grad.dtype == torch.bfloat16
        assert relative_error(a.grad, b.grad) < 1.1 * relative_error(c.grad, b.grad)


def test_gradients_are_made_only_where_needed(generator: torch.Generator) -> None:
    tensors = inputs(4, 8, generator, torch.float32)
    frozen = [t.detach().requires_grad_(i == 1) for i, t in enumerate(tensors)]
    dropout_residual_layer_norm(*frozen, eps=1e-12, p=0.1, seed=1).sum().backward()
    assert [t.grad is not None for t in frozen] == [False, True, False, False]


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_a_bias_within_x(
    seed: int | None, residual: bool, dtype: torch.dtype, generator: torch.Generator, relative_error: Error
) -> None:
    x, other, weight, bias = inputs(31, 40, generator, dtype)
    given = other if residual else None
    linear_bias = torch.randn(40, generator=generator).to(dtype).requires_grad_()
    plain = dropout_residual_layer_norm(x, given, weight, bias, eps=1e-5, p=0.2, seed=seed, site=4)
    # Its value is not read, and x need not have a gradient of its own.
    unread = torch.full_like(linear_bias, torch.nan).requires_grad_()
    out = dropout_residual_layer_norm(
        x.detach(), given, weight, bias, eps=1e-5, p=0.2, seed=seed, site=4, x_bias=unread
    )
    assert torch.equal(out, plain)
    upstream = torch.randn(31, 40, generator=generator).to(dtype)
    (d_unread,) = torch.autograd.grad(out, unread, upstream)
    truth = [t.detach().double().requires_grad_() for t in (x, other, weight, bias)]
    mask = mask_of(x, 0.2, seed)
    expected = reference(truth[0], truth[1] if residual else truth[1] * 0, truth[2], truth[3], 1e-5, mask)
    (d_x,) = torch.autograd.grad(expected, truth[0], upstream.double())
    assert d_unread.dtype == dtype
    assert relative_error(d_unread, d_x.sum(0)) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("seed", [None, 7])
def test_gradcheck_without_a_residual(seed: int | None, generator: torch.Generator) -> None:
    x, _, weight, bias = inputs(6, 5, generator, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *t: dropout_residual_layer_norm(t[0], None, *t[1:], eps=1e-5, p=0.3, seed=seed, site=1),
        [x, weight, bias],
    )


def test_shapes_are_checked(generator: torch.Generator) -> None:
    x, residual, weight, bias = inputs(4, 8, generator, torch.float32)
    with pytest.raises(ValueError, match="fit together"):
        dropout_residual_layer_norm(x, residual[:1], weight, bias, eps=1e-12)
    with pytest.raises(ValueError, match="x_bias .* fit together"):
        dropout_residual_layer_norm(x, residual, weight, bias, eps=1e-12, x_bias=bias[:1])
    with pytest.raises(ValueError, match="probability"):
        dropout_residual_layer_norm(x, residual, weight, bias, eps=1e-12, p=1.0, seed=1)


NORMS = {"without a bias": (False, False), "with a bias": (True, False), "rms": (False, True)}


def norm_problem(
    has_residual: bool, has_bias: bool, generator: torch.Generator, dtype: torch.dtype
) -> list[Tensor | None]:
    x, residual, weight, bias = inputs(13, 33, generator, dtype)
    return [x, residual if has_residual else None, weight, bias if has_bias else None]


def norm_reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor]:
    total = x if residual is None else x + residual
    centred = total if rms else total - total.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    return total, normed if bias is None else normed + bias


def doubled(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.detach().double().requires_grad_() for t in tensors]


@pytest.mark.parametrize(("has_bias", "rms"), NORMS.values(), ids=NORMS.keys())
@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_residual_norm_equals_the_formula_in_fp64(
    dtype: torch.dtype,
    bound: float,
    has_residual: bool,
    has_bias: bool,
    rms: bool,
    generator: torch.Generator,
    relative_error: Error,
) -> None:
    """Of the gradient of both results, and of each alone."""
    ours = norm_problem(has_residual, has_bias, generator, dtype)
    truth = doubled(ours)
    results = residual_norm(*ours, eps=1e-5, rms=rms)
    expected = norm_reference(*truth, eps=1e-5, rms=rms)
    upstream = [torch.randn(13, 33, generator=generator).to(dtype) for _ in results]
    assert has_residual or results[0] is ours[0]
    with torch.no_grad():
        again = residual_norm(*ours, eps=1e-5, rms=rms)
    for a, b, c in zip(results, expected, again, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, c)
        assert relative_error(a, b) < bound
    leaves, true_leaves = ([t for t in tensors if t is not None] for tensors in (ours, truth))
    for used in ((0, 1), (0,), (1,)):
        sums = [
            sum((r[i] * u.to(r[i].dtype)).sum() for i, u in enumerate(upstream) if i in used)
            for r in (results, expected)
        ]
        found = torch.autograd.grad(sums[0], leaves, retain_graph=True, allow_unused=True)
        right = torch.autograd.grad(sums[1], true_leaves, retain_graph=True, allow_unused=True)
        for a, b in zip(found, right, strict=True):
            if b is None:
                assert a is None or not a.any()
            else:
                assert a is not None
                assert relative_error(a, b) < bound


@pytest.mark.parametrize(("has_bias", "rms"), NORMS.values(), ids=NORMS.keys())
def test_residual_norm_gradcheck(has_bias: bool, rms: bool, generator: torch.Generator) -> None:
    tensors = [
        None if t is None else t[..., :5].detach()[:4].requires_grad_()
        for t in doubled(norm_problem(True, has_bias, generator, torch.float64))
    ]
    weight = torch.randn(5, generator=generator).double().requires_grad_()
    bias = weight.detach().clone().requires_grad_() if has_bias else None
    assert torch.autograd.gradcheck(
        lambda x, r, w, b: residual_norm(x, r, w, b, eps=1e-3, rms=rms), (tensors[0], tensors[1], weight, bias)
    )


def test_residual_norm_in_16_bits_with_fp32_weights_and_what_is_frozen(
    generator: torch.Generator, relative_error: Error
) -> None:
    x, residual, weight, bias = inputs(9, 16, generator, torch.float32)
    half = x.detach().bfloat16().requires_grad_(), residual.detach().bfloat16()
    total, normed = residual_norm(*half, weight, bias, eps=1e-5)
    assert (total.dtype, normed.dtype) == (torch.bfloat16, torch.bfloat16)
    expected = norm_reference(*(t.double() for t in (*half, weight, bias)), 1e-5, False)[1]
    assert relative_error(normed, expected) < 1.1 * relative_error(expected.bfloat16(), expected)
    normed.float().sum().backward()
    assert half[0].grad is not None
    assert half[0].grad.dtype == torch.bfloat16
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    weight.grad = None
    residual_norm(x.detach(), residual.detach(), weight, None, eps=1e-5)[1].sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_residual_norm_that_does_not_fit(generator: torch.Generator) -> None:
    x, residual, weight, bias = inputs(3, 4, generator, torch.float32)
    for wrong in ((x, residual[:2], weight, bias), (x, None, weight[:3], None), (x, None, weight, bias[:3])):
        with pytest.raises(ValueError, match="fit together"):
            residual_norm(*wrong, eps=1e-5)
    with pytest.raises(ValueError, match="no bias"):
        residual_norm(x, residual, weight, bias, eps=1e-5, rms=True)
