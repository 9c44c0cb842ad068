from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, soft_label_loss, voter_cross_entropy
from xlt_engine.kernels.fused import soft_label_loss as fused

from ..helpers import AsGoodAs, Device, DType, Generator, all_equal, doubles
from ..losses import REDUCTIONS, item_losses, reduced

SHAPES = [
    (1, 1, 2),
    (3, 127, 9),
    (2, 129, 4),
    (2, 513, 3),
    (4, 5, 33),
    (2, 3, 100),
    (17, 9, 2),
    (2, 2, 1024),
    (2, 7, 64),
]


def problem(generator: Generator, voters: int, items: int, classes: int) -> tuple[Tensor, ...]:
    logits = torch.randn(voters, items, classes, generator=generator) * 2
    teacher = (torch.randn(items, classes, generator=generator) * 2).softmax(-1)
    weights = torch.rand(items, generator=generator) * torch.randint(1, 3, (items,), generator=generator)
    return logits, teacher, weights


def compare(
    as_good_as: AsGoodAs, loss: Callable[[Tensor], Tensor], logits: Tensor, definition: Callable[[Tensor], Tensor]
) -> Tensor:
    """Value and gradient of `loss` against the definition in fp64; the allowance is the error of the reference path.

    The gradient is measured by voter: an item whose teacher a voter has nearly met has no digits left in any fp32.
    """
    (truth,) = doubles([logits])
    expected = definition(truth)
    upstream = torch.rand(expected.shape, generator=torch.Generator().manual_seed(5)) + 0.5
    values, gradients = [], []
    for mode in ("triton", "reference"):
        with dispatch.using(mode):
            given = logits.detach().clone().requires_grad_()
            values.append(loss(given))
            gradients.append(torch.autograd.grad(values[-1], given, upstream.to(given.device))[0])
    as_good_as(*values, expected)
    (gradient_truth,) = torch.autograd.grad(expected, truth, upstream.double())
    as_good_as(*(g.flatten(1) for g in (*gradients, gradient_truth)))
    return gradients[0]


