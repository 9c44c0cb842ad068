"""The choice of a few examples per class."""

from __future__ import annotations

from collections import Counter

import numpy as np

from xlt_engine.data import Example, few_per_class


def text(number: int, label: str | None) -> Example:
    return Example(f"t:{number}", "en", None, f"text {number}", None, label, "t", number)


def sentence(number: int, *types: str) -> Example:
    tags = tuple(f"B-{x}" for x in types) + ("O",)
    return Example(f"s:{number}", "en", ("w",) * len(tags), None, None, tags, "s", number)


def test_classification_takes_k_of_each() -> None:
    examples = [text(i, "abc"[i % 3] if i % 7 else None) for i in range(60)]
    chosen, short = few_per_class(examples, 4, 0, "de")
    assert Counter(examples[i].labels for i in chosen) == {"a": 4, "b": 4, "c": 4}
    assert short == []
    assert list(chosen) == sorted(set(chosen))


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
    assert list(chosen) == [0, 1, 2]
    assert short == []
    more, short = few_per_class(examples, 5, 0, "de")
    assert set(more) > {0, 1, 2}
    assert len(more) == 5
    assert all(i < 20 for i in more)
    assert short == ["LOC"]
