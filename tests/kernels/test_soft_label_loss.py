from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import soft_label_loss, voter_cross_entropy

Error = Callable[[Tensor, Tensor], float]
OPTIONS = [
    (kind, combine, temperature)
    for kind in ("mse", "logits", "kl", "ce")
    for combine in ("per-voter", "mean")
    for temperature in (1.0, 2.5)
]


def softmax(z: Tensor) -> Tensor:
    e = (z - z.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def item_losses(logits: Tensor, teacher: Tensor, kind: str, combine: str, temperature: float) -> Tensor:
    """[K] by loops over the definition; `teacher` holds logits."""
    rows = []
    for k in range(logits.shape[1]):
        if kind == "logits":
            views, target = logits[:, k], teacher[k]
        else:
            views, target = softmax(logits[:, k] / temperature), softmax(teacher[k] / temperature)
        if combine == "mean":
            views = views.mean(0, keepdim=True)
        total = torch.zeros((), dtype=logits.dtype)
        for view in views:
            if kind in ("mse", "logits"):
                total = total + ((view - target) ** 2).mean()
            elif kind == "kl":
                total = total + temperature**2 * (target * (target.log() - view.log())).sum()
            else:
                total = total - temperature**2 * (target * view.log()).sum()
        rows.append(total / len(views))
    return torch.stack(rows)


def problem(generator: torch.Generator, voters: int = 3, items: int = 7, classes: int = 5) -> tuple[Tensor, ...]:
    logits = torch.randn(voters, items, classes, generator=generator) * 2
    teacher = torch.randn(items, classes, generator=generator) * 2
    return logits, teacher, torch.rand(items, generator=generator)


@pytest.mark.parametrize(("kind", "combine", "temperature"), OPTIONS)
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_value_and_gradient_equal_the_definition_in_fp64(
    kind: str, combine: str, temperature: float, reduction: str, generator: torch.Generator, relative_error: Error
) -> None:
    logits, teacher, weights = problem(generator)
    ours, truth = logits.clone().requires_grad_(), logits.double().requires_grad_()
    expected = weights.double() * item_losses(truth, teacher.double(), kind, combine, temperature)
    if reduction != "none":
        expected = expected.sum() / (weights.double().sum() if reduction == "mean" else 1.0)
    loss = soft_label_loss(
        ours,
        teacher if kind == "logits" else teacher.softmax(-1),
        kind=kind,
        temperature=temperature,
        weights=weights,
        combine=combine,
        reduction=reduction,
    )
    assert loss.dtype == torch.float32
    assert relative_error(loss, expected) < 3e-6
    upstream = torch.rand(loss.shape, generator=generator)
    loss.backward(upstream)
    expected.backward(upstream.double())
    assert ours.grad is not None
    assert truth.grad is not None
    assert relative_error(ours.grad, truth.grad) < 1e-5


@pytest.mark.parametrize(("kind", "combine", "temperature"), OPTIONS)
def test_gradcheck(kind: str, combine: str, temperature: float, generator: torch.Generator) -> None:
    logits, teacher, weights = problem(generator, items=3)
    assert torch.autograd.gradcheck(
        lambda z: soft_label_loss(
            z,
            teacher.double() if kind == "logits" else teacher.double().softmax(-1),
            kind=kind,
            temperature=temperature,
            weights=weights,
            combine=combine,
        ),
        (logits.double().requires_grad_(),),
    )


@pytest.mark.parametrize("kind", ["mse", "kl", "ce"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_teacher_probability_of_zero_is_finite(kind: str, temperature: float) -> None:
    logits = torch.tensor([[[200.0, -200.0, 0.0]]], requires_grad=True)
    loss = soft_label_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]), kind=kind, temperature=temperature)
    loss.backward()
    assert logits.grad is not None
    assert 0.0 <= float(loss.detach()) < 1e-20
    assert float(logits.grad.abs().max()) < 1e-20


