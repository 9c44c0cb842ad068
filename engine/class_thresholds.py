"""An alpha of its own for each predicted class: the rule of the recipe on the class's own curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .metrics import as_array
from .thresholds import Floats, ThresholdChoice, choose_threshold


@dataclass(frozen=True)
class ClassThresholds:
    """`alpha` `[C]`, and which of them are the class's `own` `[C]`; the others are that of all classes."""

    alpha: Floats
    own: NDArray[np.bool_]

    def as_dict(self, labels: Sequence[str]) -> dict[str, Any]:
        """Per class `alpha`, and whether it is its own, as JSON values."""
        pairs = zip(labels, self.alpha.tolist(), self.own.tolist(), strict=True)
        return {name: {"alpha": alpha, "own": own} for name, alpha, own in pairs}


def class_thresholds(
    confidence: ArrayLike | torch.Tensor,
    label: ArrayLike | torch.Tensor,
    correct: ArrayLike | torch.Tensor,
    overall: ThresholdChoice,
    *,
    num_classes: int,
    min_kept: int,
    agree: ArrayLike | torch.Tensor,
) -> ClassThresholds:
    """The rule and the grid of `overall` on the labelled items that are predicted as each class.

    A class takes the threshold of `overall` where the lowest threshold keeps fewer than `min_kept` of its items, and
    where the rule has nothing to go by on its curve.

    Args:
        confidence, label, correct, agree: per item `[n]`, as for `choose_threshold`; label is the predicted class.
    """
    values, named, right, unanimous = (as_array(x) for x in (confidence, label, correct, agree))
    alpha, own = np.full(num_classes, overall.alpha), np.zeros(num_classes, dtype=bool)
    for index in range(num_classes):
        chosen = named == index
        found = choose_threshold(
            values[chosen],
            right[chosen],
            rule=overall.rule,
            grid=overall.curve.thresholds,
            min_kept=min_kept,
            agree=unanimous[chosen],
        )
        if found.curve.kept[0] >= min_kept and not found.fallback:
            alpha[index], own[index] = found.alpha, True
    return ClassThresholds(alpha, own)
