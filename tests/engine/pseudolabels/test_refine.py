"""Soft labels corrected by the whole unlabelled text: against the definitions in float64 torch, and what they leave."""

import numpy as np
import pytest
import torch

from xlt_engine.engine.pseudolabels.refine import (
    match_prior,
    of_same_word,
    of_shared_words,
    pooled,
    word_forms,
    words_of_texts,
)


def labels(rows: int = 200, classes: int = 5) -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=(rows, classes)) * 3
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_word_knows_of_the_same_word_elsewhere(weight: float) -> None:
    p, forms = labels(), np.random.default_rng(1).integers(0, 40, 200)
    wide = torch.from_numpy(p)
    mean = torch.stack([wide[torch.from_numpy(forms == form)].mean(0) for form in forms])
    want = torch.softmax((1 - weight) * wide.log() + weight * mean.log(), dim=1)
    np.testing.assert_allclose(pooled(p, of_same_word(p, forms), weight), want.numpy(), rtol=1e-6)
    np.testing.assert_allclose(pooled(p, of_same_word(p, np.arange(200)), weight), p, rtol=1e-6)


def texts(rows: int = 60, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Of five classes in turn, whose words are drawn more often; the first word is in all."""
    alike = np.arange(rows)[:, None] % 5 == np.arange(50) % 5
    drawn = np.random.default_rng(seed).random((rows, 50)) < np.where(alike, 0.6, 0.05)
    drawn[:, 0] = True
    return np.nonzero(drawn)


def test_a_text_knows_of_other_texts_with_its_words() -> None:
    (of, words), holds = texts(), torch.zeros(60, 50, dtype=torch.float64)
    holds[torch.from_numpy(of), torch.from_numpy(words)] = 1
    p = labels(60) / 10 + 0.9 * np.where(np.arange(60)[:, None] % 5 == np.arange(5), 0.4, 0.15)  # unsure, and right
    wide = torch.from_numpy(p)
    prior = wide.mean(0)
    evidence = torch.zeros(60, 5, dtype=torch.float64)
    for text in range(60):
        others = torch.arange(60) != text
        for word in holds[text].nonzero().flatten():
            having = others & (holds[:, word] > 0)
            says = (wide[having].sum(0) + prior) / (having.sum() + 1)
            evidence[text] += (says / prior).log()
    got = torch.from_numpy(of_shared_words(p, of, words))
    power = (got[0] / prior).log().diff() / evidence[0].diff()
    assert 0 < power[0] < 1
    np.testing.assert_allclose(got, torch.softmax(prior.log() + power[0] * evidence, dim=1), rtol=1e-6)
    np.testing.assert_allclose(got.amax(1).mean(), wide.amax(1).mean(), rtol=1e-6)  # as confident as the labels


def test_evidence_is_never_made_stronger_than_bayes() -> None:
    p, (of, words) = np.eye(2)[np.arange(60) % 2], texts()  # labels that are sure, of words that say nothing
    q = of_shared_words(p, of, words)
    assert q.max(1).mean() < 1
    np.testing.assert_allclose(q.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.75, 1.0])
def test_classes_are_as_frequent_as_in_the_source(strength: float) -> None:
    p, prior = labels(), np.array([0.4, 0.3, 0.2, 0.05, 0.05])
    whole = match_prior(p, prior, 1.0)
    np.testing.assert_allclose(whole.mean(0), prior, rtol=1e-6)
    factors = whole / p / (whole / p)[:, :1]
    np.testing.assert_allclose(factors, np.tile(factors[0], (200, 1)), rtol=1e-6)
    matched = match_prior(p, prior, strength)
    np.testing.assert_allclose(matched / matched[:, :1], p / p[:, :1] * factors**strength, rtol=1e-6)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_share_outside_is_the_sources_and_the_kinds_keep_their_proportions(share: float) -> None:
    p, prior = labels(), np.full(5, (1 - share) / 4)
    prior[1] = share
    matched = match_prior(p, prior, 1.0, outside=1)
    assert matched[:, 1].mean() == pytest.approx(share, rel=1e-6)
    odds = matched[:, 1] / matched[:, 0] / (p[:, 1] / p[:, 0])
    np.testing.assert_allclose(odds, odds[0], rtol=1e-6)
    np.testing.assert_allclose(matched[:, 2] / matched[:, 0], p[:, 2] / p[:, 0], rtol=1e-6)
    rare = np.array([0.8, 0.05, 0.05, 0.05, 0.05])
    np.testing.assert_allclose(match_prior(p, rare, 1.0, outside=1), p, rtol=1e-6)  # names are never made more


def test_what_was_not_labelled_counts_for_nothing_and_stays_zero() -> None:
    p, forms, prior = labels(60), np.repeat(np.arange(30), 2), np.full(5, 0.2)
    of, words = texts()
    holes = p.copy()
    holes[::7] = 0
    known = holes.sum(1) > 0
    there, number = known[of], np.cumsum(known) - 1
    for refined, alone in (
        (of_same_word(holes, forms), of_same_word(p[known], forms[known])),
        (of_shared_words(holes, of, words), of_shared_words(p[known], number[of[there]], words[there])),
        (pooled(holes, p, 0.6), pooled(p[known], p[known], 0.6)),
        (match_prior(holes, prior, 0.75), match_prior(p[known], prior, 0.75)),
    ):
        assert not refined[~known].any()
        np.testing.assert_array_equal(refined[known], alone)


def test_the_same_tokens_are_the_same_word() -> None:
    """`un able un` and `able`, of two and one tokens a word."""
    sentences = [([101, 7, 8, 9, 7, 8, 102], [1, 3, 4]), ([101, 9, 102], [1])]
    first, second, third, fourth = word_forms(sentences).tolist()
    assert first == third != second == fourth
    of, words = words_of_texts(ids for ids, _ in sentences)
    assert list(zip(of.tolist(), words.tolist(), strict=True)) == [(0, 7), (0, 8), (0, 9), (1, 9)]
