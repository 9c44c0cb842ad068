"""The [augment] table: source training text made more."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .config_base import option


@dataclass(frozen=True, kw_only=True)
class CodeSwitchConfig:
    """Code switching: fine-tuning also learns the source texts with words in other languages."""

    dictionaries: tuple[Path, ...] = option((), "files with a word, a tab and a translation a line; marks the results")
    rate: float = option(0.5, "probability that a word that is in the dictionaries is replaced", above=0, max=1)
    draw: int = option(0, "seed of the choice of words and translations", min=0)

    @property
    def on(self) -> bool:
        return bool(self.dictionaries)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What fine-tuning on the source learns besides the source as it is."""

    code_switch: CodeSwitchConfig = field(default_factory=CodeSwitchConfig)
