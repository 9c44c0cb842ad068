"""A few labelled examples per class: which ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..readers.example import OUTSIDE, Example
from .sampling import rng_for


def few_per_class(examples: Sequence[Example], count: int, seed: int, language: str) -> tuple[np.ndarray, list[str]]:
    """A seeded, stratified choice of labelled examples.

    Classification: `count` examples of each class, drawn at random. Tagging: the sentences are put into a random order;
    then, from the entity type that the fewest sentences have to the one that the most have (ties by name), the next
    sentences with that type are taken until `count` of those chosen have it. Sentences taken for a rarer type count, so
    that a frequent type may end up in more than `count`. Sentences without entities are not chosen.

    The order depends on seed and language alone: a smaller `count` gives a part of what a larger one gives in
    classification; in tagging mostly so.

    Args:
        examples: labelled ones; those without a label are never chosen.
        count: per class, at least 1.
        seed, language: key of the draw.

    Returns:
        int64 [n], the chosen examples in the order of the file; and the classes that have fewer than `count`.
    """
    kinds = [_kinds(example) for example in examples]
    of_kind: dict[str, int] = {}
    for found in kinds:
        for kind in found:
            of_kind[kind] = of_kind.get(kind, 0) + 1
    order = rng_for(seed, "per_class", language).permutation(len(examples))
    chosen: set[int] = set()
    for kind in sorted(of_kind, key=lambda k: (of_kind[k], k)):
        missing = count - sum(kind in kinds[i] for i in chosen)
        fresh = [int(i) for i in order if kind in kinds[i] and int(i) not in chosen]
        chosen.update(fresh[: max(0, missing)])
    return np.array(sorted(chosen), dtype=np.int64), sorted(k for k, n in of_kind.items() if n < count)


def _kinds(example: Example) -> frozenset[str]:
    """The class of a text, or the entity types (plain tags) of a sentence."""
    if isinstance(example.labels, str):
        return frozenset([example.labels])
    tags = (tag for tag in example.labels or () if tag != OUTSIDE)
    return frozenset(tag[2:] if tag[:2] in ("B-", "I-") else tag for tag in tags)
