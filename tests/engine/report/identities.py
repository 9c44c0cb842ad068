"""Who the stages of run folders that are written by hand are, as the plan of a recipe would say."""

from typing import Any

KEYS = ("arm", "stage", "kind", "order", "label", "action", "round")
STAGES = {
    "pretrain": (None, "pretrain", "pretrain", 0, "pretrain", "pre-training", 0),
    "baseline": ("baseline", "zero-shot", "finetune", 10, "zero-shot", "fine-tune, no BTF", 0),
    "control-btf": (None, "control-btf", "btf", 20, "control-btf", "BTF, control", 0),
    "control": ("control", "control", "finetune", 21, "control", "fine-tune, control", 0),
    "btf": (None, "btf-mlm", "btf", 30, "btf-mlm", "BTF", 0),
    "finetune": ("btf", "btf", "finetune", 31, "BTF", "fine-tune", 0),
    "soft1": ("selftrain", "soft1", "soft", 100, "soft 1", "soft 1", 1),
    "hard1": ("selftrain", "hard1", "hard", 150, "hard 1", "hard 1", 1),
    "soft2": ("selftrain", "soft2", "soft", 200, "soft 2", "soft 2", 2),
    "hard2": ("selftrain", "hard2", "hard", 250, "hard 2", "hard 2", 2),
}


def identity(folder: str) -> dict[str, Any]:
    """What `stage.json` in a folder of this name says of the stage."""
    return dict(zip(KEYS, STAGES[folder], strict=True))
