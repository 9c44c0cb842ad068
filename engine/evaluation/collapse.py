"""When a student has collapsed, by what it says of unlabelled text beside its teacher. No label of the text is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MIN_RATE = 0.1
"""A student names at least this much of what the teachers before it named (words as entities, in tagging)."""
MIN_AGREEMENT = 0.2
"""And says the same as the last sound model before it on at least this share of what that one named."""
ONE_CLASS = 0.99
"""One class among so many of a model's labels is a collapse; of a student's, where a teacher had ..."""
SEVERAL_CLASSES = 0.9
"""... no class with more than this share."""

Figures = Mapping[str, Any]
"""`against_teacher` of a student (docs/summary-schema.md)."""


def collapses(first: str, students: Sequence[Figures]) -> list[str]:
    """How each model of a chain has collapsed, in words; empty for those that are sound.

    A student of a collapsed teacher is sound by its agreement with the last sound model. Where the first model is not
    sound, no student is, since there is nothing to tell it by.

    Args:
        first: name of the model that the first student learned from.
        students: of the chain, in the order in which they learned; empty figures, of a student that was not looked at,
            are taken for sound.

    Returns:
        One entry for the first model, and one for each student.
    """
    found = [_one_class(students[0]) if students else ""]
    if found[0]:
        return found + [f"{first}, which all learned from, has collapsed: {found[0]}"] * len(students)
    for number, own in enumerate(students):
        seen = [figures for figures in students[: number + 1] if figures]
        found.append(_collapse(own, seen, bool(found[-1])) if own else "")
    return found


def _one_class(figures: Figures) -> str:
    """How the first teacher has collapsed, by the figures of its student."""
    if figures and figures["teacher_rate"] == 0.0:
        return "names none of the target's items"
    largest = figures.get("teacher_largest") or 0.0
    return f"one class has {largest:.1%} of its labels" if largest >= ONE_CLASS else ""


def _collapse(own: Figures, seen: Sequence[Figures], teacher_fell: bool) -> str:
    named = max(f["teacher_rate"] or 0.0 for f in seen)
    if (own["rate"] or 0.0) < MIN_RATE * named:
        return f"names {own['rate']:.1%} of the target's items, a teacher before it {named:.1%}"
    mixed = min(f["teacher_largest"] or 1.0 for f in seen)
    if (own["largest"] or 0.0) >= ONE_CLASS and mixed < SEVERAL_CLASSES:
        return f"one class has {own['largest']:.1%} of its labels, of a teacher's {mixed:.1%}"
    if not teacher_fell:
        agreement, whom = own["agreement"], "its teacher"
        sound = agreement is None or agreement >= MIN_AGREEMENT
    else:
        agreement, whom = (own.get("last_sound") or {}).get("agreement"), "the last sound model"
        sound = agreement is not None and agreement >= MIN_AGREEMENT
    if sound:
        return ""
    if agreement is None:
        return "its teacher has collapsed, and nothing says how far it agrees with the last sound model"
    return f"agrees with {whom} on {agreement:.1%} of what that one names"