def test_equal_distributions_have_no_loss_and_default_is_the_mean_square(generator: torch.Generator) -> None:
    logits, teacher, _ = problem(generator)
    same = teacher.expand(3, -1, -1)
    target = teacher.softmax(-1)
    for kind in ("mse", "kl"):
        assert abs(float(soft_label_loss(same, target, kind=kind))) < 1e-5
    expected = sum(torch.nn.functional.mse_loss(z.softmax(-1), target) for z in logits) / 3 * target.shape[0]
    torch.testing.assert_close(soft_label_loss(logits, target), expected)


def test_bf16_logits_are_computed_in_fp32(generator: torch.Generator, relative_error: Error) -> None:
    logits, teacher, _ = problem(generator, items=50)
    short = logits.bfloat16().requires_grad_()
    truth = short.detach().double().requires_grad_()
    loss = soft_label_loss(short, teacher.softmax(-1))
    expected = soft_label_loss(truth, teacher.double().softmax(-1))
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32
    assert relative_error(loss, expected) < 1e-6
    assert short.grad is not None
    assert truth.grad is not None
    assert relative_error(short.grad, truth.grad) < 3e-3


def test_only_the_logits_have_a_gradient(generator: torch.Generator) -> None:
    logits, teacher, weights = (t.requires_grad_() for t in problem(generator))
    soft_label_loss(logits, teacher, kind="logits", weights=weights).backward()
    assert logits.grad is not None
    assert teacher.grad is None
    assert weights.grad is None


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_no_items(reduction: str) -> None:
    logits = torch.zeros(2, 0, 3, requires_grad=True)
    for loss in (
        soft_label_loss(logits, torch.zeros(0, 3), reduction=reduction),
        voter_cross_entropy(logits, torch.zeros(0, dtype=torch.int64), reduction=reduction),
    ):
        assert float(loss.detach().sum()) == 0.0
        loss.sum().backward()


def test_options_are_checked() -> None:
    logits, teacher = torch.zeros(2, 3, 4), torch.full((3, 4), 0.25)
    for name, value in (("kind", "l1"), ("combine", "vote"), ("reduction", "max")):
        with pytest.raises(ValueError, match=name):
            soft_label_loss(logits, teacher, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="temperature"):
        soft_label_loss(logits, teacher, temperature=0.0)
    with pytest.raises(ValueError, match=r"\[K, C\]"):
        soft_label_loss(logits, teacher[:2])
    with pytest.raises(ValueError, match="reduction"):
        voter_cross_entropy(logits, torch.zeros(3, dtype=torch.int64), reduction="max")
    with pytest.raises(ValueError, match=r"\[K\]"):
        voter_cross_entropy(logits, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_voter_cross_entropy_equals_the_definition(
    reduction: str, weighted: bool, generator: torch.Generator, relative_error: Error
) -> None:
    logits, _, weights = problem(generator)
    target = torch.tensor([0, 4, -100, 2, 2, -100, 1])
    ours, truth = logits.clone().requires_grad_(), logits.double().requires_grad_()
    counted = (weights.double() if weighted else torch.ones(7, dtype=torch.float64)) * (target != -100)
    picked = torch.stack([softmax(truth[:, k])[:, max(int(target[k]), 0)].log().mean() for k in range(7)])
    expected = -picked * counted
    if reduction != "none":
        expected = expected.sum() / (counted.sum() if reduction == "mean" else 1.0)
    loss = voter_cross_entropy(ours, target, weights=weights if weighted else None, reduction=reduction)
    assert relative_error(loss, expected) < 1e-6
    upstream = torch.rand(loss.shape, generator=generator)
    loss.backward(upstream)
    expected.backward(upstream.double())
    assert ours.grad is not None
    assert truth.grad is not None
    assert relative_error(ours.grad, truth.grad) < 1e-5
    assert not ours.grad[:, target == -100].any()


def test_voter_cross_entropy_gradcheck_and_all_ignored(generator: torch.Generator) -> None:
    logits = problem(generator)[0].double().requires_grad_()
    target = torch.tensor([0, 1, -100, 3, 4, 0, -100])
    assert torch.autograd.gradcheck(lambda z: voter_cross_entropy(z, target, reduction="mean"), (logits,))
    loss = voter_cross_entropy(logits, torch.full((7,), -100), reduction="mean")
    loss.backward()
    assert logits.grad is not None
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()
