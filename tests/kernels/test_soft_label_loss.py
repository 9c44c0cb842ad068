import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import soft_label_loss, voter_cross_entropy

from .helpers import Error, Generator, doubles, with_gradients
from .losses import REDUCTIONS, item_losses, reduced

EVERY = torch.ones(7, dtype=torch.bool)


def problem(generator: Generator, voters: int = 3, items: int = 7, classes: int = 5) -> tuple[Tensor, ...]:
    logits = torch.randn(voters, items, classes, generator=generator) * 2
    teacher = torch.randn(items, classes, generator=generator) * 2
    return logits, teacher, torch.rand(items, generator=generator)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_value_and_gradient_equal_the_definition_in_fp64(
    reduction: str, generator: Generator, relative_error: Error
) -> None:
    logits, teacher, weights = problem(generator)
    upstream = torch.rand((7,) if reduction == "none" else (), generator=generator)

    def expected(z: Tensor) -> Tensor:
        return reduced(item_losses(z, teacher.double().softmax(-1)), weights, EVERY, reduction)

    loss, gradient = with_gradients(
        lambda z: soft_label_loss(z, teacher.softmax(-1), weights=weights, reduction=reduction),
        [logits.requires_grad_()],
        upstream,
    )
    true_loss, truth = with_gradients(expected, doubles([logits]), upstream)
    assert loss.dtype == torch.float32
    assert relative_error(loss, true_loss) < 3e-6
    assert relative_error(gradient, truth) < 1e-5


def test_gradcheck(generator: Generator) -> None:
    logits, teacher, weights = problem(generator, items=3)
    target = teacher.double().softmax(-1)
    assert torch.autograd.gradcheck(
        lambda z: soft_label_loss(z, target, weights=weights), (logits.double().requires_grad_(),)
    )


def test_a_certain_teacher_and_student_are_finite() -> None:
    logits = torch.tensor([[[200.0, -200.0, 0.0]]], requires_grad=True)
    loss = soft_label_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    loss.backward()
    assert 0.0 <= float(loss.detach()) < 1e-20
    assert float(logits.grad.abs().max()) < 1e-20


def test_equal_distributions_have_no_loss_and_it_is_the_mean_square(generator: Generator) -> None:
    logits, teacher, _ = problem(generator)
    target = teacher.softmax(-1)
    assert abs(float(soft_label_loss(teacher.expand(3, -1, -1), target))) < 1e-5
    expected = sum(torch.nn.functional.mse_loss(z.softmax(-1), target) for z in logits) / 3 * target.shape[0]
    torch.testing.assert_close(soft_label_loss(logits, target), expected)


def test_bf16_logits_are_computed_in_fp32(generator: Generator, relative_error: Error) -> None:
    logits, teacher, _ = problem(generator, items=50)
    short, one = logits.bfloat16().requires_grad_(), torch.ones(())
    loss, gradient = with_gradients(lambda z: soft_label_loss(z, teacher.softmax(-1)), [short], one)
    expected, truth = with_gradients(lambda z: soft_label_loss(z, teacher.double().softmax(-1)), doubles([short]), one)
    assert loss.dtype == torch.float32
    assert relative_error(loss, expected) < 1e-6
    assert relative_error(gradient, truth) < 3e-3


def test_only_the_logits_have_a_gradient(generator: Generator) -> None:
    logits, teacher, weights = (t.requires_grad_() for t in problem(generator))
    soft_label_loss(logits, teacher, weights=weights).backward()
    assert logits.grad is not None
    assert teacher.grad is None
    assert weights.grad is None


@pytest.mark.parametrize("reduction", REDUCTIONS)
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
    with pytest.raises(ValueError, match="reduction"):
        soft_label_loss(logits, teacher, reduction="max")
    with pytest.raises(ValueError, match=r"\[K, C\]"):
        soft_label_loss(logits, teacher[:2])
    with pytest.raises(ValueError, match="reduction"):
        voter_cross_entropy(logits, torch.zeros(3, dtype=torch.int64), reduction="max")
    with pytest.raises(ValueError, match=r"\[K\]"):
        voter_cross_entropy(logits, torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_voter_cross_entropy_equals_the_definition(
    reduction: str, weighted: bool, generator: Generator, relative_error: Error
) -> None:
    logits, _, weights = problem(generator)
    target = torch.tensor([0, 4, -100, 2, 2, -100, 1])
    given, upstream = (
        weights if weighted else None,
        torch.rand((7,) if reduction == "none" else (), generator=generator),
    )

    def expected(z: Tensor) -> Tensor:
        picked = torch.stack(
            [item.softmax(-1)[:, max(int(c), 0)].log().mean() for item, c in zip(z.unbind(1), target, strict=True)]
        )
        return reduced(-picked, given, target != -100, reduction)

    loss, gradient = with_gradients(
        lambda z: voter_cross_entropy(z, target, weights=given, reduction=reduction),
        [logits.requires_grad_()],
        upstream,
    )
    true_loss, truth = with_gradients(expected, doubles([logits]), upstream)
    assert relative_error(loss, true_loss) < 1e-6
    assert relative_error(gradient, truth) < 1e-5
    assert not gradient[:, target == -100].any()


def test_voter_cross_entropy_gradcheck_and_all_ignored(generator: Generator) -> None:
    logits = problem(generator)[0].double().requires_grad_()
    target = torch.tensor([0, 1, -100, 3, 4, 0, -100])
    assert torch.autograd.gradcheck(lambda z: voter_cross_entropy(z, target, reduction="mean"), (logits,))
    loss = voter_cross_entropy(logits, torch.full((7,), -100), reduction="mean")
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()
