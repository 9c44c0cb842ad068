"""The [cotrain] and [contrastive] tables: the methods of Yu and Joty (EMNLP 2021).

Numbers in the defaults are those of its section 4.2 where it gives any. It does not give the threshold, the number of
iterations, temperature, or weight of the contrast: those are ours. Its weight decay, and that it names neither a
warm-up nor freezing, is the affair of [training]. Its second phase, on translations, is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...training.config import option
from .training import StageConfig

Problems = list[tuple[str, str]]
MODES = ("co", "self-a", "self-b")


@dataclass(frozen=True, kw_only=True)
class TransferConfig(StageConfig):
    """The rates of section 4.2; 2 epochs for MARC, 5 for XNLI."""

    lr: float = option(5e-5, "peak learning rate", above=0)
    epochs: float = option(2.0, "passes over the data", above=0)
    batch_size: int = option(16, "sequences in one optimiser step", min=1)


@dataclass(frozen=True, kw_only=True)
class CotrainConfig(TransferConfig):
    """Co-training of two classifiers, and self-training of one (Algorithm 1)."""

    on: bool = option(False, "run it beside what else the recipe has")
    modes: tuple[str, ...] = option(
        ("co",), "co: each model learns from the other's picks; self-a, self-b: from its own (Dong and de Melo, 2019)"
    )
    iterations: int = option(5, "fine-tunings of each model, the first on the labelled source alone", min=1)
    threshold: float = option(0.9, "a pick's confidence must be larger", min=0, max=1)
    parts: int = option(3, "an iteration picks at most labelled examples / parts; 0 means all candidates", min=0)
    start: Literal["pretrained", "adapted"] = option(
        "pretrained", "the first encoder: as it is, or after [contrastive] has adapted it"
    )
    restart: Literal["pretrained", "previous"] = option(
        "pretrained", "weights that each iteration starts from: those of start, or the last ones with their head"
    )
    pool: Literal["each", "all"] = option("each", "a pair of models for each target, or one for the text of all")
    cap: int = option(0, "largest number of unlabelled examples of each target; 0 means all", min=0)
    model: Path | None = option(
        None, "second encoder, a folder or a name as model.name; the first one with other seeds when absent", hub=True
    )

    def problems(self) -> Problems:
        problems = [
            (f"modes.{i}", f"{mode!r} is not a mode; use {', '.join(MODES)}")
            for i, mode in enumerate(self.modes)
            if mode not in MODES
        ]
        if not self.modes or len(set(self.modes)) != len(self.modes):
            problems.append(("modes", f"give each mode once, of {', '.join(MODES)}"))
        return problems


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(TransferConfig):
    """Contrastive adaptation on the source: label alignment (Eq. 2 and 3)."""

    on: bool = option(False, "run it beside what else the recipe has")
    temperature: float = option(0.1, "divides the cosines", above=0)
    weight: float = option(0.5, "factor of the label alignment loss; 0 is fine-tuning alone", min=0)
