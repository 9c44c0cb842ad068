import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from xlt_engine import ConfigError
from xlt_engine.engine.pseudolabels import thresholds
from xlt_engine.engine.pseudolabels.thresholds import (
    ThresholdChoice,
    choose_threshold,
    choose_threshold_from_sweep,
    count_above,
    divided_differences,
    parse_rule,
    register_rule,
    uniform_grid,
)

UNEVEN = np.array([0.5, 0.53, 0.55, 0.6, 0.68, 0.7, 0.74, 0.8, 0.83, 0.9, 0.92, 0.95, 0.97, 0.99])
MANY = 10**9


def from_curve(
    curve: Callable[[np.ndarray], np.ndarray], rule: str, grid: np.ndarray = UNEVEN, **options: int
) -> ThresholdChoice:
    """The choice on an analytic accuracy curve; counts of a billion items make it exact to nine digits."""
    kept = np.full(grid.shape, MANY)
    return choose_threshold_from_sweep(
        grid, kept, np.rint(curve(grid) * MANY).astype(np.int64), total=MANY, rule=rule, **options
    )


def sigmoid(t: np.ndarray, centre: float, width: float) -> np.ndarray:
    return 0.6 + 0.3 / (1 + np.exp(-(t - centre) / width))


def test_divided_differences_are_exact_for_parabolas_on_an_uneven_grid() -> None:
    slope, second = divided_differences(UNEVEN, 3 * UNEVEN**2 - UNEVEN + 2)
    np.testing.assert_allclose(slope[1:-1], 6 * UNEVEN[1:-1] - 1, rtol=1e-10)
    np.testing.assert_allclose(second[1:-1], 6.0, rtol=1e-10)
    assert np.isnan(slope[[0, -1]]).all()
    assert np.isnan(second[[0, -1]]).all()


def test_second_difference_finds_the_bend_of_a_broken_line_on_an_uneven_grid() -> None:
    # The slope rises at .7 and falls, by more, at .9: signed and absolute second differences part here.
    def curve(t: np.ndarray) -> np.ndarray:
        return 0.5 + 0.9 * np.clip(t - 0.7, 0, 0.2)

    choice = from_curve(curve, "second-difference")
    assert choice.alpha == 0.7
    assert not choice.at_edge
    # By hand: rise 0 before, .9 after, over half the distance of the neighbours .68 and .74.
    assert choice.score[5] == pytest.approx(0.9 / 0.03, rel=1e-6)
    assert choice.curve.second_difference[9] == pytest.approx(-0.9 / 0.045, rel=1e-6)
    sharper = from_curve(lambda t: curve(t) - 3 * np.clip(t - 0.9, 0, 1), "abs2")
    assert sharper.alpha == 0.9
    assert from_curve(lambda t: curve(t) - 3 * np.clip(t - 0.9, 0, 1), "second-difference").alpha == 0.7


def test_second_difference_of_a_sigmoid() -> None:
    grid = uniform_grid()
    choice = from_curve(lambda t: sigmoid(t, 0.8, 0.05), "second-difference", grid)
    # The second derivative of a sigmoid peaks at centre - ln(2 + sqrt 3) width.
    assert choice.alpha == pytest.approx(0.8 - math.log(2 + math.sqrt(3)) * 0.05, abs=0.005)
    assert from_curve(lambda t: sigmoid(t, 0.8, 0.05), "slope", grid).alpha == pytest.approx(0.8, abs=1e-9)


def test_kappa_and_kneedle() -> None:
    # On scaled axes an elbow of slope 0 then 10 / 3 at 0.7 of the way is both the sharpest and the farthest point.
    grid = np.round(np.linspace(0.5, 0.9, 41), 12)

    def elbow(t: np.ndarray) -> np.ndarray:
        return 0.6 + np.clip(t - 0.78, 0, 1)

    for rule in ("kappa", "kneedle"):
        assert from_curve(elbow, rule, grid).alpha == 0.78
    # For y = x^2 on [0, 1], curvature 2 / (1 + 4 x^2)^1.5 falls with x, and x - x^2 is largest at 1/2.
    square = np.linspace(0.5, 0.9, 41)
    assert from_curve(lambda t: 0.5 + (t - 0.5) ** 2, "kneedle", square).alpha == pytest.approx(0.7)
    kappa = from_curve(lambda t: 0.5 + (t - 0.5) ** 2, "kappa", square)
    x = np.linspace(0, 1, 41)[1:-1]
    np.testing.assert_allclose(kappa.score[1:-1], 2 / (1 + 4 * x**2) ** 1.5, rtol=1e-4)
    assert kappa.at_edge


