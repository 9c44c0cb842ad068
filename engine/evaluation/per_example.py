"""What the scores of a stage are made of, test item by test item, and whether two models err on the same ones.

A model that learns its own labels repeats its own errors; one that learns another's can be put right as long as the
two err on different items (Yu and Joty, EMNLP 2021, section 3.1, after Tarvainen and Valpola, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ... import DataError
from ...data import OUTSIDE
from ..storage.files import atomic_write_bytes
from ..storage.names import ITEMS

if TYPE_CHECKING:
    from ...data import TokenStore

Json = dict[str, Any]
_ALONE = {"co-a": "self-a", "co-b": "self-b"}
"""Arm of a model that learns the other one's picks -> that of the same model with its own."""


def save_items(folder: Path, items: Items, name: str = ITEMS) -> None:
    """Writes what is known of the test items of a stage beside its scores."""
    atomic_write_bytes(folder / name, save({name: np.ascontiguousarray(rows) for name, rows in items.items()}))


def load_items(folder: Path, name: str = ITEMS) -> Items:
    """What `save_items` wrote; empty where the stage was made before it was kept.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return load((folder / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / name}: cannot be read ({error}); delete the stage and run it again") from error


def predicted_tags(labels: tuple[str, ...], store: TokenStore, example: int, predicted: np.ndarray) -> list[str]:
    """The tag of every word of an example; `O` where the word has no token, or the store cut it."""
    tags = [OUTSIDE] * int(store.num_words[example])
    start = int(store.item_offsets[example])
    for offset, word in enumerate(store.items(example)[1]):
        tags[int(word)] = labels[int(predicted[start + offset])]
    return tags


def error_correlation(first: ArrayLike, second: ArrayLike) -> Json:
    """Compares where two models err.

    Args:
        first, second: bool or 0/1 `[n]`, whether each item is wrong, in the same order.

    Returns:
        `phi`, Pearson's correlation of the two indicators of error, None where a model errs nowhere or everywhere;
        `kappa`, Cohen's of the same: agreement beyond that of chance, None where chance alone must agree; `count`,
        `both_wrong`, `first_wrong` and `second_wrong` in items.
    """
    a, b = (np.asarray(wrong).astype(bool) for wrong in (first, second))
    count, both, wrong_a, wrong_b = (int(n) for n in (len(a), (a & b).sum(), a.sum(), b.sum()))
    covariance = count * both - wrong_a * wrong_b
    spread = wrong_a * (count - wrong_a) * wrong_b * (count - wrong_b)
    # Cohen's kappa is twice the covariance over what chance leaves open; whole numbers, so that 1 is 1.
    open_to_chance = wrong_a * (count - wrong_b) + wrong_b * (count - wrong_a)
    phi = covariance / math.sqrt(spread) if spread else None
    kappa = 2 * covariance / open_to_chance if open_to_chance else None
    wrong = {"both_wrong": both, "first_wrong": wrong_a, "second_wrong": wrong_b}
    return {"phi": phi, "kappa": kappa, "count": count} | wrong


def error_correlations(
    folder: Path, stages: Sequence[Json], records: Mapping[str, Json], targets: Sequence[str]
) -> list[Json]:
    """All pairs of a run that has co-training and self-training by picks (docs/summary-schema.md); else none.

    Args:
        stages: entries of `summary.json`.
        records: `stage.json` by folder.

    Raises:
        DataError: a file of test items is damaged.
    """
    made = {str(s["folder"]): s for s in stages if s["kind"] == "cotrain" and s["finished"]}
    if len({s["arm"] in _ALONE for s in made.values()}) < 2:
        return []
    load = cache(lambda name: load_items(folder / name))
    found = []
    for name, other, relation in _pairs(made, records):
        scored = [records[x].get("scored_on") or {} for x in (name, other)]
        for target in [made[name]["pair"]] if made[name]["pair"] else targets:
            own = [load(x).get(target) for x in (name, other)]
            if own[0] is None or own[1] is None or scored[0].get(target) != scored[1].get(target):
                continue
            found.append(
                {"language": target, "seed": made[name]["seed"], "relation": relation}
                | {"first": made[name]["stage"], "second": made[other]["stage"]}
                | {key: made[name][key] for key in ("arm", "round")}
                | error_correlation(own[0] == 0, own[1] == 0)
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


Items = dict[str, NDArray[Any]]
"""Language -> uint16 `[n, 3]`, entities of each sentence (gold, predicted, correct); or uint8 `[n]`, right or wrong."""
