"""Named warnings about what options beyond the paper accept; as in `diagnostics.py`, None when all is well."""

from __future__ import annotations

from collections.abc import Sequence

from .diagnostics import Warning

MAX_CUT = 0.9
"""Largest share of the accepted labels that an option may take away unnoticed."""
MAX_UNSTEADY = 0.5
"""Largest share of otherwise accepted labels that dropout may change unnoticed."""
MIN_DOUBT = 0.001
"""Smallest share of source items that a first teacher must doubt for its doubt to say something."""


def temperature_at_bound(value: float, at_bound: bool) -> Warning | None:
    """`temperature-at-bound`: the likelihood has no best temperature among those considered."""
    if not at_bound:
        return None
    return Warning(
        "temperature-at-bound",
        f"the best temperature lies beyond {value:g}: the student is right, or wrong, on nearly every labelled source "
        'item; calibrate on text that it has not seen (selftrain.alpha.data = "dev"), or not at all',
        {"temperature": value},
    )


def shared_class_alphas(shared: Sequence[str], classes: int) -> Warning | None:
    """`class-alpha-shared`: some classes have too few items for an alpha of their own and take that of all."""
    if not shared:
        return None
    return Warning(
        "class-alpha-shared",
        f"{len(shared)} of {classes} classes use the alpha of all classes, for want of items or of a bend in their own "
        f"curve: {', '.join(shared)}",
        {"labels": list(shared), "classes": classes},
    )


def dropout_disagreement(dropped: int, accepted: int) -> Warning | None:
    """`dropout-disagreement`: dropout changes most of the labels that had passed the threshold."""
    total = dropped + accepted
    if not total or dropped <= MAX_UNSTEADY * total:
        return None
    return Warning(
        "dropout-disagreement",
        f"{dropped} of {total} labels change in a pass with dropout: the student is underfitted, or there are too many "
        "passes; train the soft stage longer, or lower selftrain.consistency",
        {"dropped": dropped, "accepted": accepted},
    )


def acceptance_cut(option: str, dropped: int, accepted: int) -> Warning | None:
    """`acceptance-cut`: balancing took nearly all labels away."""
    total = dropped + accepted
    if not total or dropped <= MAX_CUT * total:
        return None
    return Warning(
        "acceptance-cut",
        f"selftrain.{option} took {dropped} of {total} accepted labels away, since one class has very few of them; "
        "the hard stage sees little of the target",
        {"option": option, "dropped": dropped, "accepted": accepted},
    )


def teacher_knows_all(doubted: int, items: int) -> Warning | None:
    """`teacher-doubts-nothing`: the first teacher has learnt its labels by heart, the wrong ones included."""
    if not items or doubted >= MIN_DOUBT * items:
        return None
    return Warning(
        "teacher-doubts-nothing",
        f"the first teacher doubts {doubted} of {items} labelled source items: it was trained on them and may have "
        'learnt wrong ones by heart, so that source_filter = "agreed" removes next to nothing; fine-tune for fewer '
        'epochs, or use "none"',
        {"doubted": doubted, "items": items},
    )


def one_teacher(asked: str, seeds: int) -> Warning | None:
    """`one-teacher`: the teachers of all seeds were asked for, and there is one seed."""
    if asked == "one" or seeds > 1:
        return None
    return Warning(
        "one-teacher",
        'selftrain.soft.teachers is "seeds", but the run has one seed, and so one teacher; give more seeds',
        {"seeds": seeds},
    )


def no_induced_pairs(pairs: int, margin: float) -> Warning | None:
    """`no-induced-pairs`: the model finds no words that stand for each other, so that nothing is mixed."""
    if pairs:
        return None
    return Warning(
        "no-induced-pairs",
        f"no two words of source and target text are each other's nearest with a score above {margin:g}: the texts are "
        "learned as they are; lower augment.code_switch.induce_margin or induce_count, or fit longer",
        {"margin": margin},
    )
