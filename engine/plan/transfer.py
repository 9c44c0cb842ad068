"""The stages of co-training, of self-training by picks, and of contrastive adaptation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..recipe.config import RunConfig
from .parts import Stage, common_settings, numeric_settings, table_settings

_PICKS = ("threshold", "parts", "cap")
_ELSEWHERE = ("on", "modes", "iterations", "pool", "start", "restart", "model", "second_uses_parallel_data", *_PICKS)
"""Keys of [cotrain] that do not decide what a stage trains, or are not for all stages."""
OTHER = {"a": "b", "b": "a"}
_ORDER = {"co-a": 2000, "co-b": 3000, "self-a": 4000, "self-b": 5000}


def cotrain_plan(config: RunConfig, seed: int, start: dict[str, str]) -> list[Stage]:
    """The iterations of every mode, after those of the second encoder's own stages.

    The first iteration has seen the source alone: it serves all targets, and self-training, where both are asked for.
    What starts from adapted encoders has the last stage of the adaptation as its base, which fingerprints hold.

    Args:
        start: the inputs of a stage that starts from the first encoder.
    """
    table = config.cotrain
    if not table.on:
        return []
    stages: list[Stage] = []
    if table.start == "adapted":
        start = {"base": contrastive_plan(config, seed, start)[-1].id}
    bases = {"a": start, "b": start}
    if table.model is not None:
        stages += second_pretrain(config, seed)
        bases["b"] = {"base": stages[0].id} if stages else {}
    targets = [None] if table.pool == "all" else [target.language for target in config.targets]
    for mode in table.modes:
        letters = "ab" if mode == "co" else mode[-1]
        name = mode.partition("-")[0]
        method = "co" if "co" in table.modes else name
        made = {stage.id for stage in stages}
        begun = [_iteration(config, seed, method, 1, x, None, bases[x]) for x in letters]
        stages += [stage for stage in begun if stage.id not in made]
        first = {x: stage.id for x, stage in zip(letters, begun, strict=True)}
        for target in targets:
            stages += _later(config, seed, name, target, first, bases)
    return stages


def second_pretrain(config: RunConfig, seed: int) -> list[Stage]:
    """Pre-training of a second encoder that is made from scratch."""
    second = config.cotrain.model
    if second is None or second.new is None:
        return []
    settings = numeric_settings(config) | {"new": asdict(second.new), "pretrain": table_settings(config.pretrain)}
    settings["model"] = "b"
    return [
        Stage(
            f"seed-{seed}/pretrain-b",
            "pretrain",
            "pretrain-b",
            None,
            seed,
            config.pretrain,
            settings=settings,
            order=1990,
            action="pre-training, model b",
        )
    ]


def _later(
    config: RunConfig,
    seed: int,
    name: str,
    target: str | None,
    first: dict[str, str],
    bases: dict[str, dict[str, str]],
) -> list[Stage]:
    """The iterations from the second on, of one pool: each learns what the other one, or itself, has picked."""
    stages: list[Stage] = []
    newest = first
    for number in range(2, config.cotrain.iterations + 1):
        made = {}
        for letter in first:
            teacher = newest.get(OTHER[letter], newest[letter])
            inputs = bases[letter] | {"teacher": teacher, "previous": newest[letter]}
            stage = _iteration(config, seed, name, number, letter, target, inputs)
            stages.append(stage)
            made[letter] = stage.id
        newest = made
    return stages


def _iteration(
    config: RunConfig, seed: int, method: str, number: int, letter: str, target: str | None, inputs: dict[str, str]
) -> Stage:
    table, arm, name = config.cotrain, f"{method}-{letter}", f"{method}{number}{letter}"
    settings: dict[str, Any] = common_settings(config)
    settings |= {"cotrain": {k: v for k, v in table_settings(table).items() if k not in _ELSEWHERE}, "model": letter}
    if number > 1:
        settings |= {"picks": {k: getattr(table, k) for k in _PICKS}, "restart": table.restart}
    return Stage(
        f"seed-{seed}/{name}" if target is None else f"seed-{seed}/{target}/{name}",
        "cotrain",
        name,
        arm,
        seed,
        table,
        target,
        number,
        inputs,
        settings,
        order=_ORDER[arm] + number,
        label=f"{method}-train {number} {letter}",
    )


def contrastive_plan(config: RunConfig, seed: int, start: dict[str, str]) -> list[Stage]:
    """Label alignment on the source and its translations, then semantic alignment on these; for all targets at once."""
    table = config.contrastive
    if not table.on:
        return []
    common, where = common_settings(config), f"seed-{seed}"
    left_out = ("on", "translations", "originals", "semantic")
    settings = common | {"contrastive": {k: v for k, v in table_settings(table).items() if k not in left_out}}
    names: dict[str, Any] = {"order": 25, "label": "label alignment"}
    stages = [Stage(f"{where}/la", "align", "la", "contrastive", seed, table, inputs=start, settings=settings, **names)]
    if table.has_semantic:
        semantic = {k: v for k, v in table_settings(table.semantic).items() if k != "on"}
        settings = common | {"semantic": semantic, "temperature": table.temperature}
        inputs = {"start": f"{where}/la"}
        stages.append(
            Stage(
                f"{where}/sa",
                "semantic",
                "sa",
                "contrastive",
                seed,
                table.semantic,
                inputs=inputs,
                settings=settings,
                order=26,
                label="semantic alignment",
            )
        )
    return stages
