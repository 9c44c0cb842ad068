"""How well two sets of states are aligned: retrieval in both directions, and the best rotation of one onto the other.

Pure functions in float64. Rows of `x` and `y` are distinct texts of two languages; a pair is a row of each, and a row
may be in several pairs (a word with two translations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .... import ConfigError
from ....data import rng_for
from ....data.augment.induced import BLOCK, hubness, unit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Retrieval:
    """Share of queries whose nearest candidate is a partner, and mean of 1 / rank of the best partner."""

    accuracy: float
    mrr: float


@dataclass(frozen=True)
class BothWays:
    """Retrieval from the left texts to the right ones, and back."""

    forward: Retrieval
    backward: Retrieval

    @classmethod
    def of(cls, *best: Ints) -> BothWays:
        """From the ranks of the best partners, both ways."""
        return cls(*(Retrieval(float((rank == 1).mean()), float((1 / rank).mean())) for rank in best))


@dataclass(frozen=True)
class Alignment:
    """What `align` finds.

    Attributes:
        cosine, csls: of the states as they are.
        mapped_cosine, mapped_csls: after the rotation that was fitted on the other folds.
        residual, mapped_residual: |x - y| / |y| (Frobenius) over all pairs, of unit rows; mapped by the other folds.
    """

    cosine: BothWays
    csls: BothWays
    mapped_cosine: BothWays
    mapped_csls: BothWays
    residual: float
    mapped_residual: float


def procrustes(x: Floats, y: Floats) -> Floats:
    """The orthogonal W that minimises |x W - y|: U V^T of the singular value decomposition of x^T y (Schönemann, 1966).

    Row by row partners, [n, H]. With fewer rows than H other maps are as good on these rows.
    """
    u, _, vt = np.linalg.svd(x.T @ y)
    return np.asarray(u @ vt)


def ranks(queries: Floats, candidates: Floats, partners: Sequence[Ints], penalty: Floats | float = 0.0) -> Ints:
    """Rank of the best partner of each query among the candidates, from 1; its other partners are left out.

    A candidate that is as near as the partner counts as nearer.

    Args:
        queries, candidates: unit rows; `partners` are rows of `candidates`, for each query.
        penalty: `hubness` of the candidates, for 2 cos - r(candidate); the query's own term changes no rank.
    """
    best = np.empty(len(queries), dtype=np.int64)
    for a in range(0, len(queries), BLOCK):
        for row, values in enumerate(2 * (queries[a : a + BLOCK] @ candidates.T) - penalty):
            right = values[partners[a + row]]
            best[a + row] = 1 + (values >= right.max()).sum() - (right >= right.max()).sum()
    return best


def chance(partners: Sequence[Ints], candidates: int) -> Retrieval:
    """What a random order of the candidates gives in the mean."""
    sizes = [len(rows) for rows in partners]
    by_size = {size: _reciprocal(size, candidates) for size in set(sizes)}
    return Retrieval(float(np.mean(sizes) / candidates), float(np.mean([by_size[size] for size in sizes])))


def _reciprocal(partners: int, candidates: int) -> float:
    """Mean of 1 / rank of the best of some partners in a random order, the other partners left out of the rank."""
    total, left = 0.0, 1.0
    for rank in range(1, candidates - partners + 2):
        hit = left * partners / (candidates - rank + 1)
        total, left = total + hit / rank, left - hit
    return total


def folds_of(pairs: Ints, folds: int, seed: int) -> Ints:
    """The fold of each pair `[pairs, 2]`: seeded, and pairs that share a text are in one fold.

    Raises:
        ConfigError: there are fewer groups of pairs than folds.
    """
    group = _groups(pairs)
    names, sizes = np.unique(group, return_counts=True)
    if len(names) < folds:
        raise ConfigError(
            f"{len(pairs)} pairs are {len(names)} groups without a common text, fewer than {folds} folds; give more "
            "pairs, or lower the number of folds"
        )
    load, fold = np.zeros(folds, dtype=np.int64), np.empty(len(pairs), dtype=np.int64)
    for i in rng_for(seed, "folds").permutation(len(names)):
        smallest = int(load.argmin())
        fold[group == names[i]] = smallest
        load[smallest] += sizes[i]
    return fold


def _groups(pairs: Ints) -> Ints:
    """A number for each pair, the same for those that hang together by common texts."""
    group = np.arange(len(pairs))
    while True:
        before = group
        for side in pairs.T:
            lowest = np.full(int(side.max()) + 1, len(pairs))
            np.minimum.at(lowest, side, group)
            group = lowest[side]
        if (group == before).all():
            return group


def partners_of(pairs: Ints, sizes: tuple[int, int]) -> tuple[list[Ints], list[Ints]]:
    """Rows of y for each row of x, and of x for each row of y."""
    left, right = pairs.T
    return [right[left == i] for i in range(sizes[0])], [left[right == j] for j in range(sizes[1])]


def align(x: NDArray[np.floating], y: NDArray[np.floating], pairs: Ints, fold: Ints, *, neighbours: int) -> Alignment:
    """Retrieval and rotation between two sets of states.

    Every text is a query once, against all texts of the other side. The rotation that a text is mapped with was fitted
    on the pairs of the other folds, which have no text in common with it; right texts are mapped back by its inverse.

    Args:
        x, y: [n, H] and [m, H]; every row is in a pair.
        pairs: [pairs, 2], rows of x and y; each pair once.
        fold: of each pair, from 0, as `folds_of` gives it.
        neighbours: of CSLS; 10 in the paper.
    """
    x, y = unit(x), unit(y)
    forward, backward = partners_of(pairs, (len(x), len(y)))
    best = {kind: [np.empty(n, dtype=np.int64) for n in (len(x), len(y))] for kind in ("cosine", "csls")}
    squares = 0.0
    for number in range(int(fold.max()) + 1):
        test, rest = pairs[fold == number], pairs[fold != number]
        rotation = procrustes(x[rest[:, 0]], y[rest[:, 1]])
        turned, back = x @ rotation, y @ rotation.T
        squares += float(((turned[test[:, 0]] - y[test[:, 1]]) ** 2).sum())
        left, right = np.unique(test[:, 0]), np.unique(test[:, 1])
        for kind, to_y, to_x in (
            ("cosine", 0.0, 0.0),
            ("csls", hubness(y, turned, neighbours), hubness(x, back, neighbours)),
        ):
            best[kind][0][left] = ranks(turned[left], y, [forward[i] for i in left], to_y)
            best[kind][1][right] = ranks(back[right], x, [backward[j] for j in right], to_x)
    size = float((y[pairs[:, 1]] ** 2).sum())
    before = float(((x[pairs[:, 0]] - y[pairs[:, 1]]) ** 2).sum())
    to_y, to_x = hubness(y, x, neighbours), hubness(x, y, neighbours)
    return Alignment(
        cosine=BothWays.of(ranks(x, y, forward), ranks(y, x, backward)),
        csls=BothWays.of(ranks(x, y, forward, to_y), ranks(y, x, backward, to_x)),
        mapped_cosine=BothWays.of(*best["cosine"]),
        mapped_csls=BothWays.of(*best["csls"]),
        residual=(before / size) ** 0.5,
        mapped_residual=(squares / size) ** 0.5,
    )
