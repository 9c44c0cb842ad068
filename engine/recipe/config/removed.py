"""What recipes had in earlier versions and have no more, with what to do instead."""

from __future__ import annotations

REMOVED = {
    "frozen_eval": "leave it out, it saved less than a tenth of a run",
    "selftrain.outside": "leave it out, all accepted O are learned",
    "selftrain.consistency": "leave it out, labels are taken from one pass without dropout",
    "selftrain.diversity": "leave it out, all voters learn from the same examples",
    "selftrain.alpha.per_class": "leave it out, one alpha serves all classes",
    "selftrain.alpha.calibrate": "leave it out, confidences are taken as they are",
    'selftrain.source_filter = "agreed"': 'use "correct", or "none" to keep all source examples',
}
"""By key, or key and value; a key without a dot has gone from every table."""


def removal(name: str) -> str | None:
    """The message about a key ("selftrain.outside"), or a key and its value, that has been removed; else None."""
    advice = REMOVED.get(name) or REMOVED.get(name.rpartition(".")[2])
    return advice and f"removed in 0.2.0; see CHANGELOG.md: {advice}"
