"""The labelled items that alpha is chosen on, in a run and when it is looked at afterwards, and how it is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..recipe.config.stages import AlphaConfig
from .thresholds import ThresholdChoice, choose_threshold


@dataclass(frozen=True)
class JudgedItems:
    """The labelled items that alpha is chosen on, `[n]` each.

    Attributes:
        confidence: the lowest among the voters; `agree` whether they agree, `correct` whether their label is right.
        example: the example of each item.
    """

    confidence: NDArray[Any]
    agree: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    example: NDArray[Any]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> JudgedItems:
        """What `decision.safetensors` holds of them, as `as_arrays` gave it."""
        kinds = {"agree": np.bool_, "correct": np.bool_, "example": np.int64}
        return cls(arrays["alpha.confidence"], **{n: arrays[f"alpha.{n}"].astype(kind) for n, kind in kinds.items()})

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """For `decision.safetensors`."""
        kinds = {"confidence": self.confidence.dtype, "agree": np.uint8, "correct": np.uint8, "example": np.int32}
        return {f"alpha.{name}": getattr(self, name).astype(kind) for name, kind in kinds.items()}


def choose_alpha(items: JudgedItems, settings: AlphaConfig, num_classes: int) -> ThresholdChoice:
    """Alpha as a recipe has it chosen; errors as of `choose_threshold`."""
    return choose_threshold(
        items.confidence,
        items.correct,
        rule=settings.rule,
        num_classes=num_classes,
        step=settings.step,
        upper=settings.upper,
        min_kept=settings.min_kept,
        min_share=settings.min_share,
        agree=items.agree,
    )
