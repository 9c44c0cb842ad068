"""Which example is drawn when: exact counts, and nothing but the key decides."""

import hashlib
import itertools
from collections import Counter

import numpy as np
import pytest

from xlt_engine import DataError
from xlt_engine.data import Example, derive_seed, few_per_class
from xlt_engine.data.batches.sampling import epoch_batches, num_batches, resample


@pytest.mark.parametrize(("count", "batch_size"), [(1, 8), (8, 8), (100, 8), (1003, 16), (2000, 7)])
def test_batches_have_exactly_their_size_and_every_example_once(count: int, batch_size: int) -> None:
    batches = epoch_batches(count, batch_size, seed=1, epoch=0)
    assert len(batches) == num_batches(count, batch_size)
    sizes = sorted(len(b) for b in batches)
    assert (sizes[1:], sizes[0]) == ([batch_size] * (len(batches) - 1), count % batch_size or batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        found: list[int] = np.concatenate(epoch_batches(300, 8, seed=seed, epoch=epoch)).tolist()
        return found

    np.random.seed(1)  # noqa: NPY002
    first = order(1, 0)
    np.random.seed(2)  # noqa: NPY002
    assert order(1, 0) == first
    assert order(1, 1) != first
    assert order(2, 0) != first


def test_company_changes_between_epochs() -> None:
    def pairs(epoch: int) -> set[frozenset[int]]:
        batches = epoch_batches(1000, 8, seed=1, epoch=epoch)
        return {frozenset((int(a), int(b))) for batch in batches for a in batch for b in batch if a < b}

    assert len(pairs(0) & pairs(1)) < 0.1 * len(pairs(0))


@pytest.mark.parametrize("sizes", [[10, 10], [10, 3], [3, 10, 7], [1, 1000]])
def test_corpora_are_repeated_evenly_or_drawn_without_repeats(sizes: list[int]) -> None:
    for mode, drawn in (("up", max(sizes)), ("down", min(sizes)), ("none", 0)):
        for size, indices in zip(sizes, resample(sizes, mode=mode, seed=4, epoch=0), strict=True):
            counts = np.bincount(indices, minlength=size)
            assert (len(indices), len(counts)) == (drawn or size, size)
            assert counts.max() - counts.min() <= 1


def test_down_sees_other_examples_in_other_epochs() -> None:
    seen = [set(resample([100, 20], mode="down", seed=4, epoch=e)[0].tolist()) for e in range(20)]
    assert len(set(map(frozenset, seen))) == 20
    assert len(set.union(*seen)) > 95


@pytest.mark.parametrize("temperature", [0.0, 0.3, 0.5, 1.0])
def test_temperature_shares(temperature: float) -> None:
    sizes = [8000, 1500, 500]
    counts = [len(d) for d in resample(sizes, mode="temperature", temperature=temperature, seed=4, epoch=0)]
    share = np.array(sizes, dtype=float) ** temperature
    expected = share / share.sum() * sum(sizes)
    assert np.abs(np.array(counts) - expected).max() <= 1


def test_temperature_draws_uniformly_inside_a_corpus() -> None:
    """Chi-square of how often each of 50 examples is drawn, over 400 epochs, against the 0.999 quantile."""
    size, epochs = 50, 400
    counts: Counter[int] = Counter()
    for epoch in range(epochs):
        counts.update(resample([size, 8], mode="temperature", temperature=0.5, seed=4, epoch=epoch)[0].tolist())
    total = sum(counts.values())
    expected = total / size
    chi_square = sum((counts[i] - expected) ** 2 / expected for i in range(size))
    # Draws of one epoch are without replacement, which makes the counts more even than independent draws.
    assert chi_square < 85.35
    per_epoch = total / epochs
    assert min(counts.values()) > expected - 6 * np.sqrt(expected)
    assert per_epoch == round(np.sqrt(50 / 58) / (np.sqrt(50 / 58) + np.sqrt(8 / 58)) * 58)


def test_remainder_of_up_is_drawn_uniformly() -> None:
    """Chi-square of which of 20 examples is the one more that 21 draws need, over 2000 epochs."""
    extra: Counter[int] = Counter()
    for epoch in range(2000):
        counts = np.bincount(resample([20, 21], mode="up", seed=9, epoch=epoch)[0], minlength=20)
        extra[int(counts.argmax())] += 1
    assert sum((extra[i] - 100) ** 2 / 100 for i in range(20)) < 43.82


def test_empty_corpus() -> None:
    pytest.raises(DataError, resample, [3, 0], mode="up", seed=0, epoch=0).match(r"sizes \[3, 0\]")


def test_value_is_fixed() -> None:
    encoded = b"".join(
        tag + len(value).to_bytes(8, "little") + value for tag, value in [(b"i", b"7"), (b"s", b"mask"), (b"i", b"-3")]
    )
    digest = hashlib.blake2b(encoded, digest_size=8).digest()
    assert derive_seed(7, "mask", -3) == int.from_bytes(digest, "little") // 2


def test_range_and_spread() -> None:
    seeds = [derive_seed(seed, "x", step) for seed in (-1, 0, 1, 2**80) for step in range(500)]
    assert all(0 <= s < 2**63 for s in seeds)
    assert len(set(seeds)) == len(seeds)
    # Each of the 63 bits is set in about half of 2,000 draws; 6 sigma is 134.
    for bit in range(63):
        assert abs(sum(s >> bit & 1 for s in seeds) - 1000) < 134


def test_purposes_do_not_run_together() -> None:
    purposes = [(), ("",), ("", ""), ("ab",), ("a", "b"), ("b", "a"), (1,), ("1",), (1, 1), (11,), ("1", 1), (1, "1")]
    values = [derive_seed(5, *purpose) for purpose in purposes] + [derive_seed(51), derive_seed(5, 1, "")]
    assert all(a != b for a, b in itertools.combinations(values, 2))


def text(number: int, label: str | None) -> Example:
    return Example(f"t:{number}", "en", None, f"text {number}", None, label, "t", number)


def sentence(number: int, *types: str) -> Example:
    tags = tuple(f"B-{x}" for x in types) + ("O",)
    return Example(f"s:{number}", "en", ("w",) * len(tags), None, None, tags, "s", number)


def test_classification_takes_k_of_each() -> None:
    examples = [text(i, "abc"[i % 3] if i % 7 else None) for i in range(60)]
    chosen, short = few_per_class(examples, 4, 0, "de")
    assert Counter(examples[i].labels for i in chosen) == {"a": 4, "b": 4, "c": 4}
    assert (short, list(chosen)) == ([], sorted(set(chosen)))


def test_the_draw_depends_on_seed_and_language_alone() -> None:
    examples = [text(i, "ab"[i % 2]) for i in range(40)]
    first = few_per_class(examples, 5, 0, "de")[0]
    assert np.array_equal(first, few_per_class(examples, 5, 0, "de")[0])
    assert not np.array_equal(first, few_per_class(examples, 5, 1, "de")[0])
    assert not np.array_equal(first, few_per_class(examples, 5, 0, "fr")[0])
    assert set(first) < set(few_per_class(examples, 8, 0, "de")[0])


def test_a_class_with_fewer_is_taken_whole_and_named() -> None:
    examples = [text(i, "rare" if i < 2 else "often") for i in range(20)]
    chosen, short = few_per_class(examples, 6, 0, "de")
    assert Counter(examples[i].labels for i in chosen) == {"rare": 2, "often": 6}
    assert short == ["rare"]


def test_tagging_counts_sentences_from_the_rarest_type() -> None:
    """Three sentences have LOC, and PER with it: for PER nothing is left to take."""
    examples = [sentence(i, "LOC", "PER") for i in range(3)] + [sentence(i, "PER") for i in range(3, 20)]
    examples += [sentence(i) for i in range(20, 30)]
    chosen, short = few_per_class(examples, 3, 0, "de")
    assert (list(chosen), short) == ([0, 1, 2], [])
    more, short = few_per_class(examples, 5, 0, "de")
    assert set(more) > {0, 1, 2}
    assert len(more) == 5
    assert all(i < 20 for i in more)
    assert short == ["LOC"]
