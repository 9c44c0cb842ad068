"""Transport and the estimate made of it: against brute force, and where the truth is known."""

import itertools

import numpy as np
import pytest

from xlt_engine.engine.lab.studies import trust_estimate as e

Draws = np.random.Generator


def calibrated(draws: Draws, items: int, classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [K, C] and labels that are drawn from them: a model that is calibrated by construction."""
    logits = sharpness * draws.normal(size=(items, classes))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([draws.choice(classes, p=row) for row in p])
    return p, labels


@pytest.mark.parametrize("seed", range(5))
def test_transport_against_every_assignment(seed: int) -> None:
    """Six items, label shares of 1/2, 1/3, 1/6: the best of all ways to hand out three, two and one labels."""
    draws = np.random.default_rng(seed)
    p, _ = calibrated(draws, 6, 3, 2.0)
    ways = set(itertools.permutations([0, 0, 0, 1, 1, 2]))
    best = max(np.mean([p[i, c] for i, c in enumerate(way)]) for way in ways)
    assert e.transport_accuracy(p, [1 / 2, 1 / 3, 1 / 6]) == pytest.approx(best, abs=5e-3)
    coupling = e.label_coupling(p, [1 / 2, 1 / 3, 1 / 6])
    assert coupling.sum(axis=1) == pytest.approx(np.ones(6))
    assert coupling.mean(axis=0) == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=2e-3)


def test_transport_sees_a_model_that_names_one_class_only() -> None:
    """Sure of one class everywhere, while half of the labels are the other: at most half can be right."""
    p = np.tile([0.99, 0.01], (100, 1))
    assert p.max(axis=1).mean() == pytest.approx(0.99)
    assert e.transport_accuracy(p, [0.5, 0.5]) == pytest.approx(0.5, abs=0.01)


def test_transport_f1_by_hand() -> None:
    """Certain predictions that fit the prior are all right; where one entity of two is missed, F1 is 2/3."""
    sure = np.eye(3)[[0, 0, 1, 2]]
    assert e.transport_f1(sure, [0.5, 0.25, 0.25], outside=0) == pytest.approx(1.0, abs=1e-3)
    missed = np.eye(3)[[0, 0, 0, 2]]
    assert e.transport_f1(missed, [0.5, 0.25, 0.25], outside=0) == pytest.approx(2 / 3, abs=1e-2)


def estimate(source: tuple[np.ndarray, np.ndarray], target: np.ndarray) -> e.Estimate:
    p, labels = source
    prior = np.bincount(labels, minlength=p.shape[1]) / len(labels)
    score = float((p.argmax(axis=1) == labels).mean())
    return e.calibrated_estimate(
        e.Transport(score, e.transport_accuracy(p, prior), e.transport_accuracy(target, prior))
    )


def test_no_shift_small_error() -> None:
    """Source and target of one kind: the estimate is the accuracy, within the chance of 2000 items."""
    for seed in range(3):
        draws = np.random.default_rng(seed)
        source, (target, labels) = calibrated(draws, 2000, 4, 2.0), calibrated(draws, 2000, 4, 2.0)
        found, true = estimate(source, target), (target.argmax(axis=1) == labels).mean()
        assert found.value == pytest.approx(true, abs=0.04)
        assert found.low < true < found.high


def test_shift_lowers_the_estimate_and_widens_the_interval() -> None:
    """The same model on ever harder text: estimates fall in order, and intervals widen."""
    draws = np.random.default_rng(5)
    source = calibrated(draws, 2000, 4, 3.0)
    found = [estimate(source, calibrated(draws, 2000, 4, s)[0]) for s in (3.0, 2.0, 1.2)]
    values, widths = [f.value for f in found], [f.high - f.low for f in found]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[2] > 0.15
    assert widths == sorted(widths)
    assert widths[2] > 1.3 * widths[0]


def test_overconfidence_that_the_source_shows_is_taken_back() -> None:
    """Probabilities squared and scaled: the same labels, far too sure of them. The source's truth corrects for it."""
    draws = np.random.default_rng(6)
    source, (target, labels) = calibrated(draws, 3000, 3, 1.5), calibrated(draws, 3000, 3, 1.5)
    sharp = [p**4 / (p**4).sum(axis=1, keepdims=True) for p in (source[0], target)]
    true = (target.argmax(axis=1) == labels).mean()
    assert sharp[1].max(axis=1).mean() > true + 0.15
    assert estimate((sharp[0], source[1]), sharp[1]).value == pytest.approx(true, abs=0.05)


def test_interval_stays_within_the_scale() -> None:
    found = e.calibrated_estimate(e.Transport(0.9, 0.9, 0.0))
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0 < found.high <= 1
    assert e.calibrated_estimate(e.Transport(1.0, 1.0, 1.0)).high == 1.0


def test_an_interval_wider_than_forty_points_says_nothing() -> None:
    assert e.Estimate(0.5, 0.3, 0.7).narrow
    assert not e.Estimate(0.5, 0.29, 0.7).narrow


def test_the_loss_of_a_student_is_counted_from_its_first_teacher() -> None:
    """A student that has forgotten the source (0.5 of 0.9) keeps its estimate, with an interval as of a loss of 0.4."""
    teacher, student = e.Transport(0.9, 0.9, 0.6), e.Transport(0.5, 0.5, 0.5)
    assert e.interval_scale(student) == pytest.approx(0.2)
    assert e.interval_scale(student, teacher) == pytest.approx(0.2 + 0.9 - 0.5)
    alone, taught = (e.calibrated_estimate(student, t, shift=0.5, width=0.2) for t in (None, teacher))
    assert alone.value == taught.value == 0.5
    assert taught.high - taught.low == pytest.approx(2 * 0.2 * 0.6)


def test_the_interval_of_a_student_is_never_narrower_than_that_of_its_teacher() -> None:
    draws = np.random.default_rng(7)
    wider = 0
    for _ in range(500):
        student, teacher = (e.Transport(*draws.uniform(0.05, 1, size=3).tolist()) for _ in range(2))
        own, theirs, alone = e.interval_scale(student, teacher), e.interval_scale(teacher), e.interval_scale(student)
        assert own >= max(theirs, alone)
        wider += own > alone
    assert 100 < wider < 500