def test_precision_rule() -> None:
    choice = from_curve(lambda t: t, "precision:0.9")
    assert choice.alpha == 0.9
    assert not choice.at_edge
    unreached = from_curve(lambda t: t / 2, "precision:0.9")
    assert unreached.alpha == 0.99
    assert unreached.at_edge
    assert "no threshold reaches" in unreached.reason
    everywhere = from_curve(lambda t: 0.92 + 0.05 * t, "precision:0.9")
    assert everywhere.index == 0
    assert not everywhere.at_edge  # asked for the lowest that is right often enough, and got it


def test_fixed_rule() -> None:
    off_grid = from_curve(lambda t: t, "fixed:0.123")
    assert (off_grid.alpha, off_grid.index, off_grid.at_edge) == (0.123, None, False)
    assert from_curve(lambda t: t, "fixed:0.55").index == 2
    assert from_curve(lambda t: t, "fixed:0").alpha == 0.0


def test_edge_alarm() -> None:
    assert from_curve(lambda t: 0.5 + 0.4 * t**40, "second-difference", uniform_grid()).alpha == 0.98
    assert from_curve(lambda t: 0.5 + 0.4 * t**40, "second-difference", uniform_grid()).at_edge
    assert not from_curve(lambda t: sigmoid(t, 0.8, 0.05), "slope", uniform_grid()).at_edge


def test_ties_go_to_the_lowest_threshold() -> None:
    parabola = from_curve(lambda t: t**2, "second-difference", np.linspace(0.5, 0.9, 6))
    assert parabola.index == 1


@pytest.mark.parametrize("rule", ["second-difference", "slope", "abs2", "kappa", "kneedle"])
def test_flat_empty_and_scarce_curves_fall_back_to_the_lowest_threshold(rule: str) -> None:
    flat = from_curve(lambda t: np.full(t.shape, 0.75), rule)
    empty = choose_threshold([], [], rule=rule)
    unsure = choose_threshold(np.full(100, 0.3), np.ones(100), rule=rule)
    missing = choose_threshold(np.full(100, np.nan), np.ones(100), rule=rule)
    for choice, reason in ((flat, "flat"), (empty, "no items"), (unsure, "keeps 20"), (missing, "keeps 20")):
        assert choice.fallback
        assert choice.at_edge
        assert choice.alpha == choice.curve.thresholds[0]
        assert reason in choice.reason
    short = from_curve(lambda t: t, rule, np.array([0.5, 0.6]))
    assert short.fallback
    assert "fewer than three" in short.reason


def test_a_model_that_is_never_sure_gives_the_median_of_its_confidences() -> None:
    confidence = np.array([0.20, 0.22, 0.25, 0.30, 0.39, 0.50, np.nan])
    agree = np.array([1, 1, 1, 1, 1, 0, 1], bool)
    choice = choose_threshold(confidence, np.ones(7, bool), agree=agree, num_classes=7, min_kept=2)
    assert choice.alpha == 0.25
    assert choice.fallback
    assert choice.index is None
    assert "no confidence is above 0.51" in choice.reason
    one_above = choose_threshold([*confidence, 0.6], np.ones(8, bool), num_classes=7, min_kept=2)
    assert one_above.alpha == 0.51


def test_a_straight_line_does_not_bend() -> None:
    for rule in ("second-difference", "abs2"):
        # Counts that are exact on this grid.
        assert from_curve(lambda t: t / 2, rule, np.arange(0.5, 0.9, 1 / 64)).fallback


def test_thresholds_that_keep_too_little_are_not_considered() -> None:
    grid = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    kept, correct = [1000, 900, 800, 700, 5], [500, 470, 430, 380, 5]
    assert choose_threshold_from_sweep(grid, kept, correct, total=1000, min_kept=5).alpha == 0.8
    choice = choose_threshold_from_sweep(grid, kept, correct, total=1000, min_kept=6)
    assert choice.alpha in (0.6, 0.7)
    assert np.isnan(choice.score[3:]).all()
    assert choice.curve.accuracy[4] == 1.0


