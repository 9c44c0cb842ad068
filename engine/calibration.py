"""One temperature for a model's confidences, fitted on labelled source items (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are considered; labels that are all right, or all wrong, would ask for none of them."""
_ITERATIONS = 80  # halves the interval of the logarithm to the resolution of a double


@dataclass(frozen=True)
class Temperature:
    """`value` divides the logits; the mean negative log-likelihood (nats) before and after, and over how many items.

    `at_bound` says that the likelihood still rises beyond the considered temperatures.
    """

    value: float
    nll_before: float
    nll_after: float
    items: int
    at_bound: bool

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def fit_temperature(logits: NDArray[Any], gold: NDArray[Any]) -> Temperature:
    """The temperature T of least negative log-likelihood of `softmax(logits / T)`, the mean over voters and items.

    In fp64, by bisection: the function is convex in 1 / T, so that there is one solution, found to the bit of a double
    on every machine that sums in the same order.

    Args:
        logits: `[M, K, C]`.
        gold: `[K]`; items below 0 are not read. Without any the temperature is 1.
    """
    known = np.asarray(gold) >= 0
    truth = np.asarray(gold)[known].astype(np.int64)
    scores = np.asarray(logits, dtype=np.float64)[:, known]
    if not truth.size:
        return Temperature(1.0, math.nan, math.nan, 0, False)
    scores = scores - scores.max(axis=-1, keepdims=True)
    right = scores[:, np.arange(truth.size), truth]

    def slope(inverse: float) -> float:
        """Derivative of the mean loss by 1 / T: expected minus true logit."""
        share = np.exp(scores * inverse)
        share /= share.sum(axis=-1, keepdims=True)
        return float(((share * scores).sum(axis=-1) - right).mean())

    def loss(inverse: float) -> float:
        return float((np.log(np.exp(scores * inverse).sum(axis=-1)) - right * inverse).mean())

    low, high = math.log(1 / HIGHEST), math.log(1 / LOWEST)
    at_bound = not slope(math.exp(low)) < 0 < slope(math.exp(high))
    if at_bound:
        best = low if slope(math.exp(low)) >= 0 else high
    else:
        for _ in range(_ITERATIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
        best = (low + high) / 2
    value = math.exp(-best)
    return Temperature(value, loss(1.0), loss(1 / value), int(truth.size), at_bound)
