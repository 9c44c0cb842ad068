"""A pair of a run as folders and records name it: "de", or "de+nl" where one model serves several targets together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

JOIN = "+"


def pair_name(targets: Sequence[str]) -> str | None:
    """The name of the pair of the source and these targets; None where a model serves all and is made for none."""
    return JOIN.join(targets) or None


def targets_of(pair: str | None) -> tuple[str, ...]:
    """The targets of a pair; none where it is None."""
    return tuple(pair.split(JOIN)) if pair else ()


def serves(pair: str | None, language: str) -> bool:
    """Whether a model of a pair is one for a target; that of None is for all."""
    return pair is None or language in targets_of(pair)


def of_target(record: dict[str, Any], language: str) -> dict[str, Any]:
    """A record with what it has of one target in the place of what it has of all of them together."""
    own: dict[str, Any] = (record.get("targets") or {}).get(language, {})
    return record | own
