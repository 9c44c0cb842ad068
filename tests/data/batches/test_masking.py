"""Masking for the masked language model: rates, and what is never touched."""

from __future__ import annotations

import numpy as np
import pytest

from xlt_engine.data import rng_for
from xlt_engine.data.batches.sources import mask_tokens

VOCABULARY, MASK, COUNT = 1000, 4, 200_000
SPECIAL = np.arange(VOCABULARY) < 5


def text(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """Ordinary tokens with a special one in every tenth place."""
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, size=count)
    ids[::10] = np.arange(len(ids[::10])) % 4
    return ids


def masked(ids: np.ndarray, seed: int = 1, **more: float) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(ids, SPECIAL, rng_for(seed, "mask", 0), mask_id=MASK, vocab_size=VOCABULARY, **more)


def within(successes: int, trials: int, probability: float) -> bool:
    """Five standard deviations of a binomial count."""
    return abs(successes - trials * probability) < 5 * np.sqrt(trials * probability * (1 - probability))


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_rates(rate: float) -> None:
    ids = text()
    corrupted, targets = masked(ids, rate=rate)
    chosen, total = targets != -100, int((targets != -100).sum())
    assert within(total, int((~SPECIAL[ids]).sum()), rate)
    assert (targets[chosen] == ids[chosen]).all()
    assert (corrupted[~chosen] == ids[~chosen]).all()
    hidden, kept = chosen & (corrupted == MASK), chosen & (corrupted == ids)
    other = chosen & ~hidden & ~kept
    # One random draw in 995 is the original token.
    same = 1 / (VOCABULARY - 5)
    assert within(int(hidden.sum()), total, 0.8)
    assert within(int(kept.sum()), total, 0.1 + 0.1 * same)
    assert within(int(other.sum()), total, 0.1 - 0.1 * same)


def test_special_tokens_are_never_chosen_nor_drawn() -> None:
    ids = text()
    corrupted, targets = masked(ids, rate=1.0, replace_rate=0.0, random_rate=1.0)
    special = SPECIAL[ids]
    assert (targets[special] == -100).all()
    assert (corrupted[special] == ids[special]).all()
    assert (targets[~special] == ids[~special]).all()
    assert not SPECIAL[corrupted[~special]].any()


def test_tokens_are_drawn_uniformly() -> None:
    """Chi-square over the 995 ordinary tokens, against a five-sigma bound."""
    corrupted, _ = masked(np.full(COUNT, 7), rate=1.0, replace_rate=0.0, random_rate=1.0)
    counts = np.bincount(corrupted, minlength=VOCABULARY)[5:]
    expected = COUNT / 995
    assert ((counts - expected) ** 2 / expected).sum() < 994 + 5 * np.sqrt(2 * 994)


def test_same_key_same_masks_and_the_input_stays() -> None:
    ids = text(1000).astype(np.uint16)
    before = ids.copy()
    first, again, other = masked(ids, seed=1), masked(ids, seed=1), masked(ids, seed=2)
    assert first[0].dtype == first[1].dtype == np.int64
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[1] != other[1]).any()
    assert (ids == before).all()


def test_mask_does_not_depend_on_the_tokens() -> None:
    """Which places are chosen depends on the key alone, so that resuming needs no state of the text."""
    a, b = masked(np.full(5000, 7))[1], masked(np.full(5000, 8))[1]
    assert ((a != -100) == (b != -100)).all()
