"""Algorithm 1 without models: by hand, and against a plain version with sets."""

import random

import numpy as np
import pytest

from xlt_engine.data.store.store import IGNORE
from xlt_engine.engine.methods.cotrain import no_picks, pick, pick_limit

EVERYBODY = np.ones(6, dtype=bool)


@pytest.mark.parametrize(("labelled", "parts", "limit"), [(2000, 3, 666), (5000, 3, 1666), (8, 3, 2), (2, 3, 0)])
def test_a_third_of_the_labelled_source(labelled: int, parts: int, limit: int) -> None:
    assert pick_limit(labelled, parts) == limit


def test_without_parts_there_is_no_limit() -> None:
    assert pick_limit(2000, 0) is None


def test_two_iterations_worked_by_hand() -> None:
    """Six texts, threshold 0.9, two picks an iteration. What model b picks is labelled text of model a."""
    # Iteration 1: b is sure of texts 1 and 4; 0.9 itself is not above 0.9.
    b = np.array([0, 1, 1, 0, 0, 1]), np.array([0.50, 0.95, 0.90, 0.60, 0.99, 0.70])
    first = pick(no_picks(6), EVERYBODY, *b, threshold=0.9, limit=2, seed=0)
    assert first.chosen.tolist() == [1, 4]
    assert first.labels.tolist() == [IGNORE, 1, IGNORE, IGNORE, 0, IGNORE]
    assert (first.pool, first.candidates) == (6, 2)
    # Iteration 2: b now calls text 1 class 0, but it has left b's pool, and keeps the label that it had.
    b = np.array([0, 0, 1, 0, 0, 1]), np.array([0.50, 0.99, 0.97, 0.60, 0.99, 0.70])
    second = pick(first.labels, EVERYBODY, *b, threshold=0.9, limit=2, seed=0)
    assert second.chosen.tolist() == [2]
    assert second.labels.tolist() == [IGNORE, 1, 1, IGNORE, 0, IGNORE]
    assert (second.pool, second.candidates) == (4, 1)
    # Meanwhile a's pool is its own: text 1 is still in it.
    a = np.array([1, 0, 0, 0, 0, 0]), np.array([0.2, 0.96, 0.1, 0.3, 0.1, 0.2])
    assert pick(no_picks(6), EVERYBODY, *a, threshold=0.9, limit=2, seed=0).labels.tolist()[1] == 0


def test_what_is_not_allowed_is_not_in_the_pool() -> None:
    allowed = np.array([True, False, True, True, False, True])
    found = pick(no_picks(6), allowed, np.zeros(6, int), np.ones(6), threshold=0.5, limit=None, seed=0)
    assert found.chosen.tolist() == [0, 2, 3, 5]
    assert found.pool == 4


def test_the_choice_is_random_seeded_and_even() -> None:
    predicted, sure = np.zeros(6, int), np.full(6, 0.95)
    drawn = [
        pick(no_picks(6), EVERYBODY, predicted, sure, threshold=0.9, limit=2, seed=s).chosen.tolist()
        for s in range(600)
    ]
    assert drawn[0] == pick(no_picks(6), EVERYBODY, predicted, sure, threshold=0.9, limit=2, seed=0).chosen.tolist()
    counts = np.bincount(np.concatenate(drawn), minlength=6)
    # 600 draws of 2 of 6: 200 each, standard deviation 11.5.
    assert counts.sum() == 1200
    assert counts.min() > 200 - 4 * 11.5
    assert counts.max() < 200 + 4 * 11.5


@pytest.mark.parametrize("seed", range(5))
def test_against_the_algorithm_with_sets(seed: int) -> None:
    """Sizes, disjoint pools and crossing over five iterations of two made-up models."""
    rng, size, labelled, threshold = random.Random(seed), 60, 17, 0.8
    limit = pick_limit(labelled, 3)
    assert limit == 5
    mine = {"a": no_picks(size), "b": no_picks(size)}
    pools = {"a": set(range(size)), "b": set(range(size))}
    extra: dict[str, dict[int, int]] = {"a": {}, "b": {}}
    other = {"a": "b", "b": "a"}
    for step in range(5):
        said = {m: [(rng.randrange(3), rng.random()) for _ in range(size)] for m in "ab"}
        for model in "ab":
            predicted, confidence = (np.array(x) for x in zip(*said[model], strict=True))
            candidates = {i for i in pools[model] if said[model][i][1] > threshold}
            found = pick(
                mine[other[model]],
                np.ones(size, dtype=bool),
                predicted,
                confidence,
                threshold=threshold,
                limit=limit,
                seed=step,
            )
            chosen = set(found.chosen.tolist())
            assert found.candidates == len(candidates)
            assert chosen <= candidates
            assert len(chosen) == min(limit, len(candidates))
            pools[model] -= chosen
            extra[other[model]] |= {i: said[model][i][0] for i in chosen}
            assert found.pool - len(found.chosen) == len(pools[model])
            mine[other[model]] = found.labels
        for model in "ab":
            known = {int(i): int(mine[model][i]) for i in np.flatnonzero(mine[model] != IGNORE)}
            assert known == extra[model]
            assert not pools[other[model]] & known.keys()
            assert pools[other[model]] | known.keys() == set(range(size))
