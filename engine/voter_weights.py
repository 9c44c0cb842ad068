"""Voters that see different data: each gets its own bootstrap draw of the examples, as weights of their losses.

Voters differ in width and initialisation only, and learn to agree. Bagging (Breiman 1996) makes them differ; drawing
with replacement is replaced by independent Poisson(1) weights (Oza and Russell 2001), so that what an example weighs
does not hang on which others take part, and is the same in the soft and the hard stage of a round.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..data import rng_for


def bootstrap_weights(offsets: NDArray[np.int64], voters: int, *, seed: int) -> NDArray[np.float32]:
    """How often each voter drew the example of each item, float32 `[items, voters]`.

    Args:
        offsets: where the items of each example begin, `[examples + 1]`; all items of an example weigh the same.
        seed: of the draw, which depends on it and on the numbers of examples and voters alone.
    """
    counts = np.diff(offsets)
    drawn = rng_for(seed, "bootstrap").poisson(1.0, size=(len(counts), voters))
    return np.repeat(drawn, counts, axis=0).astype(np.float32)
