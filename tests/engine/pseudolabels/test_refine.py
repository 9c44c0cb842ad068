"""Soft labels of words corrected by the whole text: against the definitions in float64 torch, and what they leave."""

import numpy as np
import pytest
import torch

from xlt_engine.engine.pseudolabels.refine import match_outside, pool_by_word, word_forms


def labels(rows: int = 200, classes: int = 5, seed: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(rows, classes)) * 3
    return (np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_word_knows_of_the_same_word_elsewhere(weight: float) -> None:
    p, forms = labels(), np.random.default_rng(1).integers(0, 40, 200)
    wide = torch.from_numpy(p).double()
    mean = torch.stack([wide[torch.from_numpy(forms == form)].mean(0) for form in forms])
    want = torch.softmax((1 - weight) * wide.log() + weight * mean.log(), dim=1)
    np.testing.assert_allclose(pool_by_word(p, forms, weight), want.numpy(), rtol=1e-5)


def test_of_one_place_it_stays_as_it_is() -> None:
    p = labels()
    np.testing.assert_allclose(pool_by_word(p, np.arange(200), 0.7), p, rtol=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_share_outside_is_the_sources_and_the_kinds_keep_their_proportions(share: float) -> None:
    p = labels()
    matched = match_outside(p, 1, share, 1.0)
    assert matched[:, 1].mean(dtype=np.float64) == pytest.approx(share, rel=1e-5)
    np.testing.assert_allclose(matched.sum(1), 1, rtol=1e-5)
    odds = matched[:, 1] / matched[:, 0] / (p[:, 1] / p[:, 0])
    np.testing.assert_allclose(odds, odds[0], rtol=1e-4)
    np.testing.assert_allclose(matched[:, 2] / matched[:, 0], p[:, 2] / p[:, 0], rtol=1e-4)
    half = match_outside(p, 1, share, 0.5)
    np.testing.assert_allclose(half[:, 1] / half[:, 0] / (p[:, 1] / p[:, 0]), odds[0] ** 0.5, rtol=1e-4)
    np.testing.assert_allclose(match_outside(p, 1, share, 0.0), p, rtol=1e-5)
    np.testing.assert_allclose(match_outside(p, 1, 0.05, 1.0), p, rtol=1e-5)  # names are never made more


def test_what_was_not_labelled_counts_for_nothing_and_stays_zero() -> None:
    p, forms = labels(), np.repeat(np.arange(100), 2)
    holes = p.copy()
    holes[::7] = 0
    known = holes.sum(1) > 0
    for refined, alone in (
        (pool_by_word(holes, forms, 0.6), pool_by_word(p[known], forms[known], 0.6)),
        (match_outside(holes, 0, 0.8, 0.75), match_outside(p[known], 0, 0.8, 0.75)),
    ):
        assert not refined[~known].any()
        np.testing.assert_array_equal(refined[known], alone)


class Words:
    """Two sentences of a store: `un able un` and `able`, of two and one tokens a word."""

    item_offsets = np.array([0, 3, 4])

    def __len__(self) -> int:
        return 2

    def ids(self, number: int) -> np.ndarray:
        return np.array([[101, 7, 8, 9, 7, 8, 102], [101, 9, 102]][number][: 7 if number == 0 else 3], dtype=np.int32)

    def items(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return (np.array([1, 3, 4]), np.arange(3)) if number == 0 else (np.array([1]), np.arange(1))


def test_the_same_tokens_are_the_same_word() -> None:
    first, second, third, fourth = word_forms(Words()).tolist()
    assert first == third != second == fourth
