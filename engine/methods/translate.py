"""Translate-train: fine-tuning on the source and its translations, for each target and for all together."""

from __future__ import annotations

from typing import Any

from ..plan import Stage
from ..plan.stage import start_inputs
from ..recipe.config import RunConfig
from ..stages.kind import register_planner


def translate_plan(config: RunConfig, seed: int, stages: tuple[Stage, ...]) -> list[Stage]:
    """Fine-tuning on the source and its translations, or on these alone: for each target, and for all together."""
    table = config.finetune
    each = [(t.language,) for t in config.targets if t.translated_train is not None]
    training, plan = config.training_of(config.finetune), []
    for targets in [*each, *([()] if each and table.translated_all else [])]:
        name, order, action = "translate-train", 27, "fine-tune, translations"
        if not targets:
            name, order, action = "translate-train-all", 28, "fine-tune, all translations"
        rest: dict[str, Any] = {"inputs": start_inputs(config, seed), "options": {"translated": True}}
        rest |= {"order": order, "action": action}
        plan.append(
            Stage("/".join((f"seed-{seed}", *targets, name)), "finetune", name, name, seed, training, targets, **rest)
        )
    return plan


register_planner(translate_plan)
