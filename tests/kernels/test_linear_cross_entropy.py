import importlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from xlt_engine.kernels import linear_cross_entropy
from xlt_engine.kernels.products import products_in_16_bits

from .helpers import Error, Generator, all_equal
from .losses import REDUCTIONS, Problem

module = importlib.import_module("xlt_engine.kernels.linear_cross_entropy")
SIZES = [(1, 5, 3), (17, 1003, 24), (127, 131, 40), (129, 64, 7)]


@pytest.fixture(params=["one chunk", "many chunks"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many chunks":
        monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 600)
        monkeypatch.setattr(module, "_MIN_ROWS", 3)
        monkeypatch.setattr(module, "_TILE_ELEMENTS", {"cpu": 200})


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_fp32_equals_the_plain_computation_in_fp64(
    size: tuple[int, int, int], reduction: str, weighted: bool, bias: bool, generator: Generator, relative_error: Error
) -> None:
    problem = Problem(*size, generator, bias=bias)
    found, truth = problem.ours(reduction, weighted), problem.truth(reduction, weighted)
    assert len(found) == len(truth) == 3 + bias
    for number, (a, b) in enumerate(zip(found, truth, strict=True)):
        assert relative_error(a, b) < (1e-5 if number else 1e-6)
    assert found[0].dtype == torch.float32
    assert not found[1][problem.target == -100].any()


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(reduction: str, weighted: bool, generator: Generator) -> None:
    problem = Problem(9, 11, 5, generator, torch.float64)
    weights = problem.weights.double() if weighted else None

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, bias, problem.target, weights=weights, reduction=reduction)

    assert torch.autograd.gradcheck(function, problem.leaves(torch.float64))


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bf16_is_no_worse_than_the_plain_computation_in_bf16(
    reduction: str, generator: Generator, relative_error: Error
) -> None:
    problem = Problem(129, 517, 32, generator, torch.bfloat16)
    problem.bias, problem.bias_dtype = problem.bias.bfloat16(), torch.bfloat16
    (loss, *gradients), (true_loss, *true) = problem.ours(reduction), problem.truth(reduction)
    assert loss.dtype == torch.float32
    # Where the processor multiplies 16-bit operands the products are rounded: logits, and what is scaled afterwards.
    rounds = products_in_16_bits(torch.empty(0, dtype=torch.bfloat16))
    logits = (problem.hidden.double() @ problem.weight.double().t()).bfloat16().double() + problem.bias.double()
    rounded_loss = functional.cross_entropy(logits, problem.target, reduction=reduction)
    assert relative_error(loss, rounded_loss if rounds else true_loss) < 1e-5
    _, *plain = problem.plain(torch.bfloat16, "cpu", reduction)
    for gradient, native, truth in zip(gradients, plain, true, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert relative_error(gradient, truth) < (1.5 if rounds else 1.1) * relative_error(native, truth)
        assert relative_error(gradient, truth) < (5e-3 if rounds else 3e-3)


def test_bf16_hidden_with_fp32_matrix_and_integer_targets_of_32_bits(generator: Any, relative_error: Error) -> None:
    problem = Problem(40, 61, 8, generator)
    problem.hidden = problem.hidden.bfloat16().float()
    hidden, weight, bias = problem.leaves()
    short = hidden.detach().bfloat16().requires_grad_()
    loss = linear_cross_entropy(short, weight, bias, problem.target.int())
    found = problem.drive(loss, [short, weight])
    assert found[1].dtype == torch.bfloat16
    for gradient, true, bound in zip(found[1:], problem.truth()[1:3], (4e-3, 1e-5), strict=True):
        assert relative_error(gradient, true) < bound


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", [0, 4])
def test_all_ignored_gives_zero_loss_and_zero_gradients(reduction: str, rows: int) -> None:
    hidden, weight, bias = (torch.ones(s, requires_grad=True) for s in ((rows, 3), (7, 3), (7,)))
    loss = linear_cross_entropy(hidden, weight, bias, torch.full((rows,), -100), reduction=reduction)
    loss.sum().backward()
    for tensor in (loss, hidden.grad, weight.grad, bias.grad):
        assert tensor is not None
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_another_ignore_index_may_be_a_class(generator: Generator) -> None:
    hidden, weight = torch.randn(4, 3, generator=generator), torch.randn(5, 3, generator=generator)
    target = torch.tensor([0, 2, 0, 4])
    loss = linear_cross_entropy(hidden, weight, None, target, ignore_index=0, reduction="none")
    expected = functional.cross_entropy(hidden @ weight.t(), target, ignore_index=0, reduction="none")
    torch.testing.assert_close(loss, expected)
    assert loss[0] == loss[2] == 0


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_constant_and_huge_logits(scale: float, generator: Generator, relative_error: Error) -> None:
    problem = Problem(17, 33, 6, generator)
    problem.weight *= scale
    for number, (a, b) in enumerate(zip(problem.ours()[::2], problem.truth()[::2], strict=True)):
        assert relative_error(a, b) < (1e-5 if number else 1e-6)


def test_hidden_may_be_a_strided_view(generator: Generator, relative_error: Error) -> None:
    problem = Problem(20, 31, 8, generator)
    wide = torch.zeros(8, 40)
    wide[:, ::2] = problem.hidden.t()
    hidden = wide[:, ::2].t().requires_grad_()
    loss = linear_cross_entropy(hidden, problem.weight, problem.bias, problem.target)
    assert relative_error(problem.drive(loss, [hidden])[1], problem.truth()[1]) < 1e-5


class _Shapes(TorchDispatchMode):
    """Records the shape of every tensor that an operation returns, and the operations' names."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not func.is_view:
            self.shapes.add(tuple(result.shape))
        self.products += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        return result


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_frozen_matrix_costs_no_gradient_of_its_size_and_logits_stay_in_chunks(
    reduction: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 16 * 300)
    hidden, weight = torch.randn(64, 8, generator=generator), torch.randn(300, 8, generator=generator)
    target = torch.randint(300, (64,), generator=generator)
    with _Shapes() as seen:
        loss = linear_cross_entropy(hidden.requires_grad_(), weight, None, target, reduction=reduction)
        loss.sum().backward()
    assert (300, 8) not in seen.shapes
    assert (64, 300) not in seen.shapes
    assert (16, 300) in seen.shapes
    assert seen.products == 2 * 4
    assert weight.grad is None


def test_without_gradients_only_the_logits_are_computed(generator: Generator) -> None:
    hidden = torch.randn(6, 4, generator=generator, requires_grad=True)
    weight = torch.randn(9, 4, generator=generator, requires_grad=True)
    with torch.no_grad(), _Shapes() as seen:
        linear_cross_entropy(hidden, weight, None, torch.arange(6))
    assert seen.products == 1


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_backward_twice_gives_the_same_gradients(reduction: str, generator: Generator) -> None:
    problem = Problem(12, 19, 5, generator)
    leaves = problem.leaves()
    loss = linear_cross_entropy(*leaves, problem.target, reduction=reduction)
    upstream = problem.upstream if reduction == "none" else torch.tensor(-1.7)
    first, second = (torch.autograd.grad(loss, leaves, upstream, retain_graph=True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_runs_are_equal_bit_for_bit_under_autocast_too(generator: Generator) -> None:
    problem = Problem(40, 301, 16, generator)
    first = problem.ours("mean", True)
    assert all_equal(problem.ours("mean", True), first)
    with torch.autocast("cpu", torch.bfloat16):
        assert all_equal(problem.ours("mean", True), first)


def test_double_backward_raises(generator: Generator) -> None:
    problem = Problem(5, 7, 3, generator)
    hidden, weight, bias = problem.leaves(torch.float64)
    loss = linear_cross_entropy(hidden, weight, bias, problem.target)
    (gradient,) = torch.autograd.grad(loss, hidden, torch.ones_like(loss, requires_grad=True), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_modes_are_equal_and_options_are_checked(generator: Generator) -> None:
    hidden, weight, target = torch.randn(4, 3, generator=generator), torch.eye(3), torch.tensor([0, 1, 2, 0])
    losses = [linear_cross_entropy(hidden, weight, None, target, mode=m) for m in ("auto", "store", "recompute")]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    with pytest.raises(ValueError, match="mode"):
        linear_cross_entropy(hidden, weight, None, target, mode="fast")
    with pytest.raises(ValueError, match="reduction"):
        linear_cross_entropy(hidden, weight, None, target, reduction="max")
    with pytest.raises(ValueError, match=r"target \(3,\)"):
        linear_cross_entropy(hidden, weight, None, target[:3])
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        linear_cross_entropy(hidden, weight, None, torch.tensor([0, 1, 2, 3]))
