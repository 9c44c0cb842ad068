from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from xlt_engine.kernels import linear_cross_entropy
from xlt_engine.kernels.products import products_in_16_bits

module = importlib.import_module("xlt_engine.kernels.linear_cross_entropy")
Error = Callable[[Tensor, Tensor], float]
SIZES = [(1, 5, 3), (17, 1003, 24), (127, 131, 40), (129, 64, 7)]


def problem(rows: int, vocabulary: int, size: int, generator: torch.Generator, bias: bool = True) -> dict[str, Tensor]:
    target = torch.randint(vocabulary, (rows,), generator=generator)
    target[rows // 2 :: 5] = target[0]
    target[3::7] = -100
    tensors = {
        "hidden": torch.randn(rows, size, generator=generator),
        "weight": torch.randn(vocabulary, size, generator=generator) * 2 / size**0.5,
        "target": target,
        "weights": torch.rand(rows, generator=generator) + 0.1,
        "upstream": torch.randn(rows, generator=generator),
    }
    if bias:
        tensors["bias"] = torch.randn(vocabulary, generator=generator)
    return tensors


def leaves(tensors: dict[str, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    made = [
        tensors[k].to(dtype).clone().requires_grad_() if k in tensors else None for k in ("hidden", "weight", "bias")
    ]
    assert made[0] is not None
    assert made[1] is not None
    return made[0], made[1], made[2]


def native(
    tensors: dict[str, Tensor], reduction: str, weighted: bool, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of the plain computation; its logits are rounded to `dtype`, its loss is fp32 or better."""
    hidden, weight, bias = leaves(tensors, dtype)
    logits = functional.linear(hidden, weight, bias)
    logits = logits.float() if dtype == torch.bfloat16 else logits
    target = tensors["target"]
    loss = functional.cross_entropy(logits, target, reduction="none")
    scale = tensors["weights"].to(loss.dtype) if weighted else torch.ones_like(loss)
    loss = loss * scale
    if reduction != "none":
        loss = loss.sum() / ((scale * (target != -100)).sum() if reduction == "mean" else 1.0)
    loss.backward(upstream_of(tensors, loss))
    return loss.detach(), [t.grad for t in (hidden, weight, bias) if t is not None and t.grad is not None]


def ours(tensors: dict[str, Tensor], reduction: str, weighted: bool, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    hidden, weight, bias = leaves(tensors, dtype)
    weights = tensors["weights"] if weighted else None
    loss = linear_cross_entropy(hidden, weight, bias, tensors["target"], weights=weights, reduction=reduction)
    loss.backward(upstream_of(tensors, loss))
    return loss.detach(), [t.grad for t in (hidden, weight, bias) if t is not None and t.grad is not None]


def upstream_of(tensors: dict[str, Tensor], loss: Tensor) -> Tensor:
    return tensors["upstream"].to(loss.dtype) if loss.dim() else torch.tensor(-1.7, dtype=loss.dtype)


@pytest.fixture(params=["one chunk", "many chunks"])
def chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many chunks":
        monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 600)
        monkeypatch.setattr(module, "_MIN_ROWS", 3)
        monkeypatch.setattr(module, "_TILE_ELEMENTS", {"cpu": 200})


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_fp32_equals_the_plain_computation_in_fp64(
    size: tuple[int, int, int],
    reduction: str,
    weighted: bool,
    bias: bool,
    generator: torch.Generator,
    relative_error: Error,
) -> None:
    tensors = problem(*size, generator, bias)
    loss, gradients = ours(tensors, reduction, weighted, torch.float32)
    true_loss, true_gradients = native(tensors, reduction, weighted, torch.float64)
    assert relative_error(loss, true_loss) < 1e-6
    assert len(gradients) == len(true_gradients) == 2 + bias
    for gradient, truth in zip(gradients, true_gradients, strict=True):
        assert relative_error(gradient, truth) < 1e-5
    assert loss.dtype == torch.float32
    ignored = tensors["target"] == -100
    assert not gradients[0][ignored].any()


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(reduction: str, weighted: bool, generator: torch.Generator) -> None:
    tensors = problem(9, 11, 5, generator)
    weights = tensors["weights"].double() if weighted else None

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, bias, tensors["target"], weights=weights, reduction=reduction)

    assert torch.autograd.gradcheck(function, leaves(tensors, torch.float64))


def of_rounded_logits(tensors: dict[str, Tensor], reduction: str) -> Tensor:
    """The loss in fp64 of products that are rounded to bf16."""
    wide = {k: t.double() if t.is_floating_point() else t for k, t in tensors.items()}
    logits = (wide["hidden"] @ wide["weight"].t()).bfloat16().double() + wide["bias"]
    return functional.cross_entropy(logits, tensors["target"], reduction=reduction)


@pytest.mark.usefixtures("chunked")
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_bf16_is_no_worse_than_the_plain_computation_in_bf16(
    reduction: str, generator: torch.Generator, relative_error: Error
) -> None:
    tensors = problem(129, 517, 32, generator)
    rounded = {k: t.bfloat16().float() if t.is_floating_point() else t for k, t in tensors.items()}
    true_loss, true_gradients = native(rounded, reduction, False, torch.float64)
    plain_loss, plain_gradients = native(rounded, reduction, False, torch.bfloat16)
    loss, gradients = ours(rounded, reduction, False, torch.bfloat16)
    assert loss.dtype == torch.float32
    # Where the processor multiplies 16-bit operands the products are rounded: logits, and what is scaled afterwards.
    rounds = products_in_16_bits(torch.empty(0, dtype=torch.bfloat16))
    assert relative_error(loss, of_rounded_logits(rounded, reduction) if rounds else true_loss) < 1e-5
    for gradient, plain, truth in zip(gradients, plain_gradients, true_gradients, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert relative_error(gradient, truth) < (1.5 if rounds else 1.1) * relative_error(plain, truth)
        assert relative_error(gradient, truth) < (5e-3 if rounds else 3e-3)


def test_bf16_hidden_with_fp32_matrix_and_integer_targets_of_32_bits(
    generator: torch.Generator, relative_error: Error
) -> None:
    tensors = problem(40, 61, 8, generator)
    tensors["hidden"] = tensors["hidden"].bfloat16().float()
    hidden, weight, bias = leaves(tensors, torch.float32)
    short = hidden.detach().bfloat16().requires_grad_()
    linear_cross_entropy(short, weight, bias, tensors["target"].int()).backward()
    _, truth = native(tensors, "sum", False, torch.float64)
    assert short.grad is not None
    assert weight.grad is not None
    upstream = -1.7
    assert short.grad.dtype == torch.bfloat16
    assert relative_error(short.grad * upstream, truth[0]) < 4e-3
    assert relative_error(weight.grad * upstream, truth[1]) < 1e-5


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("rows", [0, 4])
def test_all_ignored_gives_zero_loss_and_zero_gradients(reduction: str, rows: int) -> None:
    hidden, weight, bias = (torch.ones(s, requires_grad=True) for s in ((rows, 3), (7, 3), (7,)))
    loss = linear_cross_entropy(hidden, weight, bias, torch.full((rows,), -100), reduction=reduction)
    loss.sum().backward()
    for tensor in (loss, hidden.grad, weight.grad, bias.grad):
        assert tensor is not None
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_another_ignore_index_may_be_a_class(generator: torch.Generator) -> None:
    hidden, weight = torch.randn(4, 3, generator=generator), torch.randn(5, 3, generator=generator)
    target = torch.tensor([0, 2, 0, 4])
    loss = linear_cross_entropy(hidden, weight, None, target, ignore_index=0, reduction="none")
    expected = functional.cross_entropy(hidden @ weight.t(), target, ignore_index=0, reduction="none")
    torch.testing.assert_close(loss, expected)
    assert loss[0] == loss[2] == 0


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_constant_and_huge_logits(scale: float, generator: torch.Generator, relative_error: Error) -> None:
    tensors = problem(17, 33, 6, generator)
    tensors["weight"] *= scale
    loss, gradients = ours(tensors, "sum", False, torch.float32)
    true_loss, true_gradients = native(tensors, "sum", False, torch.float64)
    assert relative_error(loss, true_loss) < 1e-6
    assert relative_error(gradients[1], true_gradients[1]) < 1e-5


def test_hidden_may_be_a_strided_view(generator: torch.Generator, relative_error: Error) -> None:
    tensors = problem(20, 31, 8, generator)
    _, truth = native(tensors, "sum", False, torch.float64)
    wide = torch.zeros(8, 40)
    wide[:, ::2] = tensors["hidden"].t()
    hidden = wide.requires_grad_()[:, ::2].t()
    linear_cross_entropy(hidden, tensors["weight"], tensors["bias"], tensors["target"]).backward()
    assert wide.grad is not None
    assert relative_error(wide.grad[:, ::2].t() * -1.7, truth[0]) < 1e-5


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
    reduction: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
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


def test_without_gradients_only_the_logits_are_computed(generator: torch.Generator) -> None:
    hidden = torch.randn(6, 4, generator=generator, requires_grad=True)
    weight = torch.randn(9, 4, generator=generator, requires_grad=True)
    with torch.no_grad(), _Shapes() as seen:
        linear_cross_entropy(hidden, weight, None, torch.arange(6))
    assert seen.products == 1


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_backward_twice_gives_the_same_gradients(reduction: str, generator: torch.Generator) -> None:
    tensors = problem(12, 19, 5, generator)
    hidden, weight, bias = leaves(tensors, torch.float32)
    assert bias is not None
    loss = linear_cross_entropy(hidden, weight, bias, tensors["target"], reduction=reduction)
    upstream = upstream_of(tensors, loss)
    first = torch.autograd.grad(loss, (hidden, weight, bias), upstream, retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight, bias), upstream)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_runs_are_equal_bit_for_bit(generator: torch.Generator) -> None:
    tensors = problem(40, 301, 16, generator)
    first, second = (ours(tensors, "mean", True, torch.float32) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_double_backward_raises(generator: torch.Generator) -> None:
    tensors = problem(5, 7, 3, generator)
    hidden, weight, bias = leaves(tensors, torch.float64)
    loss = linear_cross_entropy(hidden, weight, bias, tensors["target"])
    (gradient,) = torch.autograd.grad(loss, hidden, torch.ones_like(loss, requires_grad=True), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_modes_are_equal_and_options_are_checked(generator: torch.Generator) -> None:
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


def test_autocast_changes_nothing(generator: torch.Generator) -> None:
    tensors = problem(20, 31, 8, generator)
    loss, gradients = ours(tensors, "mean", True, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        cast_loss, cast_gradients = ours(tensors, "mean", True, torch.float32)
    assert torch.equal(loss, cast_loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients, cast_gradients, strict=True))
