"""linear_gelu, embedding_layer_norm and voter_mlp against formulas and loops in fp64."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.kernels import embedding_layer_norm, linear_gelu, linear_glu, voter_mlp
from xlt_engine.kernels.gelu import _PIECE, gelu

from .helpers import DType, Error, Generator, doubles, exact_gelu, mask_of, normed, with_gradients


def randn(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def assert_near(ours: list[Tensor], truth: list[Tensor], error: Error, *bounds: float) -> None:
    """By the first bound the result, by the last the gradients, which have their tensors' type."""
    for number, (a, b) in enumerate(zip(ours, truth, strict=True)):
        assert a.dtype == ours[0].dtype
        assert error(a, b) < bounds[min(number, len(bounds) - 1)]


def exact_linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return exact_gelu(x @ weight.t() + bias)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
def test_linear_gelu(dtype: DType, bound: float, generator: Generator, relative_error: Error) -> None:
    tensors = [randn(generator, 13, 17), randn(generator, 29, 17) / 4, randn(generator, 29)]
    ours, upstream = [t.to(dtype).requires_grad_() for t in tensors], randn(generator, 13, 29).to(dtype)
    found = with_gradients(linear_gelu, ours, upstream)
    assert_near(found, with_gradients(exact_linear_gelu, doubles(ours), upstream), relative_error, bound)
    with torch.no_grad():
        assert torch.equal(linear_gelu(*ours), found[0])


def test_linear_gelu_gradcheck(generator: Generator) -> None:
    tensors = doubles([randn(generator, 4, 3), randn(generator, 5, 3), randn(generator, 5)])
    assert torch.autograd.gradcheck(linear_gelu, tensors)


def exact_glu(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str) -> Tensor:
    first, gate = (x @ weight.t() + (0 if bias is None else bias)).tensor_split(2, 1)
    return (exact_gelu(first) if activation == "gelu" else first / (1 + torch.exp(-first))) * gate


def glu(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str) -> Tensor:
    return linear_glu(x, weight, bias, activation)


@pytest.mark.parametrize("columns", [1, 1024, 2049])
def test_gelu_of_16_bits_in_pieces(columns: int, generator: Generator, relative_error: Error) -> None:
    """More numbers than a piece holds, and a last piece that is smaller, also of an odd number."""
    rows = -(-(2 * _PIECE + 5) // columns)
    x, upstream = (randn(generator, rows, columns).bfloat16() for _ in range(2))
    found = with_gradients(gelu, [x.requires_grad_()], upstream)
    truth = with_gradients(exact_gelu, doubles([x]), upstream)
    assert {t.dtype for t in found} == {torch.bfloat16}
    assert_near(found, truth, relative_error, 4e-3, 6e-3)
    assert_near([t[-1] for t in found], [t[-1] for t in truth], relative_error, 1e-2)


@pytest.mark.parametrize("activation", ["gelu", "silu"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_linear_glu(
    dtype: DType, bound: float, has_bias: bool, activation: str, generator: Generator, relative_error: Error
) -> None:
    tensors = [randn(generator, 13, 17), randn(generator, 58, 17) / 4, randn(generator, 58)][: 2 + has_bias]
    ours, upstream = [t.to(dtype).requires_grad_() for t in tensors], randn(generator, 13, 29).to(dtype)
    found = with_gradients(partial(glu, activation=activation), ours, upstream)
    truth = with_gradients(partial(exact_glu, activation=activation), doubles(ours), upstream)
    assert_near(found, truth, relative_error, bound)
    with torch.no_grad():
        assert torch.equal(glu(*ours, activation=activation), found[0])


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_linear_glu_gradcheck_and_errors(activation: str, generator: Generator) -> None:
    tensors = doubles([randn(generator, 4, 3), randn(generator, 6, 3), randn(generator, 6)])
    assert torch.autograd.gradcheck(lambda *t: linear_glu(*t, activation), tensors)
    with pytest.raises(ValueError, match="fit together"):
        linear_glu(tensors[0], tensors[1][:5], None, activation)
    with pytest.raises(ValueError, match="activation must be one of gelu, silu, got 'relu'"):
        linear_glu(*tensors, "relu")


def test_linear_glu_keeps_the_product_alone(generator: Generator) -> None:
    x, weight = randn(generator, 4, 3).requires_grad_(), randn(generator, 6, 3)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear_glu(x, weight, None, "gelu")
    assert sorted(t.shape for t in kept) == [(3, 6), (4, 6)]


def embedding_problem(generator: Generator, dtype: DType) -> tuple[list[Tensor], list[Tensor]]:
    ids = [torch.randint(n, (40,), generator=generator) for n in (11, 16, 2)]
    ids[0][5:20] = 3
    tables = [randn(generator, n, 24) for n in (11, 16, 2)] + [randn(generator, 24), randn(generator, 24)]
    return ids, [t.to(dtype).requires_grad_() for t in tables]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)])
