"""What a result used that the method does without: the marks of every row of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..plan import Stage
from ..stages.context import Context
from ..storage.files import read_json
from ..storage.names import FINISHED

MARKS = ("uses_parallel_data", "uses_target_labels", "uses_dictionary")


def marks(context: Context, stage: Stage, notes: Mapping[str, Any]) -> dict[str, bool]:
    """The marks of a stage: its own, and those of every stage or folder that it learns from or starts from.

    Args:
        notes: what the stage says of itself for `stage.json`.
    """
    found = {mark: bool(notes.get(mark, False)) for mark in MARKS}
    found["uses_parallel_data"] |= context.config.uses_parallel_data
    folders = [context.folder(other) for other in stage.inputs.values()]
    folders += context.config.selftrain.soft.teacher_folders if stage.kind == "soft" else ()
    for folder in folders:
        record = read_json(folder / FINISHED, None)
        found = {mark: used or bool(record.get(mark, False)) for mark, used in found.items()}
    return found