def test_counts_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.choice(np.append(uniform_grid(), [0.2, np.nan]), size=500)
    correct, agree = rng.random(500) < 0.8, rng.random(500) < 0.7
    curve = choose_threshold(confidence, correct, agree=agree).curve
    for index, threshold in enumerate(curve.thresholds):
        kept = [c for c, a, r in zip(confidence, agree, correct, strict=True) if a and c > threshold]
        right = [c for c, a, r in zip(confidence, agree, correct, strict=True) if a and r and c > threshold]
        assert (curve.kept[index], curve.correct[index]) == (len(kept), len(right))
        assert curve.coverage[index] == pytest.approx(len(kept) / 500)
        assert curve.recall[index] == pytest.approx(len(right) / 500)
        if kept:
            assert curve.accuracy[index] == pytest.approx(len(right) / len(kept))
    assert curve.total_correct == correct.sum()


def test_comparison_is_strict_in_the_precision_of_the_confidences() -> None:
    assert count_above([0.5, 0.6, 0.7], [0.5, 0.6, 0.65]).tolist() == [2, 1, 1]
    assert float(np.float32(0.6)) > 0.6
    assert count_above(np.array([0.6], np.float32), [0.6]).tolist() == [0]


def test_grid() -> None:
    grid = uniform_grid()
    assert grid.tolist() == [round(0.51 + 0.01 * i, 2) for i in range(49)]
    assert uniform_grid(9).tolist() == grid.tolist()
    assert uniform_grid(1 + 1, step=0.05, upper=0.95)[0] == 0.55
    for options in ({"step": 0.0}, {"upper": 0.5}, {"upper": 1.0}, {"step": 0.6}):
        with pytest.raises(ConfigError):
            uniform_grid(**options)


@pytest.mark.parametrize("grid", [[], [0.6, 0.5], [0.5, 0.5], [0.5, 1.0], [-0.1, 0.5], [[0.5, 0.6]], [math.nan, 0.5]])
def test_bad_grids_are_refused(grid: list[float]) -> None:
    with pytest.raises(ConfigError, match="rising"):
        choose_threshold([0.5], [True], grid=grid)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ConfigError):
        choose_threshold([0.5], [True, False])
    with pytest.raises(ConfigError):
        choose_threshold_from_sweep([0.5, 0.6], [1], [1], total=1)


def test_rules_are_parsed() -> None:
    assert str(parse_rule("fixed:0.90")) == "fixed:0.9"
    assert parse_rule(" precision:0.95 ").value == 0.95
    assert parse_rule("kappa").value is None
    with pytest.raises(ConfigError, match="did you mean 'second-difference'"):
        parse_rule("second-diference")
    with pytest.raises(ConfigError, match="kneedle, precision:<p>|use one of"):
        parse_rule("zzz")


@pytest.mark.parametrize("rule", ["fixed", "fixed:", "fixed:one", "fixed:1", "fixed:nan", "precision:95", "slope:1"])
def test_bad_values_of_rules_are_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="threshold rule"):
        parse_rule(rule)


def test_choice_as_json() -> None:
    choice = choose_threshold(np.linspace(0.4, 0.9, 200), np.ones(200))
    data = json.loads(json.dumps(choice.as_dict(), allow_nan=False))
    assert data["alpha"] == 0.51
    assert data["curve"]["kept"] == choice.curve.kept.tolist()
    assert data["curve"]["accuracy"][-1] is None
    assert data["rule"] == "second-difference"


def test_a_registered_rule_takes_the_lowest_threshold_of_its_largest_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "_REGISTERED", {})
    register_rule("near-0.72", lambda curve, usable: -np.abs(np.round(curve.thresholds - 0.72, 2)))
    choice = from_curve(lambda t: 0.5 + t / 4, "near-0.72")
    assert (choice.alpha, choice.rule) == (0.7, "near-0.72")  # 0.74 is as near
    with pytest.raises(ConfigError, match="did you mean 'near-0.72'"):
        parse_rule("near-0.7")
    for taken in ("slope", "fixed", "a:b"):
        with pytest.raises(ConfigError, match="choose another"):
            register_rule(taken, lambda curve, usable: curve.accuracy)
