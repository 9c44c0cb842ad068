"""How well two sets of states are aligned: retrieval in both directions, and the best rotation of one onto the other.

Pure functions in float64. Rows of `x` and `y` are distinct texts of two languages; a pair is a row of each, and a row
may be in several pairs (a word with two translations).
"""

from __future__ import annotations

from collections import defaultdict
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

    Args:
        x, y: [n, H], row by row partners. With fewer rows than H other maps are as good on these rows.
    """
    u, _, vt = np.linalg.svd(x.T @ y)
    result: Floats = u @ vt
    return result


def ranks(queries: Floats, candidates: Floats, partners: Sequence[Ints], *, penalty: Floats | None = None) -> Ints:
    """Rank of the best partner of each query among the candidates, from 1; its other partners are left out.

    A candidate that is as near as the partner counts as nearer.

    Args:
        queries, candidates: unit rows.
        partners: rows of `candidates`, for each query.
        penalty: `hubness` of the candidates, for 2 cos - r(candidate); the query's own term changes no rank.
    """
    found = np.empty(len(queries), dtype=np.int64)
    for a in range(0, len(queries), BLOCK):
        similarity = queries[a : a + BLOCK] @ candidates.T
        if penalty is not None:
            similarity = 2 * similarity - penalty
        for row, values in enumerate(similarity):
            own = values[partners[a + row]]
            found[a + row] = 1 + (values >= own.max()).sum() - (own >= own.max()).sum()
    return found


def summed_up(found: Ints) -> Retrieval:
    """Accuracy and mean reciprocal rank."""
    return Retrieval(float((found == 1).mean()), float((1 / found).mean()))


def chance(partners: Sequence[Ints], candidates: int) -> Retrieval:
    """What a random order of the candidates gives in the mean."""
    accuracy = np.mean([len(own) / candidates for own in partners])
    by_size = {g: _reciprocal(g, candidates) for g in {len(own) for own in partners}}
    return Retrieval(float(accuracy), float(np.mean([by_size[len(own)] for own in partners])))


def _reciprocal(partners: int, candidates: int) -> float:
    """Mean of 1 / rank of the best of some partners in a random order, the other partners left out of the rank."""
    total, left = 0.0, 1.0
    for rank in range(1, candidates - partners + 2):
        hit = left * partners / (candidates - rank + 1)
        total, left = total + hit / rank, left - hit
    return total


def folds_of(pairs: Ints, folds: int, seed: int) -> Ints:
    """The fold of each pair, [pairs]: seeded, and pairs that share a text are in one fold.

    Args:
        pairs: [pairs, 2], rows of x and y.

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
    load, place = np.zeros(folds, dtype=np.int64), {}
    for i in rng_for(seed, "folds").permutation(len(names)):
        smallest = int(load.argmin())
        place[int(names[i])] = smallest
        load[smallest] += sizes[i]
    return np.array([place[int(g)] for g in group], dtype=np.int64)


def _groups(pairs: Ints) -> Ints:
    """A number for each pair, the same for those that hang together by common texts."""
    first: dict[tuple[int, int], int] = {}
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for number, pair in enumerate(pairs.tolist()):
        for side, text in enumerate(pair):
            parent[root(number)] = root(first.setdefault((side, text), number))
    return np.array([root(i) for i in range(len(pairs))], dtype=np.int64)


def partners_of(pairs: Ints, sizes: tuple[int, int]) -> tuple[list[Ints], list[Ints]]:
    """Rows of y for each row of x, and of x for each row of y."""
    found: tuple[defaultdict[int, list[int]], ...] = defaultdict(list), defaultdict(list)
    for left, right in pairs.tolist():
        found[0][left].append(right)
        found[1][right].append(left)
    forward, backward = (
        [np.array(table[i], dtype=np.int64) for i in range(n)] for table, n in zip(found, sizes, strict=True)
    )
    return forward, backward


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
    plain = (ranks(x, y, forward), ranks(y, x, backward))
    corrected = (
        ranks(x, y, forward, penalty=hubness(y, x, neighbours)),
        ranks(y, x, backward, penalty=hubness(x, y, neighbours)),
    )
    mapped = [np.empty(n, dtype=np.int64) for n in (len(x), len(y), len(x), len(y))]
    squares = 0.0
    for number in range(int(fold.max()) + 1):
        test = pairs[fold == number]
        rest = pairs[fold != number]
        rotation = procrustes(x[rest[:, 0]], y[rest[:, 1]])
        turned, back = x @ rotation, y @ rotation.T
        squares += float(((turned[test[:, 0]] - y[test[:, 1]]) ** 2).sum())
        left, right = np.unique(test[:, 0]), np.unique(test[:, 1])
        there, home = [forward[i] for i in left], [backward[j] for j in right]
        mapped[0][left] = ranks(turned[left], y, there)
        mapped[1][right] = ranks(back[right], x, home)
        mapped[2][left] = ranks(turned[left], y, there, penalty=hubness(y, turned, neighbours))
        mapped[3][right] = ranks(back[right], x, home, penalty=hubness(x, back, neighbours))
    size = float((y[pairs[:, 1]] ** 2).sum())
    before = float(((x[pairs[:, 0]] - y[pairs[:, 1]]) ** 2).sum())
    ways = [BothWays(summed_up(a), summed_up(b)) for a, b in (plain, corrected, mapped[:2], mapped[2:])]
    return Alignment(ways[0], ways[1], ways[2], ways[3], (before / size) ** 0.5, (squares / size) ** 0.5)
