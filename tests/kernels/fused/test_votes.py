from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import Votes, dispatch, votes

SHAPES = [(3, 257, 9), (1, 129, 1), (2, 127, 2), (3, 128, 5), (5, 1, 3)]
WIDE_SHAPES = [(4, 33, 64), (3, 129, 33), (2, 9, 100), (2, 2, 1024), (17, 9, 16)]
FIELDS = ("label", "agree", "kept", "correct", "kept_per_class", "correct_per_class", "index", "count")


def problem(generator: torch.Generator, voters: int, items: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of voters who often agree, gold classes of which some do not exist, and thresholds in no order."""
    shared = torch.randn(items, classes, generator=generator) * 3
    logits = shared + 0.7 * torch.randn(voters, items, classes, generator=generator)
    gold = torch.randint(-2, classes + 2, (items,), generator=generator)
    gold = torch.where(torch.rand(items, generator=generator) < 0.5, shared.argmax(-1), gold)
    return logits, gold, torch.rand(25, generator=generator)


def between(confidence: Tensor, generator: torch.Generator) -> Tensor:
    """Thresholds far from every confidence, in no order and some twice."""
    ordered = confidence.sort().values
    wide = ordered.diff() > 1e-4
    middle = ((ordered[1:] + ordered[:-1]) / 2)[wide][::9]
    levels = torch.cat([middle, torch.tensor([-0.1, 1.1]), middle[:3]])
    return levels[torch.randperm(len(levels), generator=generator)].float()


def item_votes(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Label, agreement, smallest confidence and mean probability in fp64."""
    z = logits.cpu().double()
    e = (z - z.amax(-1, keepdim=True)).exp()
    probability = e / e.sum(-1, keepdim=True)
    named = torch.stack([(voter == voter.amax(-1, keepdim=True)).int().argmax(-1) for voter in z])
    agree = (named == named[0]).all(0)
    mean = probability.sum(0) / z.shape[0]
    return torch.where(agree, named[0], mean.argmax(-1)), agree, probability.amax(-1).amin(0), mean


def check_sweep(result: Votes, confidence: Tensor, thresholds: Tensor, gold: Tensor, alpha: float) -> None:
    """Every count by its definition, from the result's own labels and the given confidences."""
    label, agree = result.label.cpu(), result.agree.cpu()
    kept = agree[None] & (confidence[None] > thresholds[:, None])
    chosen = torch.nn.functional.one_hot(label, result.mean_probability.shape[1]).bool()
    for name, wanted in (("kept", kept), ("correct", kept & (label == gold))):
        per_class = (wanted[:, :, None] & chosen[None]).sum(1)
        assert torch.equal(getattr(result, name + "_per_class").cpu(), per_class), name
        assert torch.equal(getattr(result, name).cpu(), per_class.sum(1)), name
    check_index(result, agree & (confidence > alpha))


def check_index(result: Votes, keep: Tensor) -> None:
    assert result.index is not None
    assert result.count is not None
    expected = keep.cpu().nonzero().flatten()
    assert result.count.tolist() == [expected.numel()]
    free = torch.full((keep.numel() - expected.numel(),), -1)
    assert torch.equal(result.index.cpu(), torch.cat([expected, free]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition_and_the_reference(
    shape: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Callable[..., None],
) -> None:
    logits, gold, _ = problem(generator, *shape)
    logits = logits.to(device, dtype)
    label, agree, confidence, mean = item_votes(logits)
    thresholds = between(confidence, generator)
    alpha = float(thresholds.median())
    result = votes(logits, thresholds=thresholds.to(device), gold=gold.to(device), alpha=alpha)
    assert torch.equal(result.label.cpu(), label)
    assert torch.equal(result.agree.cpu(), agree)
    with dispatch.using("reference"):
        expected = votes(logits, thresholds=thresholds.to(device), gold=gold.to(device), alpha=alpha)
    as_good_as(result.min_confidence, expected.min_confidence, confidence)
    as_good_as(result.mean_probability, expected.mean_probability, mean)
    for name in FIELDS:
        assert torch.equal(getattr(result, name), getattr(expected, name)), name
    check_sweep(result, confidence, thresholds.double(), gold, alpha)


@pytest.mark.parametrize("shape", WIDE_SHAPES, ids=str)
def test_many_classes_and_voters(
    shape: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Callable[..., None],
) -> None:
    logits = problem(generator, *shape)[0].to(device, dtype)
    result = votes(logits, alpha=0.3)
    label, agree, confidence, mean = item_votes(logits)
    assert torch.equal(result.label.cpu(), label)
    assert torch.equal(result.agree.cpu(), agree)
    as_good_as(result.min_confidence, confidence.float(), confidence)
    as_good_as(result.mean_probability, mean.float(), mean)
    check_index(result, result.agree & (result.min_confidence > 0.3))


def test_thresholds_that_are_confidences_are_not_exceeded(device: torch.device, generator: torch.Generator) -> None:
    logits, gold, _ = problem(generator, 3, 300, 9)
    plain = votes(logits.to(device))
    confidence = plain.min_confidence
    above = torch.nextafter(confidence, torch.ones_like(confidence))
    below = torch.nextafter(confidence, torch.zeros_like(confidence))
    thresholds = torch.cat([confidence[::5], above[::7], below[::7], confidence[::5]])
    thresholds = thresholds[torch.randperm(len(thresholds), generator=generator).to(device)]
    alpha = confidence[plain.agree][7]
    result = votes(logits.to(device), thresholds=thresholds, gold=gold.to(device), alpha=alpha)
    check_sweep(result, confidence.cpu(), thresholds.cpu(), gold, float(alpha))


def test_ties_go_to_the_lowest_class_and_even_odds_are_exact(device: torch.device) -> None:
    for classes in (2, 4, 5):
        thresholds = torch.tensor([0.5, 0.0, 0.25], device=device)
        result = votes(torch.full((2, 3, classes), 7.25, device=device), thresholds=thresholds)
        assert result.label.tolist() == [0, 0, 0]
        assert result.agree.all()
        assert (result.min_confidence == torch.tensor(1 / classes, device=device)).all()
        assert result.kept is not None
        assert result.kept.tolist() == [0, 3, 3 if classes == 2 else 0]
    swapped = torch.tensor([[[0.0, 2.0, -3.0, 2.0, 1.0]], [[0.0, -3.0, 2.0, 2.0, 1.0]]], device=device)
    result = votes(swapped)
    assert (result.label.tolist(), result.agree.tolist()) == ([3], [False])
    halves = votes(torch.tensor([[[0.0, 4.0]], [[4.0, 0.0]]], device=device))
    assert (halves.label.tolist(), halves.agree.tolist()) == ([0], [False])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("classes", [4, 9])
def test_an_item_that_is_not_a_number_is_never_kept(classes: int, device: torch.device, dtype: torch.dtype) -> None:
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
    thresholds = torch.tensor([0.5, -1.0, -math.inf, math.nan, math.inf], device=device)
    gold = torch.ones(logits.shape[1], dtype=torch.int64, device=device)
    result = votes(logits, thresholds=thresholds, gold=gold, alpha=-1.0)
    with dispatch.using("reference"):
        expected = votes(logits, thresholds=thresholds, gold=gold, alpha=-1.0)
    for name in FIELDS:
        assert torch.equal(getattr(result, name), getattr(expected, name)), name
    assert result.agree.tolist() == [False] * (logits.shape[1] - 1) + [True]
    assert result.min_confidence[:-1].isnan().all()
    assert result.mean_probability[:-1].isnan().all()
    assert result.correct is not None
    assert result.correct.tolist() == [1, 1, 1, 0, 0]
    check_index(result, result.agree)
    assert votes(logits, alpha=math.nan).count.tolist() == [0]  # type: ignore[union-attr]


def test_huge_logits(device: torch.device) -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], [[9e3, 1e4, 0.0], [0.0, 1.0, 1e4]]], device=device)
    result = votes(logits, alpha=0.4)
    assert (result.label.tolist(), result.agree.tolist()) == ([0, 2], [False, False])
    assert result.min_confidence.tolist() == [1.0, 0.5]
    assert result.mean_probability.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]


