"""Masked language modelling: which tokens are hidden, and what stands in their place (Devlin et al. 2018)."""

from __future__ import annotations

import numpy as np

from ..store.store import IGNORE


def mask_tokens(
    ids: np.ndarray,
    special: np.ndarray,
    rng: np.random.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    rate: float = 0.15,
    replace_rate: float = 0.8,
    random_rate: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Corrupts token ids for masked language modelling.

    Each token that is not special is chosen with probability `rate`; a chosen one becomes [MASK] with probability
    `replace_rate`, a uniformly drawn ordinary token with `random_rate`, and stays as it is otherwise.

    Args:
        ids: int [T].
        special: bool [vocab_size], true for tokens that are never chosen and never drawn.
        rng: source of the draws; the same state gives the same masks.

    Returns:
        The corrupted ids, int64 [T], and the targets, int64 [T]: the original id where chosen, -100 elsewhere.
    """
    ids = np.asarray(ids, dtype=np.int64)
    chosen = (rng.random(len(ids)) < rate) & ~special[ids]
    action = rng.random(len(ids))
    ordinary = np.flatnonzero(~special[:vocab_size])
    drawn = ordinary[rng.integers(len(ordinary), size=len(ids))]
    corrupted = np.where(chosen & (action < replace_rate), mask_id, ids)
    corrupted = np.where(chosen & (action >= replace_rate) & (action < replace_rate + random_rate), drawn, corrupted)
    return corrupted, np.where(chosen, ids, IGNORE)
