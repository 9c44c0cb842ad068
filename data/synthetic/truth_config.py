"""The knobs of the truth world (docs/truth-world.md)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


def _knob(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


def _share(default: float, help: str) -> Any:
    return _knob(default, help, min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class TruthKnobs:
    """What decides a truth world besides its task and its languages. Counts are sentences, per language."""

    seed: int = _knob(0, "which sentences are drawn, and which fake language is made of them")
    text: Path | None = _knob(None, "labelled file of source sentences; the demo's English grammar when absent")
    general: Path | None = _knob(None, "plain text for pre-training, a sentence a line; from `text` when absent")
    anchors: float = _share(0.3, "share of the word types that the target writes as the source does")
    letter_overlap: float = _share(0.0, "share of the letters that the target keeps; the rest is of another script")
    word_order: float = _share(0.0, "strength of the target's rule of word order; 0 is the source's order")
    affixes: float = _share(0.0, "share of the other word types that take one of three endings wherever they occur")
    label_shift: float = _share(0.0, "how far the classes' shares in target text move to a reversed order")
    label_noise: float = _share(0.0, "share of source training sentences in which one label is made wrong")
    domain_shift: float = _share(0.0, "share of the unlabelled target text that comes from the general domain")
    general_sentences: int = _knob(2500, "to pre-train on", min=1)
    control_sentences: int = _knob(3000, "more general text, for the control arm", min=1)
    train_sentences: int = _knob(1500, "labelled, in the source language", min=1)
    unlabelled_sentences: int = _knob(3000, "task text; in the source the labelled sentences are part of it", min=2)
    test_sentences: int = _knob(800, "for scoring", min=1)

    def problems(self) -> list[tuple[str, str]]:
        """What does not go together, as (key, message)."""
        found = []
        if self.unlabelled_sentences <= self.train_sentences:
            found.append(
                (
                    "unlabelled_sentences",
                    f"is {self.unlabelled_sentences} and must be above train_sentences = {self.train_sentences}: the "
                    "source's labelled sentences are part of its task text",
                )
            )
        if self.general is not None and self.text is None:
            found.append(("general", "goes with text; the grammar makes its own general text"))
        if self.text is not None and self.general is None and self.domain_shift > 0:
            found.append(("domain_shift", "needs general: a file of text from another domain"))
        return found

    def faults(self) -> list[str]:
        """All that is wrong, limits included, for worlds that no recipe has checked."""
        found = []
        for entry in fields(TruthKnobs):
            value, limits = getattr(self, entry.name), entry.metadata
            if "min" in limits and not limits["min"] <= value <= limits.get("max", value):
                most = f" and at most {limits['max']}" if "max" in limits else ""
                found.append(f"{entry.name} = {value} must be at least {limits['min']}{most}")
        return found + [f"{key} {message}" for key, message in self.problems()]
