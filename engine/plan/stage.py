"""A node of the stage graph, and the part of a recipe that it gets, which is what identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, cast

from ... import ConfigError
from ..recipe.config import RunConfig, StageTraining
from ..storage.names import pair_name

NUMERICS = 3
"""Raised whenever a change makes an equal recipe end in other weights, so that old results are not reused."""
IDENTITY = 2
"""Raised when stages are identified by other keys than before; those of earlier runs are made anew."""
SHARED = (
    *("source", "targets", "reader", "world", "model", "max_length", "prediction", "inference_tokens"),
    *("checkpoint", "performance", "augment.code_switch.dictionaries", "cotrain.start"),
)
"""Tables and keys that every stage may read and none is identified by: what files and models hold is in the digests of
stores and inputs, and the rest changes no weight."""


@dataclass(frozen=True)
class Stage:
    """One node of the graph; its result is the model folder `<run>/<id>`.

    Attributes:
        id: path below the run folder, such as "seed-0/de/soft1".
        kind: "pretrain", "btf", "finetune", "soft", "hard", "cotrain", "align", or one that is
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
        options: what the plan says of it that no key of the recipe does, such as whose text it reads.
        additions: what joins it, by name (`kind.Addition`).
        settings: recipe key -> value of what its kind declares (`kind.keys_of`): all that it gets of the recipe.
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
    options: dict[str, Any] = field(default_factory=dict)
    additions: tuple[str, ...] = ()
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


def start_inputs(config: RunConfig, seed: int) -> dict[str, str]:
    """The inputs of a stage that starts from the recipe's encoder."""
    return {"base": f"seed-{seed}/pretrain"} if config.pretrains else {}


def settings_of(config: RunConfig, keys: Iterable[str], targets: Sequence[str]) -> dict[str, Any]:
    """Recipe key -> value: the keys themselves, and of tables every key that decides a result.

    What a stage trains with (`Stage.training`) is not among them. Languages stand for the numbers of their tables.

    Args:
        targets: of the stage, whose tables alone count; all when empty.
    """
    seen = replace(config, targets=config.targets_of(targets)) if targets else config
    return {path: value for key in keys for path, value in _values(seen, key.split("."))}


def _values(value: Any, names: Sequence[str], path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        for table in value:
            yield from _values(table, names, f"{path}.{table.language}")
    elif names:
        yield from _values(getattr(value, _FIELDS.get(names[0], names[0])), names[1:], f"{path}.{names[0]}".strip("."))
    elif is_dataclass(value):
        for name in _deciding(type(value)):
            if name not in _OF_TRAINING:
                yield from _values(getattr(value, name), (), f"{path}.{name}")
    else:
        yield path, value


def _deciding(table: type[Any]) -> list[str]:
    return [key.name for key in fields(table) if key.metadata.get("decides", True)]


_OF_TRAINING = {key.name for key in fields(StageTraining)}
_FIELDS = {key.metadata["key"]: key.name for key in fields(RunConfig) if "key" in key.metadata}
_SHARED = tuple(f"{key}." for key in SHARED)
_KEYS = {name: key for key, name in _FIELDS.items()}


def training_settings(training: StageTraining) -> dict[str, Any]:
    """The same of how a stage trains, as [training] holds for it."""
    return {f"training.{name}": getattr(training, name) for name in _deciding(StageTraining)}


def given(config: RunConfig, stage: Stage) -> RunConfig:
    """The recipe as a stage sees it: its own settings and `SHARED`; reading any other key is a ConfigError."""
    return cast(RunConfig, _Given(config._table if isinstance(config, _Given) else config, stage))


class _Given:
    """A recipe, or one of its tables, as a stage sees it."""

    def __init__(self, table: Any, stage: Stage, path: str = "") -> None:
        self._table, self._stage, self._path = table, stage, path

    def __getattr__(self, name: str) -> Any:
        key, known = self._path + _KEYS.get(name, name), name not in _OF_TRAINING
        value, made = getattr(self._table, name), getattr(type(self._table), name, None)
        if known and (key in self._stage.settings or f"{key}.".startswith(_SHARED)):
            return value
        if isinstance(made, property) or callable(made):
            return made.__get__(self)
        if is_dataclass(value):
            return _Given(value, self._stage, f"{key}.")
        remedy = "name it, or its table, in `tables` of its class" if known else "read it of `stage.training`"
        what = f"a stage of the kind {self._stage.kind!r} reads {key} of the recipe, which it does not declare"
        raise ConfigError(f"{self._stage.id}: {what}; {remedy}")


def fingerprint(stage: Stage, inputs: dict[str, str], data: dict[str, str]) -> dict[str, Any]:
    """What decides a stage's result, as flat values; equal ones give equal weights on one machine.

    Args:
        inputs: role -> digest of the input's own fingerprint (or of the model folder the recipe names).
        data: role -> content hash of each store it reads.
    """
    flat: dict[str, Any] = {"numerics": NUMERICS, "identity": IDENTITY, "kind": stage.kind, "seed": stage.seed}
    flat |= {f"input.{k}": v for k, v in sorted(inputs.items())}
    flat |= {f"data.{k}": v for k, v in sorted(data.items())}
    flat |= {f"plan.{k}": v for k, v in stage.options.items()} | {f"plan.joined.{k}": True for k in stage.additions}
    return json.loads(json.dumps(flat | stage.settings, default=str))  # type: ignore[no-any-return]


def digest(record: dict[str, Any]) -> str:
    """A short name of a fingerprint."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
