from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import dropout_residual_layer_norm, residual_norm

from .helpers import DType, Error, Generator, doubles, mask_of, normed, with_gradients

SITE = 4


def inputs(rows: int, size: int, generator: Generator, dtype: DType) -> list[Tensor]:
    made = [torch.randn(s, generator=generator) for s in ((rows, size), (rows, size), (size,), (size,))]
    made[1] += 3
    return [t.to(dtype).requires_grad_() for t in made]


def reference(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, mask: Tensor) -> Tensor:
    return normed(x * mask + residual, weight, bias, eps)


@pytest.mark.parametrize("shape", [(1, 9), (1, 768), (13, 33), (129, 64)])
@pytest.mark.parametrize("seed", [None, 7])
def test_fp32_equals_the_formula_in_fp64(shape: Any, seed: Any, generator: Generator, relative_error: Error) -> None:
    ours, upstream = inputs(*shape, generator, torch.float32), torch.randn(shape, generator=generator)
    mask = mask_of(shape, 0.2, seed, SITE)
    found = with_gradients(
        lambda *t: dropout_residual_layer_norm(*t, eps=1e-5, p=0.2, seed=seed, site=SITE), ours, upstream
    )
    expected = with_gradients(lambda *t: reference(*t, eps=1e-5, mask=mask), doubles(ours), upstream)
    for a, b, bound in zip(found, expected, [1e-6] + [1e-5] * 4, strict=True):
        assert relative_error(a, b) < bound


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("seed", [None, 7])
def test_gradcheck(seed: int | None, residual: bool, generator: Generator) -> None:
    x, other, *affine = inputs(6, 5, generator, torch.float64)

    def call(x: Tensor, weight: Tensor, bias: Tensor, *other: Tensor) -> Tensor:
        given = other[0] if residual else None
        return dropout_residual_layer_norm(x, given, weight, bias, eps=1e-5, p=0.3, seed=seed, site=1)

    assert torch.autograd.gradcheck(call, [x, *affine, *([other] if residual else [])])


def test_bf16_is_rounded_once_and_its_gradients_are_no_worse_than_native_ones(
    generator: Generator, relative_error: Error
) -> None:
    ours = inputs(31, 96, generator, torch.bfloat16)
    mask, upstream = mask_of((31, 96), 0.1, 3, SITE), torch.randn(31, 96, generator=generator).bfloat16()

    def plain(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.layer_norm(x * mask.bfloat16() + residual, weight.shape, weight, bias, 1e-12)

    out, *gradients = with_gradients(
        lambda *t: dropout_residual_layer_norm(*t, eps=1e-12, p=0.1, seed=3, site=SITE), ours, upstream
    )
    expected, *truth = with_gradients(lambda *t: reference(*t, eps=1e-12, mask=mask), doubles(ours), upstream)
    _, *native = with_gradients(plain, ours, upstream)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, expected) < 1.1 * relative_error(expected.bfloat16(), expected)
    for a, b, c in zip(gradients, truth, native, strict=True):
        assert a.dtype == torch.bfloat16
        assert relative_error(a, b) < 1.1 * relative_error(c, b)


def test_gradients_are_made_only_where_needed(generator: Generator) -> None:
    tensors = inputs(4, 8, generator, torch.float32)
    frozen = [t.detach().requires_grad_(i == 1) for i, t in enumerate(tensors)]
    dropout_residual_layer_norm(*frozen, eps=1e-12, p=0.1, seed=1).sum().backward()
    assert [t.grad is not None for t in frozen] == [False, True, False, False]


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_a_bias_within_x(
    seed: int | None, residual: bool, dtype: DType, generator: Generator, relative_error: Error
) -> None:
    x, other, weight, bias = inputs(31, 40, generator, dtype)
    given = other if residual else None
    drop = {"eps": 1e-5, "p": 0.2, "seed": seed, "site": SITE}
    # Its value is not read, and x need not have a gradient of its own.
    unread = torch.full((40,), torch.nan, dtype=dtype).requires_grad_()
    out = dropout_residual_layer_norm(x.detach(), given, weight, bias, **drop, x_bias=unread)
    assert torch.equal(out, dropout_residual_layer_norm(x, given, weight, bias, **drop))
    upstream = torch.randn(31, 40, generator=generator).to(dtype)
    (d_unread,) = torch.autograd.grad(out, unread, upstream)
    truth = doubles([x, other * residual, weight, bias])
    expected = reference(*truth, 1e-5, mask_of(x.shape, 0.2, seed, SITE))
    (d_x,) = torch.autograd.grad(expected, truth[0], upstream.double())
    assert d_unread.dtype == dtype
    assert relative_error(d_unread, d_x.sum(0)) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_shapes_are_checked(generator: Generator) -> None:
    x, residual, weight, bias = inputs(4, 8, generator, torch.float32)
    with pytest.raises(ValueError, match="fit together"):
        dropout_residual_layer_norm(x, residual[:1], weight, bias, eps=1e-12)
    with pytest.raises(ValueError, match="x_bias .* fit together"):
        dropout_residual_layer_norm(x, residual, weight, bias, eps=1e-12, x_bias=bias[:1])
    with pytest.raises(ValueError, match="probability"):
        dropout_residual_layer_norm(x, residual, weight, bias, eps=1e-12, p=1.0, seed=1)


