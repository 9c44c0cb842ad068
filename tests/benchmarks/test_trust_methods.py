"""What `benchmarks/trust.py` compares and fits: published estimators and the conformal quantile."""

import numpy as np
import pytest
import trust
import trust_methods


def test_difference_and_average() -> None:
    source, target = [0.9, 0.8, 1.0], [0.6, 0.7]
    assert trust_methods.average_confidence(target) == pytest.approx(0.65)
    assert trust_methods.difference_of_confidences(0.8, source, target) == pytest.approx(0.8 - (0.9 - 0.65))
    assert trust_methods.difference_of_confidences(0.1, source, [0.0]) == 0.0


def test_thresholded_confidence_by_hand() -> None:
    """Four of five source items are right; the threshold lies between the lowest and the next."""
    source = [0.5, 0.6, 0.7, 0.8, 0.9]
    assert trust_methods.thresholded_confidence(0.8, source, [0.55, 0.61, 0.95, 0.2]) == 0.5
    assert trust_methods.thresholded_confidence(1.0, source, [0.1]) == 1.0


def test_thresholded_confidence_returns_the_source_score_without_shift() -> None:
    draws = np.random.default_rng(0)
    values = draws.random(5000)
    for score in (0.2, 0.55, 0.9):
        assert trust_methods.thresholded_confidence(score, values, values) == pytest.approx(score, abs=1e-3)


def test_source_curve_against_a_loop() -> None:
    draws = np.random.default_rng(1)
    source, target = draws.random(400), draws.random(100) ** 2
    correct = draws.random(400) < source
    edges = np.unique(np.quantile(source, np.linspace(0, 1, 11)[1:-1]))
    total = 0.0
    for value in target:
        inside = [c for s, c in zip(source, correct, strict=True) if (s >= edges).sum() == (value >= edges).sum()]
        total += (sum(inside) + 2 * correct.mean()) / (len(inside) + 2)
    assert trust_methods.source_curve(source, correct, target) == pytest.approx(total / 100)


def test_conformal_quantile_by_hand() -> None:
    """Three groups weigh 1/4 each: at 3/4 the largest score, above it none, at 1/2 where two groups are below."""
    scores, groups = [0.1, 0.2, 0.3, 0.4, 0.9, 0.5], ["a", "a", "a", "a", "b", "c"]
    assert trust.conformal_quantile(scores, groups, 0.75) == 0.9
    assert trust.conformal_quantile(scores, groups, 0.76) == float("inf")
    assert trust.conformal_quantile(scores, groups, 0.5) == 0.5
    assert trust.conformal_quantile(scores, groups, 0.25) == 0.4
    assert trust.conformal_quantile(scores, groups, 0.2) == 0.4
    assert trust.conformal_quantile(scores, groups, 0.18) == 0.3


@pytest.mark.parametrize("level", [0.5, 0.8, 10 / 11])
def test_conformal_quantile_holds_for_a_new_group(level: float) -> None:
    """Ten groups of their own scale, from 1 to 5 cases each: a case of another one lies below as often as promised."""
    draws = np.random.default_rng(11)
    below = []
    for _ in range(3000):
        sizes, scales = draws.integers(1, 6, size=11), draws.lognormal(size=11)
        values = [scale * draws.random(n) for n, scale in zip(sizes, scales, strict=True)]
        names = [str(i) for i, n in enumerate(sizes[:10]) for _ in range(n)]
        below.append(values[10][0] <= trust.conformal_quantile(np.concatenate(values[:10]), names, level))
    assert level - 0.02 < np.mean(below) < level + 0.05
