from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import dispatch, supervised_contrastive

Check = Callable[..., None]
REDUCTIONS = ("sum", "mean", "none")
# Around tiles of 4 rows and 128 columns and blocks of 256 items, and batches of one.
SIZES = [(1, 4), (2, 1), (16, 33), (127, 5), (128, 3), (130, 3), (257, 2)]


def item_losses(features: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """[N] in fp64 by the definition, and which items count; autograd goes through it."""
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    power = (unit @ unit.T / temperature).exp()
    others = (labels != -100).double().expand(len(labels), -1).clone().fill_diagonal_(0)
    alike = others * (labels[:, None] == labels)
    counts = (alike.sum(1) > 0) & (labels != -100)
    total = (power * others).sum(1, keepdim=True).clamp(min=1e-300)
    losses = -(alike * (power / total).log()).sum(1) / alike.sum(1).clamp(min=1)
    return torch.where(counts, losses, 0.0), counts


def reduced(losses: Tensor, counts: Tensor, weights: Tensor | None, reduction: str) -> Tensor:
    scale = torch.ones(len(losses), dtype=torch.float64) if weights is None else weights.double()
    if reduction == "none":
        return losses * scale
    return (losses * scale).sum() / ((scale * counts).sum() if reduction == "mean" else 1.0)


def both(
    as_good_as: Check,
    features: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    temperature: float,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Value and gradient of the kernels, held against fp64; the allowance is the reference path's error."""
    truth = features.detach().cpu().double().requires_grad_()
    losses, counts = item_losses(truth, labels.cpu(), temperature)
    expected = reduced(losses, counts, None if weights is None else weights.cpu(), reduction)
    upstream = torch.rand(expected.shape, generator=torch.Generator().manual_seed(5)) + 0.5
    (gradient_truth,) = torch.autograd.grad(expected, truth, upstream.double())
    found = []
    for mode in ("triton", "reference"):
        with dispatch.using(mode):
            given = features.detach().clone().requires_grad_()
            value = supervised_contrastive(given, labels, temperature=temperature, weights=weights, reduction=reduction)
            (gradient,) = torch.autograd.grad(value, given, upstream.to(value.device))
            found.append((value.detach(), gradient))
    as_good_as(found[0][0], found[1][0], expected)
    # Of the gradient the whole norm alone: the rows of items that nearly cancel have few digits in any fp32.
    as_good_as(found[0][1].flatten(), found[1][1].flatten(), gradient_truth.flatten())
    return found[0]


def problem(
    generator: torch.Generator, size: int, hidden: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of every length, labels of which some are padding, and weights of which some are zero."""
    features = torch.randn(size, hidden, generator=generator) * (torch.rand(size, 1, generator=generator) + 0.1)
    labels = torch.randint(4, (size,), generator=generator)
    labels[3::5] = -100
    weights = torch.rand(size, generator=generator) * (torch.rand(size, generator=generator) > 0.2)
    return features.to(device, dtype), labels.to(device), weights.to(device)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("temperature", [0.05, 0.7])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_every_option(
    reduction: str,
    temperature: float,
    weighted: bool,
    device: torch.device,
    dtype: torch.dtype,
    generator: torch.Generator,
    as_good_as: Check,
) -> None:
    features, labels, weights = problem(generator, 23, 17, device, dtype)
    both(as_good_as, features, labels, weights if weighted else None, temperature, reduction)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_edge(
    size: tuple[int, int], device: torch.device, dtype: torch.dtype, generator: torch.Generator, as_good_as: Check
) -> None:
    features, labels, _ = problem(generator, *size, device, dtype)
    if size[0] <= 2:
        value = supervised_contrastive(features.requires_grad_(), labels * 0, temperature=0.2)
        (gradient,) = torch.autograd.grad(value, features)
        # One item has nobody; two of a class have nobody else to be far from.
        assert value.item() == pytest.approx(0.0, abs=1e-6)
        assert gradient.abs().max().item() == pytest.approx(0.0, abs=1e-5)
        return
    both(as_good_as, features, labels, None, 0.2, "mean")


def test_features_that_are_nearly_alike(
    device: torch.device, dtype: torch.dtype, generator: torch.Generator, as_good_as: Check
) -> None:
    """As those of an encoder are before it has learnt anything: cosines of 0.99."""
    common = torch.randn(1, 40, generator=generator)
    features = (common + 0.1 * torch.randn(20, 40, generator=generator)).to(device, dtype)
    labels = torch.randint(3, (20,), generator=generator).to(device)
    both(as_good_as, features, labels, None, 0.1, "sum")


@pytest.mark.parametrize("temperature", [0.005, 50.0])
def test_extreme_temperatures(
    temperature: float, device: torch.device, generator: torch.Generator, as_good_as: Check
) -> None:
    """At 0.005 similarities reach 200, whose power is more than fp32 holds."""
    features, labels, _ = problem(generator, 30, 6, device, torch.float32)
    both(as_good_as, features * 100, labels, None, temperature, "sum")


def test_a_far_stranger_does_not_overflow(device: torch.device) -> None:
    """The one item of its class is the opposite of all others: its own power is infinite, and must not be used."""
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], device=device).requires_grad_()
    value = supervised_contrastive(features, torch.tensor([0, 0, 1, 2], device=device), temperature=0.005)
    (gradient,) = torch.autograd.grad(value, features)
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("labels", [[0], [0, 1, 2, 3], [-100, -100, -100], [5, -100]])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_has_no_company_counts_nothing(labels: list[int], reduction: str, device: torch.device) -> None:
    features = torch.ones(len(labels), 3, device=device).requires_grad_()
    value = supervised_contrastive(
        features, torch.tensor(labels, device=device), temperature=0.004, reduction=reduction
    )
    (gradient,) = torch.autograd.grad(value.sum(), features)
    assert not value.any()
    assert not gradient.any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_batch(reduction: str, device: torch.device) -> None:
    features = torch.zeros(0, 3, device=device).requires_grad_()
    value = supervised_contrastive(
        features, torch.zeros(0, dtype=torch.int64, device=device), temperature=0.1, reduction=reduction
    )
    (gradient,) = torch.autograd.grad(value.sum(), features)
    assert value.shape == ((0,) if reduction == "none" else ())
    assert not value.any()
    assert gradient.shape == (0, 3)


def test_padding_and_zeros(device: torch.device, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Padding changes no bit of the others and has no gradient; zeros are near to nothing, and have none either."""
    features, labels, _ = problem(generator, 12, 8, device, dtype)
    labels[:] = torch.arange(12, device=device) % 3
    features[1] = 0
    grown = torch.cat([features, torch.full((9, 8), 3.0, device=device, dtype=dtype)]).requires_grad_()
    padded = torch.cat([labels, labels.new_full((9,), -100)])
    small = features.clone().requires_grad_()
    few = supervised_contrastive(small, labels, temperature=0.2, reduction="none")
    many = supervised_contrastive(grown, padded, temperature=0.2, reduction="none")
    assert torch.equal(few, many[:12])
    assert not many[12:].any()
    gradients = [torch.autograd.grad(v.sum(), f)[0] for v, f in ((few, small), (many, grown))]
    assert torch.allclose(gradients[0], gradients[1][:12], rtol=1e-5, atol=1e-6)
    assert not gradients[1][12:].any()
    assert not gradients[0][1].any()
    assert gradients[0][0].any()


def test_a_gradient_is_at_right_angles_to_its_features(device: torch.device, generator: torch.Generator) -> None:
    """Only directions matter, so that no step along the features changes anything."""
    features, labels, _ = problem(generator, 18, 10, device, torch.float32)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(supervised_contrastive(features, labels, temperature=0.3), features)
    along = (gradient * features).sum(1).abs() / (gradient.norm(dim=1) * features.norm(dim=1)).clamp(min=1e-20)
    assert along.max().item() < 1e-5
    assert gradient.norm().item() > 1e-3


def test_not_a_number_is_not_hidden(device: torch.device) -> None:
    features = torch.ones(4, 2, device=device)
    features[2] = math.nan
    assert supervised_contrastive(features, torch.zeros(4, dtype=torch.int64, device=device), temperature=0.1).isnan()
