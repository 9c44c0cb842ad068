"""The constants and counts that `trust` ships, computed again by loops from the cases in `benchmarks/results`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlt_engine.engine.lab.studies import trust_estimate as shipped

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "trust.json"
Case = dict[str, Any]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """The cases, each with `scaled`, its own `loss` and the `scale` of its interval."""
    found: list[Case] = json.loads(RESULTS.read_bytes())["cases"]
    for c in found:
        c["scaled"] = min(1.0, c["target_transport"] * c["source"] / c["source_transport"])
        c["loss"] = max(0.0, c["source"] - c["scaled"])
    for c in found:
        c["scale"] = 0.2 + c["loss"]
        if c["arm"] == "selftrain":
            run = [x for x in found if (x["data"], x["run"], x["target"]) == (c["data"], c["run"], c["target"])]
            teacher = {x["stage"]: x for x in run if x["arm"] in ("btf", "baseline")}
            first = teacher.get("btf", teacher["zero-shot"])
            c["scale"] = 0.2 + max(c["loss"], first["source"] - c["scaled"], first["loss"])
    return found


def value(c: Case, shift: float) -> float:
    return max(0.0, c["scaled"] - shift * c["loss"])


def best_shift(cases: Sequence[Case]) -> float:
    """Of 0, 0.02, ..., 1.5 that of the smallest mean over data sets of the mean absolute error."""
    sets: dict[str, list[Case]] = {}
    for c in cases:
        sets.setdefault(c["data"], []).append(c)
    grid = np.arange(76) * 0.02
    scaled, loss, true = ({n: np.array([c[k] for c in s]) for n, s in sets.items()} for k in ("scaled", "loss", "true"))
    error = [np.mean([np.abs(np.maximum(0, scaled[n] - s * loss[n]) - true[n]).mean() for n in sets]) for s in grid]
    return float(grid[int(np.argmin(error))])


def largest_ratio(cases: Sequence[Case]) -> float:
    """The highest level that K data sets give is K / (K + 1), and its quantile is the largest of all ratios."""
    ratios = []
    for name in {c["data"] for c in cases}:
        shift = best_shift([c for c in cases if c["data"] != name])
        ratios += [abs(value(c, shift) - c["true"]) / c["scale"] for c in cases if c["data"] == name]
    return max(ratios)


def test_the_constants_are_those_of_the_cases(cases: list[Case]) -> None:
    assert len({c["data"] for c in cases}) == shipped.DATA_SETS
    assert pytest.approx(best_shift(cases)) == shipped.UNSEEN_SHIFT
    assert math.ceil(100 * largest_ratio(cases)) / 100 == shipped.WIDTH


def test_the_record_is_that_of_data_sets_left_out(cases: list[Case]) -> None:
    rows: dict[tuple[str, bool], list[tuple[str, bool, bool, float]]] = {}
    for name in {c["data"] for c in cases}:
        others = [c for c in cases if c["data"] != name]
        shift, width = best_shift(others), largest_ratio(others)
        for c in (c for c in cases if c["data"] == name):
            metric = "entity_f1" if c["methods"]["curve"] is None else "accuracy"
            guess, half = value(c, shift), width * c["scale"]
            low, high = max(0.0, guess - half), min(1.0, guess + half)
            row = (name, high - low <= 0.4, low <= c["true"] <= high, abs(guess - c["true"]))
            rows.setdefault((metric, c["arm"] == "selftrain"), []).append(row)
    assert rows.keys() == shipped.RECORD.keys()
    for key, found in rows.items():
        seen = [r for r in found if r[1]]
        error = round(100 * float(np.mean([r[3] for r in seen])), 1)
        expected = shipped.Held(len({r[0] for r in found}), len(found), len(seen), sum(r[2] for r in seen), error)
        assert shipped.RECORD[key] == expected


def test_no_choice_is_made_since_it_did_not_win() -> None:
    """Where the last stage and the teacher have an estimate, the highest one loses more than the last stage does."""
    regrets = json.loads(RESULTS.read_bytes())["regrets"]
    assert regrets["shown"]["chosen"] > regrets["shown"]["last"]
    for part in ("shown", "mean over data sets"):
        assert regrets[part]["warned"] < regrets[part]["last"]
