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
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Retrieval:
    """Share of queries whose nearest candidate is a partner."""

    accuracy: float


@dataclass(frozen=True)
class BothWays:
    """Retrieval from the left texts to the right ones, and back."""

    forward: Retrieval
    backward: Retrieval

    @classmethod
    def of(cls, *nearest: Bools) -> BothWays:
        """From whether each query's nearest is a partner, both ways."""
        return cls(*(Retrieval(float(found.mean())) for found in nearest))


@dataclass(frozen=True)
class Alignment:
    """What `align` finds: by the states as they are, and after the rotation that was fitted on the other folds."""

    cosine: BothWays
    csls: BothWays
    mapped_cosine: BothWays
    mapped_csls: BothWays


def procrustes(x: Floats, y: Floats) -> Floats:
    """The orthogonal W that minimises |x W - y|: U V^T of the singular value decomposition of x^T y (Schönemann, 1966).

    Row by row partners, [n, H]. With fewer rows than H other maps are as good on these rows.
    """
    u, _, vt = np.linalg.svd(x.T @ y)
    return np.asarray(u @ vt)


def found(queries: Floats, candidates: Floats, partners: Sequence[Ints], penalty: Floats | float = 0.0) -> Bools:
    """Whether each query's nearest candidate is a partner; one of the others that is as near counts as nearer.

    Args:
        queries, candidates: unit rows; `partners` are rows of `candidates`, for each query.
        penalty: `hubness` of the candidates, for 2 cos - r(candidate); the query's own term changes no order.
    """
    nearest = np.empty(len(queries), dtype=bool)
    for a in range(0, len(queries), BLOCK):
        for row, values in enumerate(2 * (queries[a : a + BLOCK] @ candidates.T) - penalty):
            right = values[partners[a + row]]
            nearest[a + row] = (values >= right.max()).sum() == (right >= right.max()).sum()
    return nearest


def chance(partners: Sequence[Ints], candidates: int) -> Retrieval:
    """What a random order of the candidates gives in the mean."""
    return Retrieval(float(np.mean([len(rows) for rows in partners]) / candidates))


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
    mapped = {kind: [np.empty(n, dtype=bool) for n in (len(x), len(y))] for kind in ("cosine", "csls")}
    for number in range(int(fold.max()) + 1):
        test, rest = pairs[fold == number], pairs[fold != number]
        rotation = procrustes(x[rest[:, 0]], y[rest[:, 1]])
        turned, back = x @ rotation, y @ rotation.T
        left, right = np.unique(test[:, 0]), np.unique(test[:, 1])
        for kind, to_y, to_x in (
            ("cosine", 0.0, 0.0),
            ("csls", hubness(y, turned, neighbours), hubness(x, back, neighbours)),
        ):
            mapped[kind][0][left] = found(turned[left], y, [forward[i] for i in left], to_y)
            mapped[kind][1][right] = found(back[right], x, [backward[j] for j in right], to_x)
    to_y, to_x = hubness(y, x, neighbours), hubness(x, y, neighbours)
    return Alignment(
        cosine=BothWays.of(found(x, y, forward), found(y, x, backward)),
        csls=BothWays.of(found(x, y, forward, to_y), found(y, x, backward, to_x)),
        mapped_cosine=BothWays.of(*mapped["cosine"]),
        mapped_csls=BothWays.of(*mapped["csls"]),
    )
