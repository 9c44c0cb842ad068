"""Induced dictionaries: CSLS and mutual neighbours against loops, on random and on planted states."""

import numpy as np
import pytest

from xlt_engine.data import Example
from xlt_engine.data.augment.code_switch import InducedPair, csls, frequent_words, mutual_pairs, words_of


def naive_csls(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """Equation 3 of the paper, entry by entry, on centred states."""
    x, y = x - x.mean(0), y - y.mean(0)

    def cos(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    found = np.empty((len(x), len(y)))
    for i, a in enumerate(x):
        r_target = np.mean(sorted((cos(a, b) for b in y), reverse=True)[:k])
        for j, b in enumerate(y):
            r_source = np.mean(sorted((cos(c, b) for c in x), reverse=True)[:k])
            found[i, j] = 2 * cos(a, b) - r_target - r_source
    return found


@pytest.mark.parametrize(("n", "m", "k"), [(13, 17, 10), (5, 30, 10), (12, 3, 2)])
def test_csls(n: int, m: int, k: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 6)) + 3, rng.normal(size=(m, 6)) - 1
    np.testing.assert_allclose(csls(x.astype(np.float64), y, k), naive_csls(x, y, k), atol=1e-12)


def test_mutual_pairs() -> None:
    """Row 0 and column 1 are each other's best, and row 2 and column 0; row 1 prefers a column that is taken."""
    scores = np.array([[0.1, 0.9, 0.2], [0.0, 0.8, 0.3], [0.4, 0.2, 0.1]])
    assert mutual_pairs(scores) == [InducedPair(0, 1, 0.9), InducedPair(2, 0, 0.4)]
    assert (mutual_pairs(scores, 0.4), mutual_pairs(np.zeros((0, 3)))) == ([InducedPair(0, 1, 0.9)], [])
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(40, 30))
    expected = {
        (i, j)
        for i in range(40)
        for j in range(30)
        if scores[i, j] == scores[i].max() == scores[:, j].max() and scores[i, j] > 1
    }
    found = mutual_pairs(scores, 1.0)
    assert {(p.source, p.target) for p in found} == expected
    assert [p.score for p in found] == sorted((scores[i, j] for i, j in expected), reverse=True)


def test_a_planted_bijection_is_found_where_words_are_far_apart() -> None:
    """Each language lies in a place of its own; centring takes that away. A hub near all words is nobody's partner."""
    rng = np.random.default_rng(2)
    meaning, order = rng.normal(size=(60, 16)), rng.permutation(60)
    source = meaning + 8 + 0.1 * rng.normal(size=meaning.shape)
    target = np.vstack([meaning[order] - 5 + 0.1 * rng.normal(size=meaning.shape), np.full((1, 16), -5.0)])
    pairs = mutual_pairs(csls(source, target))
    assert len(pairs) == 60
    assert all(order[p.target] == p.source for p in pairs)


def test_frequent_words() -> None:
    sentences = [["b", "a", "a", "1999", ".", "x\ty", "x\ty", "x\ty"], ["c", "b", "X1", "."], ["c", "."]]
    assert frequent_words(sentences, 3) == ["a", "b", "c"]
    assert frequent_words(sentences, 9, least=2) == ["a", "b", "c"]
    assert frequent_words(sentences, 9) == ["a", "b", "c", "X1"]


def test_words_of_texts_and_pairs() -> None:
    def example(words: tuple[str, ...] | None, text: str | None = None, pair: str | None = None) -> Example:
        return Example("0", "en", words, text, pair, None, "file", 1)

    assert words_of(example(("It", "is."))) == ("It", "is.")
    found = words_of(example(None, "It's well-known, isn't it?"))
    assert found == ("It's", "well-known", ",", "isn't", "it", "?")
    assert words_of(example(None, "One.", "Two")) == ("One", ".", "Two")
