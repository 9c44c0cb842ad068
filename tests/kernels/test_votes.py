from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import Votes, votes


def logits_of(probabilities: list[list[list[float]]]) -> Tensor:
    """[M, K, C] logits whose softmax is exactly the given powers of two."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


def kept_items(result: Votes) -> list[int]:
    assert result.index is not None
    assert result.count is not None
    count = int(result.count)
    assert result.index[count:].tolist() == [-1] * (result.index.numel() - count)
    return result.index[:count].tolist()


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
    result = votes(logits_of([[v] for v in voters]), alpha=0.0)
    assert result.label.tolist() == [label]
    assert result.agree.tolist() == [agree]
    assert result.min_confidence.tolist() == pytest.approx([confidence], rel=1e-12)
    mean = [sum(v[c] for v in voters) / len(voters) for c in range(2)]
    assert result.mean_probability[0].tolist() == pytest.approx(mean, rel=1e-12)
    assert kept_items(result) == ([0] if agree else [])


def test_a_confidence_equal_to_the_threshold_is_not_kept() -> None:
    logits = torch.zeros(2, 1, 2)
    below = math.nextafter(0.5, 0.0) - 1e-7
    result = votes(logits, thresholds=torch.tensor([0.5, below, 0.6]), alpha=0.5)
    assert result.min_confidence.tolist() == [0.5]
    assert result.kept is not None
    assert result.kept.tolist() == [0, 1, 0]
    assert kept_items(result) == []
    assert kept_items(votes(logits, alpha=below)) == [0]
    assert kept_items(votes(logits, alpha=torch.tensor(0.5))) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("voters", [[1], [0, 1, 2]])
@pytest.mark.parametrize("winner", [True, False])
def test_an_item_that_is_not_a_number_is_never_kept(bad: float, voters: list[int], winner: bool) -> None:
    logits = torch.zeros(3, 2, 4)
    logits[:, :, 1] = 5.0
    logits[voters, 0, 1 if winner else 2] = bad
    result = votes(logits, thresholds=torch.tensor([-1.0, 0.0, 0.5]), gold=torch.tensor([1, 1]), alpha=-1.0)
    assert result.agree.tolist() == [False, True]
    assert 0 <= int(result.label[0]) < 4
    assert result.kept is not None
    assert result.correct is not None
    assert result.kept.tolist() == result.correct.tolist() == [1, 1, 1]
    assert kept_items(result) == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("voters", "items", "classes"), [(1, 50, 2), (3, 1000, 9), (4, 1, 1), (2, 0, 3)])
def test_sweep_equals_the_naive_one_including_exact_ties(
    dtype: torch.dtype, voters: int, items: int, classes: int, generator: torch.Generator
) -> None:
    shared = torch.randn(items, classes, generator=generator) * 2
    logits = (shared + 0.7 * torch.randn(voters, items, classes, generator=generator)).to(dtype)
    gold = torch.randint(-1, classes, (items,), generator=generator)
    plain = votes(logits)
    assert plain[4:] == (None,) * 6
    taken = plain.min_confidence[::7]
    grid = torch.linspace(0, 1, 21).to(taken)
    thresholds = torch.cat([taken, grid, taken])[torch.randperm(2 * taken.numel() + 21, generator=generator)]
    result = votes(logits, thresholds=thresholds, gold=gold, alpha=0.5)
    probability = (logits if dtype == torch.float64 else logits.float()).softmax(-1)
    confidence, choice = probability.max(-1)
    for k, threshold in enumerate(thresholds):
        keep = (choice == choice[0]).all(0) & (confidence > threshold).all(0)
        for c in range(classes):
            chosen = keep & (choice[0] == c)
            assert result.kept_per_class is not None
            assert result.correct_per_class is not None
            assert int(result.kept_per_class[k, c]) == int(chosen.sum())
            assert int(result.correct_per_class[k, c]) == int((chosen & (gold == c)).sum())
        assert result.kept is not None
        assert result.correct is not None
        assert int(result.kept[k]) == int(keep.sum())
        assert int(result.correct[k]) == int((keep & (gold == choice[0])).sum())
    keep = (choice == choice[0]).all(0) & (confidence > 0.5).all(0)
    assert kept_items(result) == keep.nonzero().flatten().tolist()
    assert plain.min_confidence.dtype == probability.dtype


def test_nothing_is_kept_at_a_threshold_that_is_not_a_number() -> None:
    thresholds = torch.tensor([0.1, math.nan, 0.9, math.inf, -math.inf])
    result = votes(torch.zeros(2, 3, 2), thresholds=thresholds, alpha=math.nan)
    assert result.kept is not None
    assert result.kept.tolist() == [3, 0, 0, 0, 3]
    assert kept_items(result) == []
    mostly = votes(torch.zeros(2, 3, 2), thresholds=torch.tensor([math.nan, 0.6, math.nan]))
    assert mostly.kept is not None
    assert mostly.kept.tolist() == [0, 0, 0]


def test_without_gold_the_correct_counts_are_absent() -> None:
    result = votes(torch.zeros(2, 3, 4), thresholds=torch.tensor([0.1]))
    assert result.kept is not None
    assert result.kept.tolist() == [3]
    assert result.correct is None
    assert result.correct_per_class is None
    assert result.index is None


def test_votes_carry_no_gradient_and_shapes_are_checked() -> None:
    assert not votes(torch.zeros(2, 3, 4, requires_grad=True)).mean_probability.requires_grad
    with pytest.raises(ValueError, match="M, K, C"):
        votes(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="gold"):
        votes(torch.zeros(2, 3, 4), gold=torch.zeros(2))
