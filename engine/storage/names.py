"""Names in a run folder that more than one room knows (docs/summary-schema.md): of files, and of pairs.

A pair is the source and a target, "de", or "de+nl" where one model serves several targets together.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

FINISHED = "stage.json"
"""Written last into a stage's folder: one without it is unfinished."""
STAMP = "fingerprint.json"
SCORES, ITEMS, PREDICTED = OF_SCORING = "scores.json", "items.safetensors", "predicted.safetensors"
"""What scoring leaves beside a model: the scores, what they are of, and the class of each item of a test file."""
IF_GOLD = "if_gold"
"""In the scores of a stage that decides: by target, what the decision makes of the test file."""
FAILED = "failed.json"
"""The stages of a run that failed while others went on; absent where none did."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""All weights, or what names the files that hold them, with their hashes."""
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
MODEL = ("config.json", "xlt.json", WEIGHTS, INDEX, *SHARDS, "tokenizer.json", "tokenizer_config.json", STAMP)
"""What a stage's model is read from."""
SHOWN = (SCORES, ITEMS, "trace.json", "decision.json", "picks.json")
"""What a summary and a report show of a stage."""
CARD = "README.md"
"""A model card, written by the report; no part of what a stage is."""
JOIN = "+"


def has_room(name: str) -> bool:
    """Whether a room of the engine that a run works without is there (docs/design.md, "The core")."""
    return find_spec(f"{__package__.rpartition('.')[0]}.{name}") is not None


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
