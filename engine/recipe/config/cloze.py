"""The [cloze] table: classification by filling in a blank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...training.config import option


@dataclass(frozen=True, kw_only=True)
class ClozeConfig:
    """What finetune.head = "cloze" reads: texts in a template, classes as words in its blank."""

    template: str = option("{text} It was {mask}.", "what a text is put into; {pair} for pairs of texts")
    verbaliser: tuple[Path, ...] = option(
        (), "files with a class, a tab and words for it, with commas between them; several files add up"
    )
