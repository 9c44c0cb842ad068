"""The stage graph: what a recipe asks for, as a list in the order in which it can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ... import ConfigError
from ..plan import Stage
from ..plan.stage import start_inputs
from ..recipe.config import RunConfig
from ..stages.kind import added_to, kinds_in, planners, with_settings
from ..storage.names import pair_name
from .kinds import load_plugins


def make_plan(config: RunConfig, seeds: tuple[int, ...] | None = None) -> list[Stage]:
    """All stages of a recipe, seed by seed: the core's, then those of every method; each comes after its inputs."""
    load_plugins()
    stages: list[Stage] = []
    seeds = config.seeds if seeds is None else seeds
    for seed in seeds:
        core = _shared_plan(config, seed)
        for targets in config.pairs:
            core += _pair_plan(config, seed, targets)
        stages += core
        for planner in planners():
            stages += planner(config, seed, tuple(core))
    return [with_settings(config, stage) for stage in _with_teachers(config, stages, seeds)]


def _shared_plan(config: RunConfig, seed: int) -> list[Stage]:
    """What serves all targets: pre-training, and the zero-shot model."""
    stages, root, start = list[Stage](), f"seed-{seed}", start_inputs(config, seed)
    fitting, finetuning = config.training_of(config.pretrain), config.training_of(config.finetune)
    if config.pretrains:
        names: dict[str, Any] = {"order": 0, "action": "pre-training"}
        stages.append(Stage(f"{root}/pretrain", "pretrain", "pretrain", None, seed, fitting, **names))
    if config.arms.baseline or not config.btf.on:
        names = {"order": 10, "action": "fine-tune, no BTF", "inputs": start}
        stages.append(Stage(f"{root}/baseline", "finetune", "zero-shot", "baseline", seed, finetuning, **names))
    return stages


def _pair_plan(config: RunConfig, seed: int, targets: tuple[str, ...]) -> list[Stage]:
    """What is made for one target, or several together: BTF, its teacher, rounds of self-training, the control arm."""
    stages, start, mixed = list[Stage](), start_inputs(config, seed), added_to(config, "finetune")

    def btf(folder: str, name: str, text: str, **names: Any) -> dict[str, str]:
        where, training = f"seed-{seed}/{pair_name(targets)}/{folder}", config.training_of(config.btf)
        names |= {"inputs": start, "options": {"text": text}}
        stages.append(Stage(where, "btf", name, None, seed, training, targets, **names))
        return {"base": where}

    def finetune(folder: str, name: str, inputs: dict[str, str], **names: Any) -> str:
        where, training = f"seed-{seed}/{pair_name(targets)}/{folder}", config.training_of(config.finetune)
        names |= {"inputs": inputs, "additions": mixed}
        stages.append(Stage(where, "finetune", name, name, seed, training, targets, **names))
        return where

    base = start
    if config.btf.on:
        base = btf("btf", "btf-mlm", "task", order=30, action="BTF")
        teacher = finetune("finetune", "btf", base, order=31, label="BTF", action="fine-tune")
    elif mixed:
        teacher = finetune("mixed", "mixed", base, order=31, action="fine-tune, mixed words")
    else:
        teacher = f"seed-{seed}/baseline"
    if any(table.labelled is not None for table in config.targets_of(targets)):
        few = {"few_shot": True}
        teacher = finetune("fewshot", "few-shot", base, order=32, action="fine-tune, few-shot", options=few)
    if config.selftrain.on:
        stages += _rounds(config, seed, targets, base, teacher)
    if config.arms.control:
        general = btf("control-btf", "control-btf", "general", order=20, action="BTF, control")
        finetune("control", "control", general, order=21, action="fine-tune, control")
    return stages


def _rounds(config: RunConfig, seed: int, targets: tuple[str, ...], base: dict[str, str], teacher: str) -> list[Stage]:
    """Soft and hard stages in turn. The teacher of a round is the last student of the round before."""
    table, stages = config.selftrain, list[Stage]()
    number, student, previous = 0, "", ""
    for kind in table.sequence:
        if kind == "soft" or not student:
            number += 1
        name, inputs = f"{kind}{number}", dict(base) | {"teacher": teacher}
        if previous:
            inputs["previous"] = previous
        if table.restore == "finetuned":
            inputs["start"] = stages[0].inputs["teacher"] if stages else teacher
        teacher = f"seed-{seed}/{pair_name(targets)}/{name}"
        if kind == "soft":
            student = teacher
        else:
            inputs |= {"student": student} if student else {}
            student, previous = "", teacher
        training = config.training_of(table.soft if kind == "soft" else table.hard)
        names: dict[str, Any] = {"order": 100 * number + 50 * (kind == "hard"), "label": f"{kind} {number}"}
        names["additions"] = added_to(config, kind)
        stages.append(Stage(teacher, kind, name, "selftrain", seed, training, targets, number, inputs, **names))
    return stages


def chosen_stages(
    config: RunConfig, seeds: tuple[int, ...] | None = None, stage: str = "all", targets: Sequence[str] = ()
) -> list[Stage]:
    """What a command is asked to make of a recipe, with everything that it needs.

    Args:
        seeds: instead of the recipe's.
        stage: what `--stage` names, or the id of one.
        targets: languages; the stages that serve none of them are left out. All when empty.

    Raises:
        ConfigError: the recipe has no such stage, or no such target.
    """
    known = [target.language for target in config.targets]
    for target in targets:
        if target not in known:
            raise ConfigError(f"the recipe has no target {target!r}; its targets are {', '.join(known)}")
    plan = make_plan(config, seeds)
    kinds = {s.kind for s in plan} if stage == "all" else kinds_in(stage)
    asked = [s for s in plan if not targets or not s.targets or set(s.targets) & set(targets)]
    chosen = {s.id for s in asked if s.kind in kinds or s.id == stage}
    if not chosen or (stage == "btf" and not any(s.kind == "btf" for s in asked)):
        of = f" of {', '.join(targets)}" if targets else ""
        raise ConfigError(f"the recipe has no stage {stage!r}{of}; see --dry-run for the ones it has")
    for s in reversed(plan):  # each comes after its inputs
        if s.id in chosen:
            chosen.update(s.inputs.values())
    return [s for s in plan if s.id in chosen]


def _with_teachers(config: RunConfig, stages: list[Stage], seeds: Sequence[int]) -> list[Stage]:
    """The stages, those of the soft kind with the same teacher of every other seed as inputs, in an order that can run.

    A round needs the round before it in all seeds, never its own: the graph has no cycle, and no stage is added. The
    input "teacher" is that of the stage's own seed, "teacher-<seed>" that of another one.
    """
    if config.selftrain.soft.teachers == "one":
        return stages
    changed = []
    for stage in stages:
        if stage.kind == "soft":
            root, teacher = f"seed-{stage.seed}/", stage.inputs["teacher"]
            others = {
                f"teacher-{seed}": f"seed-{seed}/{teacher.removeprefix(root)}" for seed in seeds if seed != stage.seed
            }
            options = stage.options | {"teacher_seeds": list(seeds)}
            stage = replace(stage, options=options, inputs=stage.inputs | others)
        changed.append(stage)
    by_id, placed = {stage.id: stage for stage in changed}, dict[str, Stage]()

    def place(stage: Stage) -> None:
        for needed in stage.inputs.values():
            if needed not in placed:
                place(by_id[needed])
        placed.setdefault(stage.id, stage)

    for stage in changed:
        place(stage)
    return list(placed.values())
