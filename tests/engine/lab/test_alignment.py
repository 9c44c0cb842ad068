"""Retrieval, CSLS and orthogonal Procrustes against written-out definitions."""

import numpy as np
import pytest

from xlt_engine import ConfigError
from xlt_engine.engine.lab.studies.probe import align, folds_of, found, hubness, partners_of, procrustes, unit


def rotation(size: int, seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return q * np.sign(np.diag(r))


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for b in y] for a in x])


def test_a_rotation_is_found_exactly() -> None:
    rng = np.random.default_rng(0)
    x, turn = rng.normal(size=(60, 12)), rotation(12, 1)
    y = x @ turn * rng.uniform(0.5, 2, size=(60, 1))  # lengths do not count
    best = procrustes(unit(x[:40]), unit(y[:40]))
    assert np.abs(best - turn).max() < 1e-6
    assert np.abs(best.T @ best - np.eye(12)).max() < 1e-12
    pairs = np.stack([np.arange(60)] * 2, axis=1)
    result = align(x, y, pairs, folds_of(pairs, 5, 0), neighbours=10)
    for ways in (result.mapped_cosine, result.mapped_csls):
        assert ways.forward.accuracy == ways.backward.accuracy == 1
    assert result.cosine.forward.accuracy < 0.5


def test_a_pair_is_mapped_by_the_others() -> None:
    """Of noise there is nothing to learn: a rotation fitted on the pairs that it is tested on would look good."""
    rng = np.random.default_rng(2)
    x, y = unit(rng.normal(size=(40, 16))), unit(rng.normal(size=(40, 16)))
    pairs = np.stack([np.arange(40)] * 2, axis=1)
    fold = folds_of(pairs, 4, 0)
    result = align(x, y, pairs, fold, neighbours=10)
    right = 0
    for part in range(4):
        u, _, vt = np.linalg.svd(x[fold != part].T @ y[fold != part])
        nearest = (x[fold == part] @ (u @ vt) @ y.T).argmax(axis=1)
        right += (nearest == np.flatnonzero(fold == part)).sum()
    assert result.mapped_cosine.forward.accuracy == right / 40
    assert result.mapped_cosine.forward.accuracy < 0.2


def test_procrustes_is_the_best_of_many_rotations() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    best = np.linalg.norm(x @ procrustes(x, y) - y)
    assert all(best <= np.linalg.norm(x @ rotation(5, s) - y) for s in range(200))


def test_retrieval_and_csls_are_their_definitions() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(8, 4))
    pairs = np.array([[0, 0], [0, 1], [1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6], [7, 7], [8, 7]])
    similarity, k = cosines(x, y), 3
    near_x = np.sort(similarity, axis=1)[:, -k:].mean(axis=1)
    near_y = np.sort(similarity, axis=0)[-k:].mean(axis=0)
    csls = 2 * similarity - near_x[:, None] - near_y[None]
    result = align(x, y, pairs, np.arange(10) % 2, neighbours=k)
    for table, ways in ((similarity, result.cosine), (csls, result.csls)):
        for scores, own, got in ((table, pairs, ways.forward), (table.T, pairs[:, ::-1], ways.backward)):
            expected = []
            for query in range(len(scores)):
                partners = {j for i, j in own.tolist() if i == query}
                order = np.argsort(-scores[query])
                place = next(n for n, j in enumerate(order) if j in partners)
                expected.append(place + 1)  # nobody but others stands before the best partner
            assert got.accuracy == pytest.approx(np.mean([r == 1 for r in expected]))
    assert np.allclose(hubness(unit(y), unit(x), k), near_y)
    assert result.csls != result.cosine


def test_a_tie_counts_against() -> None:
    same = np.ones((3, 2))
    partners = [np.array([i]) for i in range(3)]
    assert not found(unit(same), unit(same), partners).any()


def test_folds_have_no_text_in_common() -> None:
    rng = np.random.default_rng(1)
    pairs = np.unique(rng.integers(0, 60, size=(50, 2)), axis=0)
    fold = folds_of(pairs, 4, 0)
    for side in (0, 1):
        for text in np.unique(pairs[:, side]):
            assert len(set(fold[pairs[:, side] == text])) == 1
    assert set(fold) == {0, 1, 2, 3}
    assert (fold == folds_of(pairs, 4, 0)).all()
    assert (fold != folds_of(pairs, 4, 1)).any()
    with pytest.raises(ConfigError, match="3 pairs are 1 groups without a common text, fewer than 2 folds"):
        folds_of(np.array([[0, 0], [0, 1], [1, 1]]), 2, 0)
    forward, backward = partners_of(np.array([[0, 0], [0, 1], [1, 1]]), (2, 2))
    assert [p.tolist() for p in forward + backward] == [[0, 1], [1], [0], [0, 1]]
