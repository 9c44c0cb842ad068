"""Algorithm 1 of Yu and Joty (EMNLP 2021) without its models: who may be picked, who is, and where the picks go.

Each of two models has a labelled set D, at first the labelled source, and a pool U, at first all unlabelled text. In an
iteration each picks, from its own pool, texts that it is confident of; they leave its pool, and with its label they
enter the other's D. So the pseudo-labels in D of one model are at any time what the other one has picked so far, and
the pool of the other one is the rest: one array says both. With one model it is its own other (Dong and de Melo, 2019).

The algorithm as printed scores U and never reads the pools; candidates are taken from the pool here, since the same
texts would be picked again and again otherwise. Where both models pick a text they need not agree: labels are crossed,
not compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...data import rng_for
from ...data.store.store import IGNORE


@dataclass(frozen=True)
class Picks:
    """What one model picks in one iteration, and what that makes of the other's labelled set.

    Attributes:
        labels: int64 [U], the pseudo-labels in the other's labelled set, -100 where there is none.
        chosen: int64, ascending, what was picked now.
        candidates: how many of the pool were confident enough.
        pool: how many were in the pool before.
    """

    labels: np.ndarray
    chosen: np.ndarray
    candidates: int
    pool: int

    @property
    def remaining(self) -> int:
        """How many are left in the pool."""
        return self.pool - len(self.chosen)


def pick_limit(labelled: int, parts: int) -> int | None:
    """How many picks an iteration has at most: a third, for `parts` 3, of the labelled source (section 4.2), down.

    None, no limit, for 0 parts. The number of labelled examples is that of the source alone in every iteration.
    """
    return None if parts == 0 else labelled // parts


def no_picks(size: int) -> np.ndarray:
    """The pseudo-labels before the first picks, int64 [size]."""
    return np.full(size, IGNORE, dtype=np.int64)


def pick(
    before: np.ndarray,
    allowed: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    *,
    threshold: float,
    limit: int | None,
    seed: int,
) -> Picks:
    """One model's random choice from what it is confident of in its pool.

    Args:
        before: int64 [U], labels of what it has picked in earlier iterations, -100 for its pool.
        allowed: bool [U], what may be picked at all.
        predicted: int [U], its classes.
        confidence: float [U], of these; compared in fp32, as models give it, and strictly.
        threshold: what the confidence must exceed.
        limit: largest number of picks, or None.
        seed: of the choice, which is uniform over the candidates.
    """
    pool = allowed & (before == IGNORE)
    candidates = np.flatnonzero(pool & (confidence.astype(np.float32) > np.float32(threshold)))
    chosen = candidates
    if limit is not None and len(candidates) > limit:
        chosen = np.sort(rng_for(seed, "subset").permutation(candidates)[:limit])
    labels = before.copy()
    labels[chosen] = predicted[chosen]
    return Picks(labels, chosen, len(candidates), int(pool.sum()))
