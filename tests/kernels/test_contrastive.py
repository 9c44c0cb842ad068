"""The supervised contrastive loss on the reference path: by hand, by its definition, and at its edges."""

import math

import pytest
import torch
from torch import Tensor

from xlt_engine.kernels import supervised_contrastive

from .helpers import Error, Generator
from .losses import reduced


def by_definition(features: Tensor, labels: list[int], temperature: float, ignored: int = -100) -> Tensor:
    """[N], Eq. 2 by loops, in the dtype of `features`; 0 for an anchor that has no positive."""
    unit = [row / row.norm() for row in features]
    losses = []
    for i, label in enumerate(labels):
        others = [k for k in range(len(labels)) if k != i and labels[k] != ignored]
        positives = [j for j in others if labels[j] == label]
        if label == ignored or not positives:
            losses.append(features.sum() * 0)
            continue
        sum_of_powers = sum(((unit[i] @ unit[k]) / temperature).exp() for k in others)
        terms = [torch.log(sum_of_powers) - (unit[i] @ unit[j]) / temperature for j in positives]
        losses.append(sum(terms) / len(terms))
    return torch.stack(losses)


def test_a_batch_worked_by_hand() -> None:
    """Four texts at right angles: classes A, A, B and a lone C; temperature 1/2.

    Directions: a = (1, 0), b = (0, 1), c = (-1, 0), d = (0, -1); cosines a.b = 0, a.c = -1, a.d = 0, b.c = 0, b.d = -1.
    Anchor a: similarities 0, -2, 0; log(1 + e^-2 + 1) - 0 = log(2 + e^-2). Anchor b: 0, 0, -2; the same.
    B and C have nobody: together 2 log(2 + e^-2), over two anchors log(2 + e^-2) = 0.758620...
    """
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-0.5, 0.0], [0.0, -1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2])
    one = math.log(2 + math.exp(-2))
    assert one == pytest.approx(0.7586, abs=1e-4)
    found = {r: supervised_contrastive(features, labels, temperature=0.5, reduction=r) for r in ("none", "sum", "mean")}
    assert found["none"].tolist() == pytest.approx([one, one, 0.0, 0.0])
    assert float(found["sum"]) == pytest.approx(2 * one)
    assert float(found["mean"]) == pytest.approx(one)
    # Three of a class: the mean over the two positives, 0 and -2, of 0.7586 + (0 or 2).
    three = supervised_contrastive(features, torch.tensor([0, 0, 0, 2]), temperature=0.5, reduction="none")
    assert float(three[0]) == pytest.approx(one + 1)


def test_value_and_gradient_equal_the_definition_in_fp64(generator: Generator, relative_error: Error) -> None:
    features = torch.randn(9, 5, generator=generator, dtype=torch.float64).requires_grad_()
    labels = [0, 1, 0, 2, -100, 1, 0, 3, -100]
    counted = torch.tensor([1, 1, 1, 0, 0, 1, 1, 0, 0], dtype=torch.bool)
    losses, given = by_definition(features, labels, 0.3), torch.tensor(labels)
    for reduction in ("none", "sum", "mean"):
        truth = reduced(losses, None, counted, reduction)
        value = supervised_contrastive(features, given, temperature=0.3, reduction=reduction)
        assert relative_error(value, truth) < 1e-12
        upstream = torch.rand(truth.shape, generator=generator, dtype=torch.float64)
        found, wanted = (torch.autograd.grad(v, features, upstream, retain_graph=True) for v in (value, truth))
        assert relative_error(found[0], wanted[0]) < 1e-12
        assert not found[0][[4, 8]].any()


def test_gradients_by_differences(generator: Generator) -> None:
    features = torch.randn(6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, -100])
    assert torch.autograd.gradcheck(lambda f: supervised_contrastive(f, labels, temperature=0.5), features)


@pytest.mark.parametrize("labels", [[], [0], [0, 1, 2], [-100, -100], [0, -100], [0, 0, 1]])
def test_what_has_no_company_counts_nothing(labels: list[int]) -> None:
    features = torch.ones(len(labels), 4).requires_grad_()
    given = torch.tensor(labels, dtype=torch.int64)
    for reduction in ("sum", "mean", "none"):
        value = supervised_contrastive(features, given, temperature=0.1, reduction=reduction)
        assert bool(value.isfinite().all())
        (gradient,) = torch.autograd.grad(value.sum(), features)
        assert bool(gradient.isfinite().all())
        if len(labels) - len(set(labels) - {-100}) in (0, labels.count(-100)):
            assert not value.any()
            assert not gradient.any()


def test_zeros_are_near_to_nothing() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).requires_grad_()
    value = supervised_contrastive(features, torch.tensor([0, 0, 1, 1]), temperature=1.0)
    assert value.item() == pytest.approx(4 * math.log(3))
    (gradient,) = torch.autograd.grad(value, features)
    assert bool(gradient.isfinite().all())
    assert not gradient[[0, 2]].any()


def test_lengths_and_order_change_nothing(generator: Generator, relative_error: Error) -> None:
    features, labels = torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)
    value = supervised_contrastive(features, labels, temperature=0.2, reduction="none")
    longer = supervised_contrastive(features * torch.arange(1.0, 9)[:, None], labels, temperature=0.2, reduction="none")
    assert relative_error(longer, value) < 1e-5
    order = torch.randperm(8, generator=generator)
    moved = supervised_contrastive(features[order], labels[order], temperature=0.2, reduction="none")
    assert relative_error(moved, value[order]) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"temperature": math.nan}, "temperature must be positive"),
        ({"reduction": "max"}, "reduction must be one of"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"must be \[N, H\] and \[N\]"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    given = {"features": torch.ones(2, 3), "labels": torch.zeros(2, dtype=torch.int64), "temperature": 0.1}
    with pytest.raises(ValueError, match=message):
        supervised_contrastive(**(given | change))  # type: ignore[arg-type]
