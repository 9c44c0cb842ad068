"""A node of the stage graph, and what of a recipe decides its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..recipe.config import RunConfig, StageConfig
from ..recipe.config.prompt import prompt_of

NUMERICS = 3
"""Raised whenever a change makes an equal recipe end in other weights, so that old results are not reused."""


@dataclass(frozen=True)
class Stage:
    """One node of the graph; its result is the model folder `<run>/<id>`.

    Attributes:
        id: path below the run folder, such as "seed-0/de/soft1".
        kind: "pretrain", "btf", "finetune", "soft", "hard", "cotrain", "align", "semantic", "cloze", or one that is
            registered from outside.
        name: short name in summaries, such as "soft1".
        arm: column of experiments that its scores belong to, such as "baseline", "btf" or "selftrain"; None where it
            is never scored.
        order: position among the stages of a run, equal for all seeds and targets (docs/summary-schema.md).
        label: what tables of scores call it, by the model that it leaves; its name where empty.
        action: what pictures of losses and seconds call it, by what it does; its label where empty.
        target: language whose text it may see; None where it serves all targets.
        round: round of self-training or iteration of co-training, from 1; 0 elsewhere.
        inputs: role ("base", "teacher", "student", "previous") -> stage id. A missing role "base" means the model
            that the recipe names.
        settings: everything in the recipe that the stage depends on, besides its inputs and its data.
    """

    id: str
    kind: str
    name: str
    arm: str | None
    seed: int
    optimiser: StageConfig
    target: str | None = None
    round: int = 0
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    order: int = field(kw_only=True)
    label: str = ""
    action: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """Who the stage is: what `stage.json` and `run.json` keep of it for summaries, tables and reports."""
        label = self.label or self.name
        names = {"stage": self.name, "label": label, "action": self.action or label}
        place = {"order": self.order, "round": self.round, "seed": self.seed, "pair": self.target}
        return {"arm": self.arm, "kind": self.kind} | names | place


def common_settings(config: RunConfig) -> dict[str, Any]:
    """What every stage that trains a task model depends on."""
    keys = ("task", "labels", "max_length", "pooling")
    prompt = prompt_of(config)
    own = {k: getattr(config, k) for k in keys} | numeric_settings(config)
    return own | ({"prompt": prompt} if prompt else {})


def numeric_settings(config: RunConfig) -> dict[str, Any]:
    """What every stage depends on."""
    return {"precision": config.precision} | ({"deterministic": True} if config.deterministic else {})


def table_settings(table: StageConfig) -> dict[str, Any]:
    """The settings of a table that decide a result. What memory it takes does not: "auto" starts as the whole batch."""
    found = asdict(table) | {"micro_batch": table.fixed_micro_batch}
    return {key.name: found[key.name] for key in fields(table) if key.metadata.get("decides", True)}


def few_shot_settings(config: RunConfig, target: str) -> dict[str, Any]:
    """What decides which labelled examples of a target are trained on; empty where it has none."""
    table = config.target(target)
    return {} if table.labelled is None else {"per_class": table.per_class, "draw": table.draw}


def induce_settings(config: RunConfig) -> dict[str, Any]:
    """What decides the dictionary that a target's fine-tuning makes for itself, and its use; empty without one."""
    found = asdict(config.augment.code_switch)
    names = ("rate", "draw", "induce_words", "induce_count", "induce_margin", "induce_layer")
    return {"induce": {name.removeprefix("induce_"): found[name] for name in names}} if found["induce"] else {}


def mlm_settings(config: RunConfig) -> dict[str, Any]:
    """What decides the masked words that self-training learns beside; empty where it learns none."""
    if not config.selftrain.mlm_weight:
        return {}
    names = ("batch_size", "order", "mask_rate", "balance", "temperature", "cap", "sides")
    found = {name: getattr(config.btf, name) for name in names}
    return {"text": "task", "mlm": found | {"weight": config.selftrain.mlm_weight}}
