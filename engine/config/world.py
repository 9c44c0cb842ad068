"""The [world] table: which made world, and its knobs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ...data.truth_config import TruthKnobs

_DEMO = ("kind", "seed", "label_noise")


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class WorldTable(TruthKnobs):
    """Make a world instead of reading files: the demo's (seed and label_noise only), or the truth world."""

    kind: Literal["demo", "truth"] = _option("demo", "demo: three languages; truth: fake languages with known labels")
    seed: int = _option(1, "which sentences are drawn, and which fake languages are made of them")

    def problems(self) -> list[tuple[str, str]]:
        if self.kind == "truth":
            return super().problems()
        return [
            (entry.name, 'is a knob of the truth world; set world.kind = "truth" or leave it out')
            for entry in fields(self)
            if entry.name not in _DEMO and getattr(self, entry.name) != entry.default
        ]
