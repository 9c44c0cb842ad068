"""How the result file of each benchmark becomes the tables of the pages (tables.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Json = dict[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]
STEPS = {"btf": "BTF step", "ner": "NER fine-tuning step", "teacher": "teacher inference"}
OURS, THEIRS = "xlt-engine", "transformers"


def _faster(task: Json, order: str) -> Json:
    found: Json = task["times_faster"][f"{THEIRS}, {order}"]
    return found


def speed(mbert: Json) -> Table:
    """Times faster than transformers, and peak memory."""
    names = {"btf": "BTF, embeddings and 3 layers frozen", "ner": "fine-tuning, named entities"} | {
        "teacher": STEPS["teacher"]
    }
    header = ["mBERT shape, batch 32", "against dynamic padding, random order", "against length-sorted batches"]
    lines = []
    for key, name in names.items():
        task = mbert["tasks"][key]
        ratios = [_faster(task, order)["p50"] for order in ("random", "sorted")]
        ours, theirs = (
            " and ".join(
                f"{task['memory_mib'][f'{side}, {order}']['peak'] / 1024:.1f}" for order in ("random", "sorted")
            )
            for side in (OURS, THEIRS)
        )
        lines.append([name, *(f"{ratio:.2f}x" for ratio in ratios), ours, theirs])
    return [*header, "peak memory, GiB (random and sorted)", "of transformers"], lines


Maker = Callable[..., Table]
TABLES: dict[str, tuple[tuple[str, ...], Maker]] = {
    "speed": (("step-cpu-mbert",), speed),
}
"""Name of a table -> its files, and the function of their contents that makes it."""
