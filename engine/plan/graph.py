"""The stage graph: what a recipe asks for, as a list in the order in which it can run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ... import ConfigError
from ..recipe.config import RunConfig, StageConfig
from .cloze import cloze_plan
from .parts import (
    NUMERICS,
    Stage,
    common_settings,
    few_shot_settings,
    induce_settings,
    mlm_settings,
    numeric_settings,
    table_settings,
)
from .teachers import with_teachers
from .transfer import contrastive_plan, cotrain_plan
from .translate import source_mix_settings, tlm_settings, translate_plan


def make_plan(config: RunConfig, seeds: tuple[int, ...] | None = None) -> list[Stage]:
    """All stages of a recipe; every stage comes after its inputs."""
    stages: list[Stage] = []
    seeds = config.seeds if seeds is None else seeds
    for seed in seeds:
        stages += _seed_plan(config, seed)
    stages = with_teachers(config, stages, seeds)
    for planner in _PLANNERS:
        stages += planner(config, tuple(stages))
    return stages


Planner = Callable[[RunConfig, tuple[Stage, ...]], list[Stage]]
_PLANNERS: list[Planner] = []


def register_planner(planner: Planner) -> None:
    """Has every plan end with the stages that `planner` makes of a recipe and of the stages that there are."""
    if planner not in _PLANNERS:
        _PLANNERS.append(planner)


def _seed_plan(config: RunConfig, seed: int) -> list[Stage]:
    root = f"seed-{seed}"
    common, numeric = common_settings(config), numeric_settings(config)
    stages: list[Stage] = []
    start: dict[str, str] = {}
    if config.model.new is not None:
        settings = numeric | {"new": asdict(config.model.new), "pretrain": table_settings(config.pretrain)}
        stages.append(
            Stage(
                f"{root}/pretrain",
                "pretrain",
                "pretrain",
                None,
                seed,
                config.pretrain,
                settings=settings,
                order=0,
                action="pre-training",
            )
        )
        start = {"base": f"{root}/pretrain"}
    finetune = common | {"finetune": table_settings(config.finetune)}
    if config.finetune.head == "voters":
        finetune |= {"voters": config.selftrain.voters, "widths": config.selftrain.widths}
    if config.augment.code_switch.on:
        table = config.augment.code_switch
        finetune |= {"code_switch": {"rate": table.rate, "draw": table.draw}}
    finetune |= source_mix_settings(config)
    if config.arms.baseline or not config.btf.on:
        stages += cloze_plan(config, seed, None, start)
        stages.append(
            Stage(
                f"{root}/baseline",
                "finetune",
                "zero-shot",
                "baseline",
                seed,
                config.finetune,
                inputs=start,
                settings=finetune,
                order=10,
                action="fine-tune, no BTF",
            )
        )
    stages += contrastive_plan(config, seed, start) + translate_plan(config, seed, start, finetune)
    for target in config.targets:
        stages += _target_plan(config, seed, target.language, start, common, finetune)
    return stages + cotrain_plan(config, seed, start)


def _target_plan(
    config: RunConfig, seed: int, target: str, start: dict[str, str], common: dict[str, Any], finetune: dict[str, Any]
) -> list[Stage]:
    root = f"seed-{seed}/{target}"
    stages: list[Stage] = []
    names: dict[str, Any]

    def add(folder: str, kind: str, name: str, arm: str | None, **rest: Any) -> str:
        table = config.btf if kind == "btf" else config.finetune
        stages.append(Stage(f"{root}/{folder}", kind, name, arm, seed, table, target, **rest))
        return stages[-1].id

    btf = numeric_settings(config) | {"btf": table_settings(config.btf)}
    finetune = finetune | (mixed := induce_settings(config))
    base, task = start, btf | {"text": "task"} | tlm_settings(config, target)
    if config.btf.on:
        base = {"base": add("btf", "btf", "btf-mlm", None, inputs=start, settings=task, order=30, action="BTF")}
        stages += cloze_plan(config, seed, target, base)
        names = {"label": "BTF", "action": "fine-tune"}
        teacher = add("finetune", "finetune", "btf", "btf", inputs=base, settings=finetune, order=31, **names)
    elif mixed:
        action = "fine-tune, mixed words"
        teacher = add("mixed", "finetune", "mixed", "mixed", inputs=base, settings=finetune, order=31, action=action)
    else:
        teacher = f"seed-{seed}/baseline"
    if few := few_shot_settings(config, target):
        names = {"order": 32, "action": "fine-tune, few-shot"}
        settings = finetune | {"few_shot": few}
        teacher = add("fewshot", "finetune", "few-shot", "few-shot", inputs=base, settings=settings, **names)
    if config.selftrain.on:
        stages += _rounds(config, seed, target, base, teacher, common)
    if config.arms.control:
        general, names = btf | {"text": "general"}, {"order": 20, "action": "BTF, control"}
        control = {"base": add("control-btf", "btf", "control-btf", None, inputs=start, settings=general, **names)}
        names = {"order": 21, "action": "fine-tune, control"}
        add("control", "finetune", "control", "control", inputs=control, settings=finetune, **names)
    return stages


def _rounds(
    config: RunConfig, seed: int, target: str, base: dict[str, str], teacher: str, common: dict[str, Any]
) -> list[Stage]:
    """Soft and hard stages in turn. The teacher of a round is the last student of the round before."""
    table = config.selftrain
    shared = {"voters": table.voters, "widths": table.widths, "cap": table.cap} | mlm_settings(config)
    if config.inference_tokens:
        shared["inference_tokens"] = config.inference_tokens
    filters = {name: getattr(table, name) for name in ("target_filter", "source_filter", "abandoned", "accept")}
    filters["alpha"] = asdict(table.alpha)
    stages: list[Stage] = []
    number, student, previous = 0, "", ""
    for kind in table.sequence:
        if kind == "soft" or not student:
            number += 1
        stage_id = f"seed-{seed}/{target}/{kind}{number}"
        inputs = dict(base) | {"teacher": teacher}
        if previous:
            inputs["previous"] = previous
        if table.restore == "finetuned":
            inputs["start"] = stages[0].inputs["teacher"] if stages else teacher
        if kind == "soft":
            student = stage_id
            settings = common | shared | {"soft": table_settings(table.soft)}
            optimiser: StageConfig = table.soft
        else:
            if student:
                inputs["student"] = student
            settings = common | shared | filters | {"hard": table_settings(table.hard)}
            optimiser, student, previous = table.hard, "", stage_id
        name = f"{kind}{number}"
        stages.append(
            Stage(
                stage_id,
                "soft" if kind == "soft" else "hard",
                name,
                "selftrain",
                seed,
                optimiser,
                target,
                number,
                inputs,
                settings,
                order=100 * number + 50 * (kind == "hard"),
                label=f"{kind} {number}",
            )
        )
        teacher = stage_id
    return stages


def chosen_stages(
    config: RunConfig, seeds: tuple[int, ...] | None = None, stage: str = "all", targets: Sequence[str] = ()
) -> list[Stage]:
    """What a command is asked to make of a recipe.

    Args:
        seeds: instead of the recipe's.
        stage: as `select` takes it.
        targets: languages; the stages of other targets are left out, and those that all share stay, such as the
            zero-shot model. All when empty.

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
    kinds: set[str] = {
        "pretrain": {"pretrain"},
        "btf": {"btf"},
        "finetune": {"finetune"},
        "selftrain": {"finetune", "soft", "hard"},
        "cotrain": {"cotrain"},
        "contrastive": {"align", "semantic"},
        "evaluate": {"cloze", "finetune", "soft", "hard", "cotrain", "align", "semantic"},
        "all": {str(s.kind) for s in plan},
    }.get(stage, set())
    asked = [s for s in plan if not targets or s.target is None or s.target in targets]
    wanted = {s.id for s in asked if s.kind in kinds or s.id == stage}
    if not wanted or (stage == "btf" and not any(s.kind == "btf" for s in asked)):
        of = f" of {', '.join(targets)}" if targets else ""
        raise ConfigError(f"the recipe has no stage {stage!r}{of}; see --dry-run for the ones it has")
    by_id = {s.id: s for s in plan}
    queue = list(wanted)
    while queue:
        for needed in by_id[queue.pop()].inputs.values():
            if needed not in wanted:
                wanted.add(needed)
                queue.append(needed)
    return [s for s in plan if s.id in wanted]


def fingerprint(stage: Stage, inputs: dict[str, str], data: dict[str, str]) -> dict[str, Any]:
    """What decides a stage's result, as a flat table; equal tables give equal weights on one machine.

    Args:
        inputs: role -> digest of the input's own fingerprint (or of the model folder the recipe names).
        data: role -> content hash of each store it reads.
    """
    flat: dict[str, Any] = {"numerics": NUMERICS, "kind": stage.kind, "seed": stage.seed}
    flat |= {f"input.{k}": v for k, v in sorted(inputs.items())}
    flat |= {f"data.{k}": v for k, v in sorted(data.items())}
    flat |= _flatten("", stage.settings)
    return json.loads(json.dumps(flat, default=str))  # type: ignore[no-any-return]


def digest(table: dict[str, Any]) -> str:
    """A short name of a fingerprint."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def _flatten(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in _flatten(f"{prefix}{name}.", inner).items()}
    return {prefix[:-1]: str(value) if isinstance(value, Path) else value}
