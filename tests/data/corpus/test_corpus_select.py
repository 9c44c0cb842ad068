from collections import Counter

import numpy as np
import pytest

from xlt_engine.data.corpus.select import (
    Candidates,
    SentenceHash,
    comparison_key,
    control_order,
    excluded_keys,
    pick_balanced,
    water_level,
)

U64 = np.uint64


def rows(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(entity, hash) pairs as columns, the order that of the hashes, the place that in the list."""
    entity, hashes = (np.array(column) for column in zip(*pairs, strict=True))
    return entity.astype(np.int32), hashes.astype(U64), hashes.astype(U64), np.arange(len(pairs), dtype=np.int64)


def merged(pairs: list[tuple[int, int]], cap: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    candidates = Candidates(cap)
    candidates.add(*rows(pairs))
    return candidates.rows()


def test_hashes_are_keyed_and_stable() -> None:
    one, same, other = SentenceHash(0), SentenceHash(0), SentenceHash(1)
    assert one("Rom ist alt.") == same("Rom ist alt.") != other("Rom ist alt.")
    assert one("Rom ist alt.") == 16595937713199313279, "a hash that changes would change every corpus"
    values = [one(f"Satz {i}") for i in range(2000)]
    assert len(set(values)) == 2000
    assert abs(sum(value >> 63 for value in values) - 1000) < 150


def test_keys_for_comparison() -> None:
    assert comparison_key("Das Haus , in Köln .") == comparison_key("das Haus, in Ko\u0308ln!") == "dashausinköln"
    assert comparison_key("Ａ１") == "a1"
    assert comparison_key("Straße") == comparison_key("STRASSE")
    assert excluded_keys(["Das Haus .", "...", "das haus"]) == {"dashaus"}


def test_another_order_of_the_same_hashes() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 5000, dtype=U64)
    other = control_order(hashes, 0)
    assert len(np.unique(other)) == 5000
    assert abs(np.corrcoef(hashes.astype(float), other.astype(float))[0, 1]) < 0.05
    assert (other != control_order(hashes, 1)).any()


@pytest.mark.parametrize("seed", range(5))
def test_level_is_the_smallest(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 40, 30)
    for cap in (1, 10, 100, 300, int(counts.sum()) - 1):
        level = water_level(counts, cap)
        assert np.minimum(counts, level).sum() >= cap
        assert np.minimum(counts, level - 1).sum() < cap
    assert [water_level(np.array(none, dtype=np.int64), 50) for none in ([1, 2], [0], [])] == [2, 0, 0]


def test_candidates_drop_repetitions_and_keep_the_first_place() -> None:
    candidates = Candidates(10)
    candidates.add(*rows([(1, 7), (0, 9), (1, 3)]))
    entity, order, hashes, place = rows([(0, 9), (0, 2), (1, 7)])
    candidates.add(entity, order, hashes, place + 100)
    got = [tuple(int(x) for x in row) for row in zip(*candidates.rows(), strict=True)]
    assert got == [(0, 2, 2, 101), (0, 9, 9, 1), (1, 3, 3, 2), (1, 7, 7, 0)]
    assert (candidates.duplicates, candidates.trimmed) == (2, 0)


def test_trimming_changes_no_choice() -> None:
    """A frequent entity and rare ones, far more rows than are kept: what is picked is the same as with all rows."""
    rng = np.random.default_rng(0)
    entity = np.concatenate([np.zeros(20_000), rng.integers(1, 50, 3000)]).astype(np.int32)
    hashes = rng.permutation(len(entity)).astype(U64)
    whole, small = Candidates(500, limit=10**9), Candidates(500, limit=2000)
    for part in np.array_split(rng.permutation(len(entity)), 40):
        for one in (whole, small):
            one.add(entity[part], hashes[part], hashes[part], part.astype(np.int64))
    assert small.trimmed > 15_000
    assert len(small.rows()[0]) < 6000
    often = np.bincount(entity)
    picked = pick_balanced(whole.rows(), 500, frequency=often)
    assert picked == pick_balanced(small.rows(), 500, frequency=often)
    assert len(picked) == 500


def picked(pairs: list[tuple[int, int]], cap: int, refused: tuple[int, ...] = ()) -> list[int]:
    chosen = pick_balanced(merged(pairs), cap, accept=lambda sentence, place: sentence not in refused)
    assert all(pairs[place][1] == value for value, place in chosen)
    return [value for value, _ in chosen]


def test_balance_by_rounds() -> None:
    pairs = [(0, h) for h in range(100)] + [(1, 200), (1, 201), (2, 300)]
    assert picked(pairs, 6) == [300, 200, 0, 201, 1, 2], "the rarest first, then whoever has least"
    assert picked(pairs, 1000) == [300, 200, 0, 201, *range(1, 100)]
    assert picked(pairs, 2) == [300, 200]


def test_a_sentence_counts_for_all_its_entities() -> None:
    pairs = [(0, 1), (1, 1), (0, 2), (1, 3), (2, 4), (2, 5)]
    # Entity 0 takes sentence 1, which serves entity 1 too.
    assert picked(pairs, 2) == [1, 4]
    assert sorted(picked(pairs, 10)) == [1, 2, 3, 4, 5]


def test_refused_sentences_are_replaced() -> None:
    pairs = [(0, 1), (0, 2), (1, 3), (1, 4)]
    assert picked(pairs, 2, (1, 3)) == [2, 4]
    assert picked(pairs, 2, (1, 2, 3, 4)) == []
    assert pick_balanced(Candidates(5).rows(), 5) == []


@pytest.mark.parametrize("seed", range(5))
def test_balance_is_as_even_as_it_can_be(seed: int) -> None:
    """With one entity a sentence: nobody has two more than somebody who could have had another one."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 60, 25)
    pairs = [(e, e * 1000 + i) for e, n in enumerate(counts.tolist()) for i in range(n)]
    cap = int(counts.sum()) // 2
    got = Counter(h // 1000 for h in picked(pairs, cap))
    assert sum(got.values()) == cap
    lowest = min(n for e, n in got.items() if n < counts[e])
    assert max(got.values()) <= lowest + 1
