"""The inputs of a student that learns from the teachers of all seeds, and the order of stages that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..recipe.config import RunConfig
from .parts import Stage


def with_teachers(config: RunConfig, stages: list[Stage], seeds: Sequence[int]) -> list[Stage]:
    """The stages, those of the soft kind with the same teacher of every other seed as inputs, in an order that can run.

    A round needs the round before it in all seeds, never its own: the graph has no cycle, and no stage is added. The
    input "teacher" is that of the stage's own seed, "teacher-<seed>" that of another one.
    """
    if config.selftrain.soft.teachers == "one":
        return stages
    found = []
    for stage in stages:
        if stage.kind == "soft":
            root, own = f"seed-{stage.seed}/", stage.inputs["teacher"]
            others = {
                f"teacher-{seed}": f"seed-{seed}/{own.removeprefix(root)}" for seed in seeds if seed != stage.seed
            }
            settings = stage.settings | {"teacher_seeds": list(seeds)}
            stage = replace(stage, settings=settings, inputs=stage.inputs | others)
        found.append(stage)
    return in_order(found)


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """The same stages, each after its inputs, and otherwise as they were."""
    by_id, placed = {stage.id: stage for stage in stages}, dict[str, Stage]()

    def place(stage: Stage) -> None:
        for needed in stage.inputs.values():
            if needed not in placed:
                place(by_id[needed])
        placed[stage.id] = stage

    for stage in stages:
        if stage.id not in placed:
            place(stage)
    return list(placed.values())
