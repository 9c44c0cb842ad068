"""The [world] table: which made world, and its knobs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ....data.synthetic.truth_config import TruthKnobs
from ...training.config import option

_DEMO = ("kind", "seed", "label_noise")


@dataclass(frozen=True, kw_only=True)
class WorldTable(TruthKnobs):
    """Make a world instead of reading files: the demo's (seed and label_noise only), or the truth world."""

    kind: Literal["demo", "truth"] = option("demo", "demo: three languages; truth: fake languages with known labels")
    seed: int = option(1, "which sentences are drawn, and which fake languages are made of them")

    def problems(self) -> list[tuple[str, str]]:
        if self.kind == "truth":
            return super().problems()
        return [
            (entry.name, 'is a knob of the truth world; set world.kind = "truth" or leave it out')
            for entry in fields(self)
            if entry.name not in _DEMO and getattr(self, entry.name) != entry.default
        ]