@pytest.mark.parametrize("alpha", [-1.0, 0.55, 2.0])
def test_the_index_is_ascending_over_several_blocks(
    alpha: float, device: torch.device, generator: torch.Generator
) -> None:
    logits = (torch.randn(2, 9001, 2, generator=generator) * 2).to(device)
    result = votes(logits, alpha=torch.tensor(alpha, dtype=torch.float64, device=device))
    check_index(result, result.agree & (result.min_confidence > alpha))
    assert result.kept is None


@pytest.mark.parametrize("thresholds", [0, 1, 3, 200])
def test_any_number_of_thresholds_and_shared_histograms(
    thresholds: int, device: torch.device, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlt_engine.kernels.fused import votes as fused

    monkeypatch.setattr(fused, "_COPIES", 2)
    logits, gold, _ = problem(generator, 2, 390, 3)
    levels = torch.rand(thresholds, generator=generator)
    result = votes(logits.to(device), thresholds=levels.to(device), gold=gold.to(device, torch.int32), alpha=0.7)
    check_sweep(result, result.min_confidence.cpu(), levels, gold, 0.7)
    plain = votes(logits.to(device), thresholds=levels.to(device))
    assert torch.equal(plain.kept_per_class, result.kept_per_class)  # type: ignore[arg-type]
    assert plain.correct is None
    assert plain.correct_per_class is None
    assert plain.index is None
    assert plain.count is None


def test_strided_arguments_and_equal_runs(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    logits, gold, thresholds = problem(generator, 3, 140, 9)
    logits, gold, thresholds = logits.to(device, dtype), gold.to(device), thresholds.to(device)
    expected = votes(logits, thresholds=thresholds, gold=gold, alpha=0.5)
    apart = logits.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not apart.is_contiguous()
    for given in (logits, apart):
        result = votes(
            given,
            thresholds=torch.stack([thresholds, thresholds], 1)[:, 0],
            gold=torch.stack([gold, gold], 1)[:, 1],
            alpha=torch.tensor([0.5, 0.9], device=device)[:1],
        )
        for name in Votes._fields:
            assert torch.equal(getattr(result, name), getattr(expected, name)), name


def test_no_items(device: torch.device) -> None:
    nobody = torch.zeros(0, dtype=torch.int64, device=device)
    result = votes(torch.zeros(2, 0, 9, device=device), thresholds=torch.ones(3, device=device), gold=nobody, alpha=0.5)
    assert (result.kept.tolist(), result.correct.tolist()) == ([0, 0, 0], [0, 0, 0])  # type: ignore[union-attr]
    assert (result.index.tolist(), result.count.tolist()) == ([], [0])  # type: ignore[union-attr]
    assert result.mean_probability.shape == (0, 9)


def test_more_classes_than_a_tile_holds(device: torch.device, generator: torch.Generator) -> None:
    logits = torch.randn(2, 3, 1025, generator=generator).to(device)
    assert torch.equal(votes(logits).label.cpu(), item_votes(logits)[0])


def test_operator_contract(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    from xlt_engine.kernels.fused.votes import votes as operator

    logits, gold, thresholds = problem(generator, 2, 5, 3)
    alpha = torch.tensor([0.5], device=device)
    given = (logits.to(device, dtype), thresholds.to(device), gold.to(device), alpha)
    torch.library.opcheck(operator, given)
    torch.library.opcheck(operator, (given[0], None, None, None))


def test_in_one_compiled_graph(device: torch.device, generator: torch.Generator) -> None:
    logits, gold, thresholds = (t.to(device) for t in problem(generator, 2, 20, 3))

    def count(logits: Tensor, thresholds: Tensor, gold: Tensor) -> tuple[Tensor, ...]:
        return tuple(votes(logits, thresholds=thresholds, gold=gold, alpha=0.5))  # type: ignore[arg-type]

    compiled = torch.compile(count, fullgraph=True, backend="aot_eager")
    expected = count(logits, thresholds, gold)
    for got, wanted in zip(compiled(logits.requires_grad_(), thresholds, gold), expected, strict=True):
        assert torch.equal(got, wanted)
        assert not got.requires_grad


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_captured_in_a_graph_without_waiting_for_the_device(device: torch.device, generator: torch.Generator) -> None:
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    first, second = (problem(generator, 3, 5000, 9)[0].to(device) for _ in range(2))
    _, gold, thresholds = (t.to(device) for t in problem(generator, 3, 5000, 9))
    given = first.clone()

    def count() -> Votes:
        return votes(given, thresholds=thresholds, gold=gold, alpha=0.5)

    count()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        count()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = count()
    for logits in (second, first):
        given.copy_(logits)
        graph.replay()
        expected = count()
        for name in Votes._fields:
            assert torch.equal(getattr(captured, name), getattr(expected, name)), name