NORMS = {"without a bias": (False, False), "with a bias": (True, False), "rms": (False, True)}
each_norm = pytest.mark.parametrize(("has_bias", "rms"), NORMS.values(), ids=NORMS.keys())


@each_norm
@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_residual_norm_equals_the_formula_in_fp64(
    dtype: DType,
    bound: float,
    has_residual: bool,
    has_bias: bool,
    rms: bool,
    generator: Generator,
    relative_error: Error,
) -> None:
    """Of the gradient of both results, and of each alone."""
    x, residual, weight, bias = inputs(13, 33, generator, dtype)
    leaves = [x, weight, *([residual] if has_residual else []), *([bias] if has_bias else [])]
    true_leaves = doubles(leaves)

    def parts(x: Tensor, weight: Tensor, *rest: Tensor) -> list[Tensor | None]:
        return [x, rest[0] if has_residual else None, weight, rest[-1] if has_bias else None]

    results = residual_norm(*parts(*leaves), eps=1e-5, rms=rms)
    wide_x, other, *affine = parts(*true_leaves)
    total = wide_x if other is None else wide_x + other
    expected = total, normed(total, *affine, 1e-5, rms)
    upstream = [torch.randn(13, 33, generator=generator).to(dtype) for _ in results]
    assert has_residual or results[0] is x
    with torch.no_grad():
        again = residual_norm(*parts(*leaves), eps=1e-5, rms=rms)
    for a, b, c in zip(results, expected, again, strict=True):
        assert a.dtype == dtype
        assert torch.equal(a, c)
        assert relative_error(a, b) < bound
    for used in ((0, 1), (0,), (1,)):
        sums = [sum((r[i] * upstream[i].to(r[i].dtype)).sum() for i in used) for r in (results, expected)]
        found = torch.autograd.grad(sums[0], leaves, retain_graph=True, allow_unused=True)
        right = torch.autograd.grad(sums[1], true_leaves, retain_graph=True, allow_unused=True)
        for a, b in zip(found, right, strict=True):
            if b is None:
                assert a is None or not a.any()
            else:
                assert relative_error(a, b) < bound


@each_norm
def test_residual_norm_gradcheck(has_bias: bool, rms: bool, generator: Generator) -> None:
    x, residual, weight, bias = inputs(4, 5, generator, torch.float64)
    call = lambda *t: residual_norm(*t, eps=1e-3, rms=rms)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, residual, weight, bias if has_bias else None))


def test_residual_norm_in_16_bits_with_fp32_weights_and_what_is_frozen(generator: Any, relative_error: Error) -> None:
    x, residual, weight, bias = inputs(9, 16, generator, torch.float32)
    half = x.detach().bfloat16().requires_grad_(), residual.detach().bfloat16()
    total, out = residual_norm(*half, weight, bias, eps=1e-5)
    assert (total.dtype, out.dtype) == (torch.bfloat16, torch.bfloat16)
    expected = normed(half[0].double() + half[1].double(), weight.double(), bias.double(), 1e-5)
    assert relative_error(out, expected) < 1.1 * relative_error(expected.bfloat16(), expected)
    found = torch.autograd.grad(out.float().sum(), (half[0], weight))
    assert [g.dtype for g in found] == [torch.bfloat16, torch.float32]
    residual_norm(x.detach(), residual.detach(), weight, None, eps=1e-5)[1].sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_residual_norm_that_does_not_fit(generator: Generator) -> None:
    x, residual, weight, bias = inputs(3, 4, generator, torch.float32)
    for wrong in ((x, residual[:2], weight, bias), (x, None, weight[:3], None), (x, None, weight, bias[:3])):
        with pytest.raises(ValueError, match="fit together"):
            residual_norm(*wrong, eps=1e-5)
    with pytest.raises(ValueError, match="no bias"):
        residual_norm(x, residual, weight, bias, eps=1e-5, rms=True)
