"""Whether two models err on the same test items: what is said for co-training, and against self-training.

A model that learns its own labels repeats its own errors; one that learns another's can be put right as long as the
two err on different items (Yu and Joty, EMNLP 2021, section 3.1, after Tarvainen and Valpola, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import per_example as test_items

Json = dict[str, Any]
_ALONE = {"co-a": "self-a", "co-b": "self-b"}
"""Arm of a model that learns the other one's picks -> that of the same model with its own."""


@dataclass(frozen=True)
class ErrorCorrelation:
    """Correlation of two models' errors on the same items.

    Attributes:
        phi: Pearson's correlation of the two indicators of error; None where a model errs nowhere or everywhere.
        kappa: Cohen's, of the same: agreement beyond that of chance; None where chance alone must agree.
        both: items that both get wrong; `first` and `second` those that each gets wrong, of `count` in all.
    """

    phi: float | None
    kappa: float | None
    both: int
    first: int
    second: int
    count: int


def error_correlation(first: ArrayLike, second: ArrayLike) -> ErrorCorrelation:
    """Compares where two models err.

    Args:
        first, second: bool or 0/1 `[n]`, whether each item is wrong, in the same order.
    """
    a, b = (np.asarray(wrong).astype(bool) for wrong in (first, second))
    count, both, wrong_a, wrong_b = (int(n) for n in (len(a), (a & b).sum(), a.sum(), b.sum()))
    covariance = count * both - wrong_a * wrong_b
    spread = wrong_a * (count - wrong_a) * wrong_b * (count - wrong_b)
    # Cohen's kappa is twice the covariance over what chance leaves open; whole numbers, so that 1 is 1.
    open_to_chance = wrong_a * (count - wrong_b) + wrong_b * (count - wrong_a)
    return ErrorCorrelation(
        phi=covariance / math.sqrt(spread) if spread else None,
        kappa=2 * covariance / open_to_chance if open_to_chance else None,
        both=both,
        first=wrong_a,
        second=wrong_b,
        count=count,
    )


def error_correlations(
    folder: Path, stages: Sequence[Json], records: Mapping[str, Json], targets: Sequence[str]
) -> list[Json]:
    """All pairs of a run that has co-training and self-training by picks (docs/summary-schema.md); else none.

    Args:
        folder: of the run.
        stages: entries of `summary.json`.
        records: `stage.json` by folder.
        targets: languages.

    Raises:
        DataError: a file of test items is damaged.
    """
    made = {str(s["folder"]): s for s in stages if s["kind"] == "cotrain" and s["finished"]}
    if len({s["arm"] in _ALONE for s in made.values()}) < 2:
        return []
    load = cache(lambda name: test_items.load_items(folder / name))
    found = []
    for name, other, relation in _pairs(made, records):
        scored = [records[x].get("scored_on") or {} for x in (name, other)]
        for target in [made[name]["pair"]] if made[name]["pair"] else targets:
            own = [load(x).get(target) for x in (name, other)]
            if own[0] is None or own[1] is None or scored[0].get(target) != scored[1].get(target):
                continue
            result = error_correlation(own[0] == 0, own[1] == 0)
            found.append(
                {"language": target, "seed": made[name]["seed"], "relation": relation}
                | {"first": made[name]["stage"], "second": made[other]["stage"]}
                | {key: made[name][key] for key in ("arm", "round")}
                | {"phi": result.phi, "kappa": result.kappa, "count": result.count}
                | {"both_wrong": result.both, "first_wrong": result.first, "second_wrong": result.second}
            )
    return found


def _pairs(made: Mapping[str, Json], records: Mapping[str, Json]) -> Iterator[tuple[str, str, str]]:
    """A model with the one whose picks it learned, and a model of co-training with that of self-training."""
    places = {tuple(stage[key] for key in ("arm", "seed", "pair", "round")): name for name, stage in made.items()}
    for name, stage in made.items():
        teacher = str((records[name].get("inputs") or {}).get("teacher"))
        if teacher in made:
            yield name, teacher, "teacher"
        alone = places.get((_ALONE.get(stage["arm"]), stage["seed"], stage["pair"], stage["round"]))
        if alone is not None:
            yield name, alone, "self-training"
