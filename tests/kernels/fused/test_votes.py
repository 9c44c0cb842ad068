import math

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, votes

from ..helpers import AsGoodAs, Device, DType, Generator, all_equal

SHAPES = [(3, 257, 9), (1, 129, 1), (2, 127, 2), (3, 128, 5), (5, 1, 3)]
WIDE_SHAPES = [(4, 33, 64), (3, 129, 33), (2, 9, 100), (2, 2, 1024), (17, 9, 16)]


def voters_who_often_agree(generator: Generator, voters: int, items: int, classes: int) -> Tensor:
    shared = torch.randn(items, classes, generator=generator) * 3
    return shared + 0.7 * torch.randn(voters, items, classes, generator=generator)


def item_votes(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Label, agreement, smallest confidence and mean probability in fp64."""
    z = logits.cpu().double()
    e = (z - z.amax(-1, keepdim=True)).exp()
    probability = e / e.sum(-1, keepdim=True)
    named = torch.stack([(voter == voter.amax(-1, keepdim=True)).int().argmax(-1) for voter in z])
    agree = (named == named[0]).all(0)
    mean = probability.sum(0) / z.shape[0]
    return torch.where(agree, named[0], mean.argmax(-1)), agree, probability.amax(-1).amin(0), mean


@pytest.mark.parametrize("shape", SHAPES + WIDE_SHAPES, ids=str)
def test_equals_the_definition_and_the_reference(
    shape: tuple[int, int, int], device: Device, dtype: DType, generator: Generator, as_good_as: AsGoodAs
) -> None:
    logits = voters_who_often_agree(generator, *shape).to(device, dtype)
    label, agree, confidence, mean = item_votes(logits)
    result = votes(logits)
    with dispatch.using("reference"):
        expected = votes(logits)
    assert torch.equal(result.label.cpu(), label)
    assert torch.equal(result.agree.cpu(), agree)
    # The reference's error, or, with many classes, none but that of rounding the truth.
    wide = shape in WIDE_SHAPES
    as_good_as(result.min_confidence, confidence.float() if wide else expected.min_confidence, confidence)
    as_good_as(result.mean_probability, mean.float() if wide else expected.mean_probability, mean)
    assert torch.equal(result.label, expected.label)
    assert torch.equal(result.agree, expected.agree)


def test_ties_go_to_the_lowest_class_and_even_odds_are_exact(device: Device) -> None:
    for classes in (2, 4, 5):
        result = votes(torch.full((2, 3, classes), 7.25, device=device))
        assert result.label.tolist() == [0, 0, 0]
        assert result.agree.all()
        assert (result.min_confidence == torch.tensor(1 / classes, device=device)).all()
    swapped = torch.tensor([[[0.0, 2.0, -3.0, 2.0, 1.0]], [[0.0, -3.0, 2.0, 2.0, 1.0]]], device=device)
    result = votes(swapped)
    assert (result.label.tolist(), result.agree.tolist()) == ([3], [False])
    halves = votes(torch.tensor([[[0.0, 4.0]], [[4.0, 0.0]]], device=device))
    assert (halves.label.tolist(), halves.agree.tolist()) == ([0], [False])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("classes", [4, 9])
def test_nobody_agrees_on_an_item_that_is_not_a_number(classes: int, device: Device, dtype: DType) -> None:
    """Item k is broken in one way for each k; only the last is whole."""
    breaks = [(value, voter, column) for value in (math.nan, math.inf) for voter in range(3) for column in (0, 1, 3)]
    logits = torch.zeros(3, len(breaks) + 3, classes)
    logits[:, :, 1] = 5.0
    for k, (value, voter, column) in enumerate(breaks):
        logits[voter, k, column] = value
    logits[:, -3] = math.nan
    logits[1, -2] = -math.inf
    logits[0, -1, 0] = -math.inf
    logits = logits.to(device, dtype)
    result = votes(logits)
    with dispatch.using("reference"):
        expected = votes(logits)
    assert torch.equal(result.label, expected.label)
    assert result.agree.tolist() == expected.agree.tolist() == [False] * (logits.shape[1] - 1) + [True]
    assert result.min_confidence[:-1].isnan().all()
    assert result.mean_probability[:-1].isnan().all()


def test_huge_logits(device: Device) -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], [[9e3, 1e4, 0.0], [0.0, 1.0, 1e4]]], device=device)
    result = votes(logits)
    assert (result.label.tolist(), result.agree.tolist()) == ([0, 2], [False, False])
    assert result.min_confidence.tolist() == [1.0, 0.5]
    assert result.mean_probability.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]


def test_strided_logits_and_equal_runs(device: Device, dtype: DType, generator: Generator) -> None:
    logits = voters_who_often_agree(generator, 3, 140, 9).to(device, dtype)
    expected = votes(logits)
    apart = logits.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not apart.is_contiguous()
    assert all(all_equal(votes(given), expected) for given in (logits, apart))


def test_no_items(device: Device) -> None:
    result = votes(torch.zeros(2, 0, 9, device=device))
    assert [tuple(field.shape) for field in result] == [(0,), (0,), (0,), (0, 9)]


def test_more_classes_than_a_tile_holds(device: Device, generator: Generator) -> None:
    logits = torch.randn(2, 3, 1025, generator=generator).to(device)
    assert torch.equal(votes(logits).label.cpu(), item_votes(logits)[0])
