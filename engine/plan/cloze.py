"""The rows of cloze prompts without any training: a masked language model asked as it is."""

from __future__ import annotations

from ..recipe.config import RunConfig
from .parts import Stage, common_settings


def cloze_plan(config: RunConfig, seed: int, target: str | None, inputs: dict[str, str]) -> list[Stage]:
    """The stage that scores an input's own masked-LM head; none where heads are others.

    Args:
        target: language whose BTF model is the input; None for the encoder that everything starts from.
    """
    if config.finetune.head != "cloze":
        return []
    root, name, order, label = f"seed-{seed}", "cloze", 9, "cloze, no training"
    if target is not None:
        root, name, order, label = f"{root}/{target}", "cloze-btf", 33, "cloze after BTF, no training"
    return [
        Stage(
            f"{root}/{name}",
            "cloze",
            name,
            "cloze",
            seed,
            config.finetune,
            target,
            inputs=inputs,
            settings=common_settings(config),
            order=order,
            label=label,
        )
    ]
