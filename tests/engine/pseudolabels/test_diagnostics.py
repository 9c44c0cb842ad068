import json
from typing import Any

import numpy as np
import pytest

from xlt_engine import DataError
from xlt_engine.engine.pseudolabels import diagnostics as d
from xlt_engine.engine.pseudolabels.thresholds import (
    ThresholdChoice,
    choose_threshold,
    choose_threshold_from_sweep,
    uniform_grid,
)
from xlt_engine.engine.storage.files import plain
from xlt_engine.engine.storage.run_warning import RunWarning


def check(warning: RunWarning | None, name: str) -> None:
    assert warning.name == name
    data = json.loads(json.dumps(plain(warning), allow_nan=False))
    assert set(data) == {"name", "message", "values"}
    assert data["message"]


FALLS, RISES = np.linspace(5.0, 2.3, 100).tolist(), np.linspace(2.0, 3.0, 50).tolist()
TAGS = {"O": 830, "B-PER": 100, "B-LOC": 70}
HALVES, RARE = {"neg": 50, "pos": 50}, TAGS | {"B-RARE": 5}


@pytest.mark.parametrize(
    ("judge", "given", "name"),
    [
        (d.low_loss_drop, [FALLS], ""),
        (d.low_loss_drop, [[5.0]], ""),
        (d.low_loss_drop, [[5.0, 5.1] * 50], "low-btf-loss-drop"),
        (d.low_loss_drop, [RISES], "low-btf-loss-drop"),
        # One lucky step at the end is no drop: the last tenth is averaged.
        (d.low_loss_drop, [[5.0] * 99 + [3.0]], "low-btf-loss-drop"),
        (d.low_agreement, [[True, True, False]], ""),
        (d.low_agreement, [[]], ""),
        (d.low_agreement, [[True, False, False]], "low-voter-agreement"),
        (d.single_voter, [3], ""),
        (d.single_voter, [1], "single-voter"),
        (d.class_collapse, [{"O": 950, "B-PER": 30, "B-LOC": 20}, TAGS], ""),
        (d.class_collapse, [{"neg": 10, "pos": 90}, HALVES], ""),
        (d.class_collapse, [{}, TAGS], ""),
        (d.class_collapse, [{"O": 990, "B-PER": 10}, TAGS], "class-share-collapse"),
        (d.class_collapse, [{"neg": 0, "pos": 98, "other": 2}, HALVES], "class-share-collapse"),
        (d.class_shift, [{"O": 940, "B-PER": 30, "B-LOC": 30}, RARE], ""),
        (d.class_shift, [{"O": 980, "B-PER": 20}, RARE], "class-share-shift"),
        (d.falling_acceptance, [[]], ""),
        (d.falling_acceptance, [[0.5]], ""),
        (d.falling_acceptance, [[0.5, 0.45]], ""),
        (d.falling_acceptance, [[0.2, 0.5, 0.6]], ""),
        (d.falling_acceptance, [[0.2, 0.6, 0.4]], "falling-acceptance"),
        (d.falling_acceptance, [[0.6, 0.5, 0.45]], "falling-acceptance"),
        (d.few_accepted_entities, [30, 100], ""),
        (d.few_accepted_entities, [4, 1000], "few-accepted-entities"),
        (d.few_accepted_entities, [0, 0], "few-accepted-entities"),
        (d.cut_by_length, [0, 100, 128, "de"], ""),
        (d.cut_by_length, [1, 1000, 128, "de"], "cut-by-maximum-length"),
        (d.only_frequencies, [[9.0] * 90 + [6.0] * 10, 7.0], ""),
        (d.only_frequencies, [[], 7.0], ""),
        (d.only_frequencies, [[9.0] * 90 + [6.9] * 10, 7.0], "only-frequencies"),
        (d.heavy_source_drop, [100, 75], ""),
        (d.heavy_source_drop, [0, 0], ""),
        (d.heavy_source_drop, [100, 60], "heavy-source-drop"),
        # The paper's classification setting, 40 epochs of 10,000 in batches of 30, is slow but possible.
        (d.slow_learning_rate, [1e-6, 13_333], ""),
        (d.slow_learning_rate, [1e-6, 250], "learning-rate-too-small"),
    ],
)
def test_warnings(judge: Any, given: list[Any], name: str) -> None:
    found = judge(*given)
    assert (found is None) == (name == "")
    if name:
        check(found, name)


def test_what_warnings_say() -> None:
    flat, rose = d.low_loss_drop([5.0, 5.1] * 50), d.low_loss_drop(RISES)
    missing, slow = d.class_shift({"O": 980, "B-PER": 20}, RARE), d.slow_learning_rate(1e-6, 250)
    assert None not in (flat, rose, missing, slow)
    assert flat.values["drop"] == pytest.approx(0.0)
    assert flat.message.startswith("bilingual task fitting lowered the loss by 0.0% only")
    assert "raised the loss by 45.0% (2.041 to 2.959): lower the learning rate" in rose.message
    assert missing.values == {"B-LOC": {"share": 0.0, "source_share": pytest.approx(70 / 1005)}}
    assert slow.values["movement"] == pytest.approx(1.25e-4)


def test_alpha_at_edge() -> None:
    grid = uniform_grid()
    kept = np.full(grid.shape, 10**6)

    def choice_of(accuracy: np.ndarray) -> ThresholdChoice:
        return choose_threshold_from_sweep(grid, kept, accuracy * kept, total=10**6)

    assert d.alpha_at_edge(choice_of(0.5 + np.clip(grid - 0.75, 0, 1))) is None
    check(d.alpha_at_edge(choice_of(0.5 + 0.4 * grid**40)), "alpha-at-grid-edge")
    flat = d.alpha_at_edge(choose_threshold([], []))
    check(flat, "alpha-at-grid-edge")
    assert "there are no items" in flat.message


def test_confidence_histogram() -> None:
    lines = d.confidence_histogram([0.95, 0.99, 0.55, float("nan"), 1.0]).splitlines()
    assert len(lines) == 10
    assert lines[0].split() == ["0.00-0.10", "0"]
    assert [line.split() for line in lines[-2:]] == [["0.80-0.90", "0"], ["0.90-1.00", "3", "#" * 40]]


def test_zero_accepted_pseudo_labels_are_an_error() -> None:
    votes = [0.42, 0.44, 0.9], [True, True, False]

    def above(alpha: float) -> int:
        return sum(c > alpha for c, agreed in zip(*votes, strict=True) if agreed)

    d.require_accepted(1, [0.4], [True], alpha=0.9, where="de/hard1", accepted_at=above)
    with pytest.raises(DataError, match=r"de/hard1: none of 3 items .*alpha 0.9.* 66.7%") as caught:
        d.require_accepted(0, *votes, alpha=0.9, where="de/hard1", accepted_at=above)
    assert caught.value.exit_code == 3
    assert 'no item is above 0.44; selftrain.alpha.rule = "fixed:0.4" would accept 2 of 3. Or' in str(caught.value)
    assert "  0.40-0.50         2 ####" in str(caught.value)
    with pytest.raises(DataError, match="no item is agreed on, and no threshold would accept any: train the soft"):
        d.require_accepted(0, [0.9], [False], alpha=0.9, where="de/hard1", accepted_at=lambda alpha: 0)
