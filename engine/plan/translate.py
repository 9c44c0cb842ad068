"""The stages of translate-train, and what sources, translations and pairs add to the settings of others."""

from __future__ import annotations

from typing import Any

from ..recipe.config import RunConfig
from .parts import Stage

ALONE_LEAVES_OUT = ("code_switch", "source_mix")
"""Settings of fine-tuning that are about the source, and so not of translations alone."""


def source_mix_settings(config: RunConfig) -> dict[str, Any]:
    """How the sources are drawn in fine-tuning, as arguments of `epoch_counts`; empty where each once an epoch."""
    table = config.finetune
    if table.source_mix == "weights":
        return {"source_mix": {"mode": "weights", "weights": [s.weight for s in config.all_sources]}}
    if table.source_mix == "temperature":
        return {"source_mix": {"mode": "temperature", "temperature": table.source_temperature}}
    return {}


def tlm_settings(config: RunConfig, target: str) -> dict[str, Any]:
    """What decides how the sentence pairs of a target are read in BTF; empty where it has none."""
    if not config.target(target).pairs:
        return {}
    return {"tlm": {"share": config.btf.pairs_share, "positions": config.btf.pair_positions}}


def translate_plan(config: RunConfig, seed: int, start: dict[str, str], finetune: dict[str, Any]) -> list[Stage]:
    """Fine-tuning on the source and its translations, or on these alone: for each target, and for all together.

    Args:
        start: the inputs of a stage that starts from the recipe's encoder, as the baseline does.
        finetune: the settings of the baseline.
    """
    table = config.finetune
    settings = finetune | {"translated": table.translated}
    if table.translated == "only":
        settings = {key: value for key, value in settings.items() if key not in ALONE_LEAVES_OUT}
    targets: list[str | None] = [t.language for t in config.targets if t.translated_train is not None]
    stages = []
    for target in [*targets, *([None] if targets and table.translated_all else [])]:
        root, name, order, action = f"seed-{seed}/{target}", "translate-train", 27, "fine-tune, translations"
        if target is None:
            root, name, order, action = f"seed-{seed}", "translate-train-all", 28, "fine-tune, all translations"
        stages.append(
            Stage(
                f"{root}/{name}",
                "finetune",
                name,
                name,
                seed,
                table,
                target,
                inputs=start,
                settings=settings,
                order=order,
                action=action,
            )
        )
    return stages