def test_every_reduction(device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs) -> None:
    logits, teacher, weights = problem(generator, 3, 37, 9)
    logits = logits.to(device, dtype)
    # Not normalised: what the definition does with such a teacher holds too.
    teacher = teacher * (torch.rand(37, 1, generator=generator) + 0.5)
    given = {"teacher": teacher.to(device), "weights": weights.to(device)}
    every = torch.ones(37, dtype=torch.bool)
    for reduction in REDUCTIONS:
        compare(
            as_good_as,
            lambda z, reduction=reduction: soft_label_loss(z, reduction=reduction, **given),  # type: ignore[misc]
            logits,
            lambda z, r=reduction: reduced(item_losses(z, teacher.double()), weights, every, r),  # type: ignore[misc]
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_edge(shape: Any, device: Device, dtype: DType, generator: Any, as_good_as: Any) -> None:
    logits, teacher, _ = problem(generator, *shape)
    compare(
        as_good_as,
        lambda z: soft_label_loss(z, teacher.to(device)),
        logits.to(device, dtype),
        lambda z: item_losses(z, teacher.double()).sum(),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_voter_cross_entropy(
    reduction: str, weighted: bool, device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs
) -> None:
    logits, _, weights = problem(generator, 3, 133, 9)
    logits = logits.to(device, dtype)
    target = torch.randint(0, 9, (133,), generator=generator)
    target[::5] = -7
    target[1], target[2] = 8, 0
    valid = target != -7
    chosen = weights if weighted else None
    given = {"weights": None if chosen is None else chosen.to(device), "ignore_index": -7, "reduction": reduction}

    def definition(z: Tensor) -> Tensor:
        picked = torch.stack([z[:, k].log_softmax(-1)[:, max(int(c), 0)].mean() for k, c in enumerate(target)])
        return reduced(-picked, chosen, valid, reduction)

    gradient = compare(as_good_as, lambda z: voter_cross_entropy(z, target.to(device), **given), logits, definition)
    assert not gradient[:, ~valid].any()
    assert gradient[:, valid].any(-1).all()


@pytest.mark.parametrize("most", [2, 1024])
def test_sums_over_many_programs(most: int, device: Device, generator: Any, as_good_as: Any, monkeypatch: Any) -> None:
    """Fixed slots, of which each collects several blocks when there are few."""
    monkeypatch.setattr(fused, "_MAX_PROGRAMS", most)
    logits, _, weights = problem(generator, 1, 601, 3)
    logits = logits.to(device)
    target = torch.randint(-1, 3, (601,), generator=generator)

    def definition(z: Tensor) -> Tensor:
        return reduced(
            -z.log_softmax(-1)[0].gather(-1, target.clamp(min=0)[:, None])[:, 0], weights, target != -1, "mean"
        )

    def loss(z: Tensor) -> Tensor:
        return voter_cross_entropy(z, target.to(device), weights=weights.to(device), ignore_index=-1, reduction="mean")

    compare(as_good_as, loss, logits, definition)
    assert torch.equal(loss(logits), loss(logits))


SIX = [("forward_kernel", (6,)), ("finish_kernel", (1,))]


@pytest.mark.parametrize(("items", "forward"), [(128, [("forward_kernel", (1,))]), (700, SIX)])
def test_launches(items: int, forward: Any, device: Device, generator: Generator, monkeypatch: Any) -> None:
    launched = []
    for name in ("forward_kernel", "backward_kernel", "finish_kernel"):

        class Counted:
            def __init__(self, kernel: Any, name: str) -> None:
                self.kernel, self.name = kernel, name

            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                launched.append((self.name, grid))
                return self.kernel[grid]

        monkeypatch.setattr(fused.kernels, name, Counted(getattr(fused.kernels, name), name))
    logits, teacher, weights = problem(generator, 2, items, 9)
    logits = logits.to(device).requires_grad_()
    loss = soft_label_loss(logits, teacher.to(device), weights=weights.to(device), reduction="mean")
    assert launched == forward
    loss.backward()
    assert [name for name, _ in launched[len(forward) :]] == ["backward_kernel"]


def test_saturated_and_constant_logits(device: Device) -> None:
    """Certain voters, a teacher with zeros, logits of 1e4, and logits that are all equal, against fp64."""
    rows = [[1e4, -1e4, 0.0], [200.0, -200.0, 0.0], [7.0, 7.0, 7.0], [-1e4, -1e4, -1e4], [30.0, 0.0, -30.0]]
    logits = torch.tensor([rows, rows[::-1]], device=device)
    teacher = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0.5, 0.5, 0], [0, 1.0, 0], [0.2, 0.3, 0.5]], device=device)
    values, gradients = [], []
    for z in (logits.clone(), logits.cpu().double()):
        z.requires_grad_()
        with dispatch.using("triton" if z.dtype == torch.float32 else "reference"):
            value = soft_label_loss(z, teacher.to(z), reduction="none")
        (gradient,) = torch.autograd.grad(value.sum(), z)
        values.append(value.detach().cpu().double())
        gradients.append(gradient.cpu().double())
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert values[0].abs().max() > 0.1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ignored_items_have_exactly_no_gradient(device: Device) -> None:
    logits = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(1)).to(device)
    logits[:, 1] = torch.nan
    logits[0, 3] = torch.inf
    logits.requires_grad_()
    target = torch.tensor([2, -100, 8, -100, 0], device=device)
    loss = voter_cross_entropy(logits, target, reduction="mean")
    loss.backward()
    assert loss.isfinite()
    assert not logits.grad[:, [1, 3]].any()
    assert logits.grad[:, [0, 2, 4]].all()
    for reduction in REDUCTIONS:
        nobody = voter_cross_entropy(logits, torch.full((5,), -100, device=device), reduction=reduction)
        assert not nobody.any()
        assert not torch.autograd.grad(nobody.sum(), logits)[0].any()


