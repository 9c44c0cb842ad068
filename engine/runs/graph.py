"""The stage graph: what a recipe asks for, as a list in the order in which it can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from ... import ConfigError
from ..plan import Stage
from ..plan.stage import (
    common_settings,
    few_shot_settings,
    finetune_settings,
    numeric_settings,
    stage_settings,
    start_inputs,
    tlm_settings,
)
from ..recipe.config import RunConfig
from ..stages.kind import added_settings, kinds_in, planners
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
    return _with_teachers(config, stages, seeds)


def _shared_plan(config: RunConfig, seed: int) -> list[Stage]:
    """What serves all targets: pre-training, and the zero-shot model."""
    stages, root = list[Stage](), f"seed-{seed}"
    if config.pretrains:
        settings = numeric_settings(config) | stage_settings(config, "pretrain", config.pretrain)
        names: dict[str, Any] = {"order": 0, "action": "pre-training"}
        names["settings"] = settings | ({} if config.model.new is None else {"new": asdict(config.model.new)})
        training = config.training_of(config.pretrain)
        stages.append(Stage(f"{root}/pretrain", "pretrain", "pretrain", None, seed, training, **names))
    if config.arms.baseline or not config.btf.on:
        names = {"order": 10, "action": "fine-tune, no BTF", "settings": finetune_settings(config)}
        names["inputs"] = start_inputs(config, seed)
        training = config.training_of(config.finetune)
        stages.append(Stage(f"{root}/baseline", "finetune", "zero-shot", "baseline", seed, training, **names))
    return stages


def _pair_plan(config: RunConfig, seed: int, targets: tuple[str, ...]) -> list[Stage]:
    """What is made for one target, or several together: BTF, its teacher, rounds of self-training, the control arm."""
    root = f"seed-{seed}/{pair_name(targets)}"
    stages: list[Stage] = []
    names: dict[str, Any]

    def add(folder: str, kind: str, name: str, arm: str | None, **rest: Any) -> str:
        training = config.training_of(config.btf if kind == "btf" else config.finetune)
        stages.append(Stage(f"{root}/{folder}", kind, name, arm, seed, training, targets, **rest))
        return stages[-1].id

    btf = numeric_settings(config) | stage_settings(config, "btf", config.btf)
    finetune = finetune_settings(config) | (mixed := added_settings(config, "finetune"))
    start = start_inputs(config, seed)
    base, task = start, btf | {"text": "task"} | tlm_settings(config, targets)
    if config.btf.on:
        base = {"base": add("btf", "btf", "btf-mlm", None, inputs=start, settings=task, order=30, action="BTF")}
        names = {"label": "BTF", "action": "fine-tune"}
        teacher = add("finetune", "finetune", "btf", "btf", inputs=base, settings=finetune, order=31, **names)
    elif mixed:
        action = "fine-tune, mixed words"
        teacher = add("mixed", "finetune", "mixed", "mixed", inputs=base, settings=finetune, order=31, action=action)
    else:
        teacher = f"seed-{seed}/baseline"
    if few := few_shot_settings(config, targets):
        names = {"order": 32, "action": "fine-tune, few-shot"}
        settings = finetune | {"few_shot": few}
        teacher = add("fewshot", "finetune", "few-shot", "few-shot", inputs=base, settings=settings, **names)
    if config.selftrain.on:
        stages += _rounds(config, seed, targets, base, teacher)
    if config.arms.control:
        general, names = btf | {"text": "general"}, {"order": 20, "action": "BTF, control"}
        control = {"base": add("control-btf", "btf", "control-btf", None, inputs=start, settings=general, **names)}
        names = {"order": 21, "action": "fine-tune, control"}
        add("control", "finetune", "control", "control", inputs=control, settings=finetune, **names)
    return stages


def _rounds(config: RunConfig, seed: int, targets: tuple[str, ...], base: dict[str, str], teacher: str) -> list[Stage]:
    """Soft and hard stages in turn. The teacher of a round is the last student of the round before."""
    table = config.selftrain
    shared = common_settings(config) | {"voters": table.voters, "widths": table.widths, "cap": table.cap}
    if config.inference_tokens:
        shared["inference_tokens"] = config.inference_tokens
    filters = {name: getattr(table, name) for name in ("target_filter", "source_filter", "abandoned", "accept")}
    filters["alpha"] = asdict(table.alpha)
    stages: list[Stage] = []
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
        stage_table = table.soft if kind == "soft" else table.hard
        settings = shared | added_settings(config, kind) | stage_settings(config, kind, stage_table)
        if kind == "soft":
            student = teacher
        else:
            settings |= filters
            inputs |= {"student": student} if student else {}
            student, previous = "", teacher
        training = config.training_of(stage_table)
        names: dict[str, Any] = {"order": 100 * number + 50 * (kind == "hard"), "label": f"{kind} {number}"}
        stages.append(
            Stage(teacher, kind, name, "selftrain", seed, training, targets, number, inputs, settings, **names)
        )
    return stages


def chosen_stages(
    config: RunConfig, seeds: tuple[int, ...] | None = None, stage: str = "all", targets: Sequence[str] = ()
) -> list[Stage]:
    """What a command is asked to make of a recipe.

    Args:
        seeds: instead of the recipe's.
        stage: as `select` takes it.
        targets: languages; the stages that serve none of them are left out. All when empty.

    Raises:
        ConfigError: the recipe has no such stage, or no such target.
    """
    known = [target.language for target in config.targets]
    for target in targets:
        if target not in known:
            raise ConfigError(f"the recipe has no target {target!r}; its targets are {', '.join(known)}")
    return select(make_plan(config, seeds), stage, targets)


def select(plan: list[Stage], stage: str, targets: Sequence[str] = ()) -> list[Stage]:
    """The stages that `--stage` names, or the one with that id, with everything they need; of some targets or of all.

    Raises:
        ConfigError: the recipe has no such stage.
    """
    kinds = {s.kind for s in plan} if stage == "all" else kinds_in(stage)
    asked = [s for s in plan if not targets or not s.targets or set(s.targets) & set(targets)]
    chosen = {s.id for s in asked if s.kind in kinds or s.id == stage}
    if not chosen or (stage == "btf" and not any(s.kind == "btf" for s in asked)):
        of = f" of {', '.join(targets)}" if targets else ""
        raise ConfigError(f"the recipe has no stage {stage!r}{of}; see --dry-run for the ones it has")
    by_id = {s.id: s for s in plan}
    queue = list(chosen)
    while queue:
        for needed in by_id[queue.pop()].inputs.values():
            if needed not in chosen:
                chosen.add(needed)
                queue.append(needed)
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
            settings = stage.settings | {"teacher_seeds": list(seeds)}
            stage = replace(stage, settings=settings, inputs=stage.inputs | others)
        changed.append(stage)
    return in_order(changed)


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