@pytest.mark.parametrize("seed", [None, 3])
def test_embedding_layer_norm(dtype: DType, bound: float, seed: Any, generator: Any, relative_error: Error) -> None:
    ids, ours = embedding_problem(generator, dtype)
    mask, upstream = mask_of((40, 24), 0.1, seed, 6), randn(generator, 40, 24).to(dtype)

    def expected(*tables: Tensor) -> Tensor:
        total = tables[0][ids[0]] + tables[1][ids[1]] + tables[2][ids[2]]
        return normed(total, *tables[3:], 1e-12) * mask

    found = with_gradients(
        lambda *t: embedding_layer_norm(*ids, *t, eps=1e-12, p=0.1, seed=seed, site=6), ours, upstream
    )
    assert found[0].dtype == dtype
    assert_near(found, with_gradients(expected, doubles(ours), upstream), relative_error, bound, 4 * bound)


def test_embedding_layer_norm_gradcheck(generator: Generator) -> None:
    ids, tables = embedding_problem(generator, torch.float64)
    ids = [i[:6] for i in ids]
    assert torch.autograd.gradcheck(
        lambda *t: embedding_layer_norm(*ids, *t, eps=1e-5, p=0.2, seed=1),
        [t[..., :4].detach().requires_grad_() for t in tables],
    )


def test_frozen_tables_get_no_gradient(generator: Generator) -> None:
    ids, tables = embedding_problem(generator, torch.float32)
    frozen = [t.detach().requires_grad_(i == 1) for i, t in enumerate(tables)]
    embedding_layer_norm(*ids, *frozen, eps=1e-12).sum().backward()
    assert [t.grad is not None for t in frozen] == [False, True, False, False, False]
    assert not embedding_layer_norm(*ids, *(t.detach() for t in tables), eps=1e-12).requires_grad


def test_what_does_not_fit_together_is_an_error(generator: Generator) -> None:
    ids, tables = embedding_problem(generator, torch.float32)
    with pytest.raises(ValueError, match="fit together"):
        embedding_layer_norm(ids[0][:3], *ids[1:], *tables, eps=1e-12)
    with pytest.raises(ValueError, match="fit together"):
        embedding_layer_norm(*ids, *tables[:4], tables[4][:3], eps=1e-12)


def test_a_token_outside_the_table_is_an_error(generator: Generator) -> None:
    ids, tables = embedding_problem(generator, torch.float32)
    ids[0][0] = 11
    with pytest.raises(IndexError):
        embedding_layer_norm(*ids, *tables, eps=1e-12)


WIDTHS = [5, 8, 6]


def voter_problem(generator: Generator, dtype: DType) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Stacked, padded weights with the input first, and the separate ones."""
    size, widest = 7, max(WIDTHS)
    stacked = [torch.zeros(3, widest, size), torch.zeros(3, widest), torch.zeros(3, size, widest), torch.zeros(3, size)]
    separate = []
    for m, width in enumerate(WIDTHS):
        parts = [randn(generator, *s) for s in ((width, size), (width,), (size, width), (size,))]
        stacked[0][m, :width], stacked[1][m, :width], stacked[2][m, :, :width], stacked[3][m] = parts
        separate.append([p.to(dtype) for p in parts])
    x = randn(generator, 19, size)
    return [t.to(dtype).requires_grad_() for t in (x, *stacked)], separate


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("seed", [None, 3])
def test_voter_mlp_equals_a_loop_over_separate_networks(
    dtype: DType, bound: float, seed: int | None, generator: Generator, relative_error: Error
) -> None:
    ours, separate = voter_problem(generator, dtype)
    mask, upstream = mask_of((19, 24), 0.3, seed, 2).view(19, 3, 8), randn(generator, 3, 19, 7).to(dtype)

    def loop(x: Tensor, *flat: Tensor) -> Tensor:
        rows = []
        for m, width in enumerate(WIDTHS):
            w1, b1, w2, b2 = flat[4 * m : 4 * m + 4]
            rows.append(functional.linear(exact_gelu(functional.linear(x, w1, b1)) * mask[:, m, :width], w2, b2))
        return torch.stack(rows)

    found = with_gradients(lambda *t: voter_mlp(*t, p=0.3, seed=seed, site=2), ours, upstream)
    out, d_x, *truth = with_gradients(loop, doubles([ours[0], *(p for parts in separate for p in parts)]), upstream)
    assert_near(found[:2], [out, d_x], relative_error, bound)
    for m, width in enumerate(WIDTHS):
        d_w1, d_b1, d_w2, d_b2 = (g[m] for g in found[2:])
        parts = [d_w1[:width], d_b1[:width], d_w2[:, :width], d_b2]
        assert_near(parts, truth[4 * m : 4 * m + 4], relative_error, bound)
        assert not any(bool(padding.any()) for padding in (d_w1[width:], d_b1[width:], d_w2[:, width:]))


def test_voter_mlp_gradcheck_and_shapes(generator: Generator) -> None:
    tensors, _ = voter_problem(generator, torch.float64)
    tensors[0] = tensors[0][:3].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: voter_mlp(*t, p=0.2, seed=1, site=0), tensors)
    assert voter_mlp(tensors[0][:0], *tensors[1:]).shape == (3, 0, 7)
    with pytest.raises(ValueError, match="fit together"):
        voter_mlp(*tensors[:3], tensors[3].transpose(1, 2), tensors[4])
