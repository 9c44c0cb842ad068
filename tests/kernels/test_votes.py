import math
from typing import Any

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import votes


def logits_of(probabilities: list[list[list[float]]]) -> Tensor:
    """[M, K, C] logits whose softmax is exactly the given powers of two."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("voters", "label", "agree", "confidence"),
    [
        ([[0.75, 0.25], [0.5625, 0.4375]], 0, True, 0.5625),
        ([[0.25, 0.75], [0.5625, 0.4375]], 1, False, 0.5625),
        ([[0.25, 0.75], [0.875, 0.125]], 0, False, 0.75),
        ([[0.5, 0.5], [0.75, 0.25]], 0, True, 0.5),
        ([[0.5, 0.5], [0.25, 0.75]], 1, False, 0.5),
        ([[0.25, 0.75], [0.75, 0.25]], 0, False, 0.75),
        ([[0.125, 0.875], [0.25, 0.75]], 1, True, 0.75),
    ],
)
def test_truth_table(voters: list[list[float]], label: int, agree: bool, confidence: float) -> None:
    result = votes(logits_of([[v] for v in voters]))
    assert result.label.tolist() == [label]
    assert result.agree.tolist() == [agree]
    assert result.min_confidence.tolist() == pytest.approx([confidence], rel=1e-12)
    mean = [sum(v[c] for v in voters) / len(voters) for c in range(2)]
    assert result.mean_probability[0].tolist() == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("voters", [[1], [0, 1, 2]])
@pytest.mark.parametrize("winner", [True, False])
def test_nobody_agrees_on_an_item_that_is_not_a_number(bad: float, voters: list[int], winner: bool) -> None:
    logits = torch.zeros(3, 2, 4)
    logits[:, :, 1] = 5.0
    logits[voters, 0, 1 if winner else 2] = bad
    result = votes(logits)
    assert result.agree.tolist() == [False, True]
    assert 0 <= int(result.label[0]) < 4
    assert not result.min_confidence[0] > -1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("voters", "items", "classes"), [(1, 50, 2), (3, 1000, 9), (4, 1, 1), (2, 0, 3)])
def test_the_filter_equals_the_naive_one(dtype: Any, voters: int, items: int, classes: int, generator: Any) -> None:
    """`agree & (min_confidence > threshold)` is that all voters name one class, each with more than the threshold."""
    shared = torch.randn(items, classes, generator=generator) * 2
    logits = (shared + 0.7 * torch.randn(voters, items, classes, generator=generator)).to(dtype)
    result = votes(logits)
    confidence, choice = (logits if dtype == torch.float64 else logits.float()).softmax(-1).max(-1)
    for threshold in (*result.min_confidence[::97], *torch.linspace(0, 1, 5)):
        keep = (choice == choice[0]).all(0) & (confidence > threshold).all(0)
        assert torch.equal(result.agree & (result.min_confidence > threshold), keep)
        assert torch.equal(result.label[keep], choice[0, keep])
    assert result.min_confidence.dtype == confidence.dtype


def test_votes_carry_no_gradient_and_shapes_are_checked() -> None:
    assert not votes(torch.zeros(2, 3, 4, requires_grad=True)).mean_probability.requires_grad
    for shape in ((3, 4), (0, 3, 4), (2, 3, 0)):
        with pytest.raises(ValueError, match="M, K, C"):
            votes(torch.zeros(shape))
