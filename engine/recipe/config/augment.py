"""The [augment] table: source training text made more."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...training.config import option


@dataclass(frozen=True, kw_only=True)
class CodeSwitchConfig:
    """Code switching: fine-tuning also learns the source texts with words in other languages."""

    dictionaries: tuple[Path, ...] = option((), "files with a word, a tab and a translation a line; marks the results")
    rate: float = option(0.5, "probability that a word that is in the dictionaries is replaced", above=0, max=1)
    draw: int = option(0, "seed of the choice of words and translations", min=0)
    induce: bool = option(
        False, "without dictionaries: the fitted model says which words of source and target text stand for each other"
    )
    induce_words: int = option(2000, "most frequent words of each language that are compared", min=2)
    induce_count: int = option(5, "occurrences that such a word must have", min=1)
    induce_margin: float = option(0.1, "a pair's CSLS score must be larger", min=-4, max=4)
    induce_layer: int | None = option(
        None, "states that are compared: 0 of the embeddings, n of layer n; two thirds of the way up if absent", min=0
    )

    @property
    def on(self) -> bool:
        return bool(self.dictionaries)

    def problems(self) -> list[tuple[str, str]]:
        if self.induce and self.dictionaries:
            return [("induce", "is on, and dictionaries are given; keep one of them")]
        return []


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What fine-tuning on the source learns besides the source as it is."""

    code_switch: CodeSwitchConfig = field(default_factory=CodeSwitchConfig)
