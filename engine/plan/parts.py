"""A node of the stage graph, and what of a recipe decides its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..config import AlphaConfig, OptimiserConfig, RunConfig, SelfTrainConfig
from ..config.cloze import prompt_of

Kind = Literal["pretrain", "btf", "finetune", "soft", "hard", "cotrain", "align", "semantic", "cloze"]
NUMERICS = 3
"""Raised whenever a change makes an equal recipe end in other weights, so that old results are not reused."""
LATER = {
    "stored": "fp32",
    "source_weight": 1.0,
    "target_weight": 1.0,
    "frozen_eval": False,
    "keep": "last",
    "l2_to_base": 0.0,
    "sides": "both",
    "target_mix": "natural",
    "teachers": "one",
    "teacher_weights": (),
}
"""Keys of stages that came later, with what was done before them: at that value old results stay what they are."""


ELSEWHERE = (
    "recompute",
    "source_mix",
    "source_temperature",
    "translated",
    "translated_all",
    "pairs_share",
    "pair_positions",
)
"""Keys that decide nothing, or only something in some of the stages of their table, whose settings then have them."""

LATER_ROUNDS = {
    "accept": "threshold",
    "outside": "all",
    "consistency": 0,
    "diversity": "none",
    "per_class": False,
    "calibrate": "none",
}
"""The same for [selftrain] and [selftrain.alpha]."""


@dataclass(frozen=True)
class Stage:
    """One node of the graph; its result is the model folder `<run>/<id>`.

    Attributes:
        id: path below the run folder, such as "seed-0/de/soft1".
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
    kind: Kind
    name: str
    arm: str | None
    seed: int
    optimiser: OptimiserConfig
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


def table_settings(table: OptimiserConfig) -> dict[str, Any]:
    """The settings of a table that decide a result. What memory it takes does not: "auto" starts as the whole batch."""
    found = asdict(table) | {"micro_batch": table.fixed_micro_batch}
    found = {key: value for key, value in found.items() if key not in ELSEWHERE}
    found.pop("teacher_folders", None)  # what is in them decides, not where they are
    return {key: value for key, value in found.items() if key not in LATER or LATER[key] != value}


def few_shot_settings(config: RunConfig, target: str) -> dict[str, Any]:
    """What decides which labelled examples of a target are trained on; empty where it has none."""
    table = config.target(target)
    return {} if table.labelled is None else {"per_class": table.per_class, "draw": table.draw}


def induce_settings(config: RunConfig) -> dict[str, Any]:
    """What decides the dictionary that a target's fine-tuning makes for itself, and its use; empty without one."""
    found = asdict(config.augment.code_switch)
    names = ("rate", "draw", "induce_words", "induce_count", "induce_margin", "induce_layer")
    return {"induce": {name.removeprefix("induce_"): found[name] for name in names}} if found["induce"] else {}


def round_settings(table: SelfTrainConfig, *names: str) -> dict[str, Any]:
    """These keys of [selftrain], without those that came later and are as before."""
    return _without_later({name: getattr(table, name) for name in names})


def mlm_settings(config: RunConfig) -> dict[str, Any]:
    """What decides the masked words that self-training learns beside; empty where it learns none."""
    if not config.selftrain.mlm_weight:
        return {}
    names = ("batch_size", "order", "mask_rate", "balance", "temperature", "cap", "sides")
    found = {name: getattr(config.btf, name) for name in names}
    return {"text": "task", "mlm": found | {"weight": config.selftrain.mlm_weight}}


def alpha_settings(table: AlphaConfig) -> dict[str, Any]:
    """The keys of [selftrain.alpha], likewise."""
    return _without_later(asdict(table))


def _without_later(found: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if k not in LATER_ROUNDS or LATER_ROUNDS[k] != v}
