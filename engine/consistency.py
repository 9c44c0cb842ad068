"""Do a student's labels survive dropout? Passes with other masks, after Gal and Ghahramani 2016 (arXiv 1506.02142).

Voters share one encoder, so that they err together. A pass with dropout on disturbs the encoder as well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..data import derive_seed
from .decisions import Bools
from .metrics import as_array


def steady_labels(
    label: ArrayLike | torch.Tensor, probability: Callable[[int], ArrayLike | torch.Tensor], *, passes: int, seed: int
) -> Bools:
    """Whether every pass with dropout gives an item the label that it has without, bool `[K]`.

    The label of a pass is the class of the largest mean probability over the voters.

    Args:
        label: per item `[K]`, without dropout.
        probability: from the seed of a pass to the voters' mean probabilities `[K, C]`; called once a pass.
        passes: how many; each costs as much as the vote itself.
        seed: of the round; pass `i` gets `derive_seed(seed, "consistency", i)`.
    """
    named = as_array(label)
    steady = np.ones(named.shape, dtype=bool)
    for number in range(passes):
        steady &= as_array(probability(derive_seed(seed, "consistency", number))).argmax(axis=-1) == named
    return steady
