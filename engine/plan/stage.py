"""A node of the stage graph, and what of a recipe decides its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..recipe.config import RunConfig, StageConfig, StageTraining, TrainingConfig
from ..storage.names import pair_name

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
        order: position among the stages of a run, equal for all seeds and pairs (docs/summary-schema.md).
        label: what tables of scores call it, by the model that it leaves; its name where empty.
        action: what pictures of losses and seconds call it, by what it does; its label where empty.
        targets: languages whose text it may see; empty where it serves all and is made for none.
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
    training: StageTraining
    targets: tuple[str, ...] = ()
    round: int = 0
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    order: int = field(kw_only=True)
    label: str = ""
    action: str = ""

    @property
    def pair(self) -> str | None:
        """What folders and records call its targets; None where it is made for none."""
        return pair_name(self.targets)

    @property
    def identity(self) -> dict[str, Any]:
        """Who the stage is: what `stage.json` and `run.json` keep of it for summaries, tables and reports."""
        label = self.label or self.name
        names = {"stage": self.name, "label": label, "action": self.action or label}
        place = {"order": self.order, "round": self.round, "seed": self.seed, "pair": self.pair}
        return {"arm": self.arm, "kind": self.kind} | names | place


def common_settings(config: RunConfig) -> dict[str, Any]:
    """What every stage that trains a task model depends on."""
    keys = ("task", "labels", "max_length", "pooling")
    settings = {k: getattr(config, k) for k in keys} | numeric_settings(config)
    return settings | ({"prompt": config.prompt} if config.prompt else {})


def numeric_settings(config: RunConfig) -> dict[str, Any]:
    """What every stage depends on."""
    return {"precision": config.precision} | ({"deterministic": True} if config.deterministic else {})


def stage_settings(config: RunConfig, name: str, table: StageConfig) -> dict[str, Any]:
    """What decides the result of a stage: the keys of its table, under a name, and [training] as it holds there.

    How its steps are cut does not, by more than rounding: all count as whole.
    """
    training = config.training_of(table)
    values = vars(table) | vars(training) | {"micro_batch": 0}
    shared = _deciding(TrainingConfig)
    return {
        name: {key: values[key] for key in _deciding(type(table)) if key not in shared},
        "training": {key: values[key] for key in shared},
    }


def _deciding(table: type[Any]) -> list[str]:
    return [key.name for key in fields(table) if key.metadata.get("decides", True)]


def finetune_settings(config: RunConfig) -> dict[str, Any]:
    """What fine-tuning on the source depends on."""
    settings = common_settings(config) | stage_settings(config, "finetune", config.finetune)
    settings |= source_mix_settings(config)
    if config.finetune.head == "voters":
        settings |= {"voters": config.selftrain.voters, "widths": config.selftrain.widths}
    if config.augment.code_switch.on:
        settings |= {"code_switch": {"rate": config.augment.code_switch.rate}}
    return settings


def start_inputs(config: RunConfig, seed: int) -> dict[str, str]:
    """The inputs of a stage that starts from the recipe's encoder."""
    return {"base": f"seed-{seed}/pretrain"} if config.pretrains else {}


def few_shot_settings(config: RunConfig, targets: Sequence[str]) -> dict[str, Any]:
    """What decides which labelled examples of targets are trained on; empty where they have none."""
    labelled = [table for table in config.targets_of(targets) if table.labelled is not None]
    settings = {table.language: {"per_class": table.per_class, "draw": table.draw} for table in labelled}
    return settings if len(targets) > 1 else settings.get(targets[0], {})


def source_mix_settings(config: RunConfig) -> dict[str, Any]:
    """How the sources are drawn in fine-tuning, as arguments of `epoch_counts`; empty where each once an epoch."""
    table = config.finetune
    if table.source_mix == "weights":
        return {"source_mix": {"mode": "weights", "weights": [s.weight for s in config.sources]}}
    if table.source_mix == "temperature":
        return {"source_mix": {"mode": "temperature", "temperature": table.source_temperature}}
    return {}


def tlm_settings(config: RunConfig, targets: Sequence[str]) -> dict[str, Any]:
    """What decides how the sentence pairs of targets are read in BTF; empty where they have none."""
    if not any(table.pairs for table in config.targets_of(targets)):
        return {}
    return {"tlm": {"share": config.btf.pairs_share, "positions": config.btf.pair_positions}}


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