def test_weights_of_nothing_and_weights_that_are_not_fp32(device: Device, generator: Generator) -> None:
    logits, teacher, _ = problem(generator, 2, 6, 4)
    logits, teacher = logits.to(device).requires_grad_(), teacher.to(device).softmax(-1)
    loss = soft_label_loss(logits, teacher, weights=torch.zeros(6, device=device), reduction="mean")
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()
    wanted = torch.tensor([1, 0, 1, 1, 0, 1], device=device)
    for weights in (wanted.bool(), wanted, wanted.half(), wanted.double()):
        loss = soft_label_loss(logits, teacher, weights=weights, reduction="mean")
        torch.testing.assert_close(
            loss, soft_label_loss(logits[:, wanted.bool()], teacher[wanted.bool()], reduction="mean")
        )


def test_a_class_that_does_not_exist_is_not_a_number(device: Device) -> None:
    for wrong in (9, -1):
        target = torch.tensor([2, wrong, 8], device=device)
        losses = voter_cross_entropy(torch.zeros(2, 3, 9, device=device), target, reduction="none")
        assert losses.isnan().tolist() == [False, True, False]


def test_only_the_logits_have_a_gradient(device: Device, generator: Generator) -> None:
    logits, teacher, weights = (t.to(device).requires_grad_() for t in problem(generator, 2, 6, 4))
    options: dict[str, Any] = {"weights": weights}
    assert not soft_label_loss(logits.detach(), teacher, **options).requires_grad
    soft_label_loss(logits, teacher, **options).backward()
    assert logits.grad is not None
    assert teacher.grad is None
    assert weights.grad is None


def test_strided_arguments_and_equal_runs(device: Device, dtype: DType, generator: Generator) -> None:
    logits, teacher, weights = problem(generator, 3, 70, 9)
    logits, teacher, weights = logits.to(device, dtype), teacher.to(device), weights.to(device)
    upstream = torch.rand(70, 2, generator=generator).to(device)[:, 0]

    def value_and_gradient(z: Tensor, t: Tensor, w: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        given = z.detach().requires_grad_()
        losses = soft_label_loss(given, t, weights=w, reduction="none")
        return losses.detach(), torch.autograd.grad(losses, given, upstream)[0]

    expected = value_and_gradient(logits, teacher, weights, upstream.contiguous())
    apart = logits.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    assert not apart.is_contiguous()
    others = teacher.t().contiguous().t(), torch.stack([weights, weights], 1)[:, 0], upstream
    for given in (logits, apart):
        assert all_equal(value_and_gradient(given, *others), expected)
    given = logits.detach().requires_grad_()
    losses = soft_label_loss(given, teacher, weights=weights, reduction="none")
    (of_sum,) = torch.autograd.grad(losses.sum(), given)
    assert torch.equal(of_sum, value_and_gradient(logits, teacher, weights, torch.ones(70, device=device))[1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_items(reduction: str, device: Device) -> None:
    logits = torch.zeros(2, 0, 3, device=device, requires_grad=True)
    for loss in (
        soft_label_loss(logits, torch.zeros(0, 3, device=device), reduction=reduction),
        voter_cross_entropy(logits, torch.zeros(0, dtype=torch.int64, device=device), reduction=reduction),
    ):
        assert loss.shape == ((0,) if reduction == "none" else ())
        assert not loss.any()
        loss.sum().backward()


def test_more_classes_than_a_tile_holds(device: Device, generator: Generator) -> None:
    logits, teacher, _ = (t.to(device) for t in problem(generator, 2, 3, 1025))
    found = soft_label_loss(logits, teacher)
    with dispatch.using("reference"):
        assert torch.equal(found, soft_label_loss(logits, teacher))
