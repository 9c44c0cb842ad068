"""What a kind of stage is, and the registry that finds it by its name.

A new kind is one class in one file: what it reads, and what it trains. `register_kind` makes
it known; everything else a stage needs (freezing, lineage, checkpoints, saving, scoring, sealing) is the same for all
kinds and stands in `train_stage.py` and `engine/runs/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ... import ConfigError, ModelError
from ...data import BatchSize, MlmBatches, Part, TaskBatches, TokenStore, derive_seed
from ...model import Encoder, MaskedLM, TaskModel
from ..evaluation.held_out import HeldOut
from ..plan import Stage
from ..plan.stage import settings_of, training_settings
from ..recipe.config import RunConfig
from ..storage.files import read_json
from ..storage.run_warning import RunWarning
from ..storage.stage_files import DECIDED, write_decided
from ..training.loop import Trace
from ..training.objectives import BatchSource, Objective
from .context import Context

Batches = MlmBatches | TaskBatches
SURVEYED = 2000
"""Steps of the first epoch whose batches are looked at for the largest one."""


@dataclass(frozen=True)
class StageRun:
    """One stage while it is made.

    Attributes:
        fingerprint: what decides its result, as a flat table (`plan.fingerprint`).
        pass_number: which of the trainings whose mean the stage leaves. All start from the same weights, the head's
            too; from the second one on batches and dropout are others.
    """

    context: Context
    stage: Stage
    fingerprint: Mapping[str, Any]
    pass_number: int = 0

    @property
    def folder(self) -> Path:
        """Where its result goes."""
        return self.context.folder(self.stage.id)

    def seed(self, *purpose: str | int) -> int:
        """As `stage_seed`, of this pass over the stage."""
        return stage_seed(self.stage, *purpose, *(("pass", self.pass_number) if self.pass_number else ()))

    def decided(self, name: str) -> tuple[dict[str, Any], Path] | None:
        """What the stage decided before it trains: the record of that name, and where the data lies; None until then.

        With it come the warnings on the way.
        """
        if not self.context.processes.rank_zero_only((self.folder / name).exists):
            return None
        record, data = self._read(name)
        self.context.warnings += [RunWarning(**entry) for entry in record["warnings"]]
        return record, data

    def keep(self, name: str, record: Mapping[str, Any], data: bytes, said: int) -> tuple[dict[str, Any], Path]:
        """Writes what was decided; the warnings from number `said` on are of it, also where the stage goes on later."""
        whole = {**record, "warnings": self.context.warnings[said:]}
        self.context.processes.rank_zero_only(lambda: write_decided(self.folder, name, whole, data))
        return self._read(name)

    def _read(self, name: str) -> tuple[dict[str, Any], Path]:
        path = self.context.processes.visible(self.folder / name)
        return read_json(path, ModelError, needed=True), self.folder / DECIDED[name]

    def micro_batch(self) -> int:
        """Sequences in one forward pass of a process."""
        table = self.stage.training
        return self.context.processes.micro_batch(table.fixed_micro_batch, table.batch_size)

    def task_batches(
        self,
        parts: Sequence[Part],
        *,
        balance: str = "none",
        counts: Sequence[int] | None = None,
        micro_batch: int | None = None,
    ) -> TaskBatches:
        """Batches of labelled examples as the stage's table says; `micro_batch()` sequences in a pass when absent."""
        table = self.stage.training
        return TaskBatches(
            parts,
            batch_size=table.batch_size,
            epochs=table.epochs,
            seed=self.seed("batches"),
            balance=balance,
            counts=counts,
            micro_batch=self.micro_batch() if micro_batch is None else micro_batch,
        )


def stage_seed(stage: Stage, *purpose: str | int) -> int:
    """Seed of a stage. Arms and targets that are compared share it: it depends on seed, kind and round alone.

    The second model of co-training has its own.
    """
    second = ("b",) if stage.options.get("model") == "b" else ()
    return derive_seed(stage.seed, stage.kind, stage.round, *second, *purpose)


@dataclass
class Training:
    """What a stage trains.

    Attributes:
        batches: None where nothing is trained.
        notes: entries for `stage.json`.
        line: one line for a person, of the trace.
        after: entries for `stage.json` that the trace of the training says, with warnings on the way.
        held_out: what is measured on the way.
    """

    model: MaskedLM | TaskModel
    batches: BatchSource | None
    objective: Objective | None
    notes: dict[str, Any] = field(default_factory=dict)
    line: Callable[[Trace], str] = lambda trace: ""
    after: Callable[[Trace], dict[str, Any]] = lambda trace: {}
    held_out: HeldOut | None = None


class Planned(NamedTuple):
    """What a stage trains on, as far as that is known before it runs.

    Attributes:
        steps, tokens: in all passes; tokens as in the first epoch.
        largest: the micro-batch with the most tokens, of the first epoch.
        at: the step that has it.
    """

    batches: Batches | None
    steps: int
    tokens: int
    largest: BatchSize
    at: int = 0


class StageKind(ABC):
    """A kind of stage. It holds no state: one object serves all stages of its kind.

    Attributes:
        name: of the kind, as in `stage.json`.
        masked: whether it trains a masked LM, which is never scored, and not a task model.
        chosen_by: the values of `--stage`, besides "evaluate" and "all", that name stages of the kind.
        trains: whether `Stage.training` decides its result.
        tables: the tables and single keys of the recipe that its stages get, such as "selftrain.hard"; they identify
            the stages, and `context.config` gives nothing else (but `plan.stage.SHARED`). Lists of languages stand
            for the numbers of their tables: "targets.draw".
    """

    name: str
    masked = False
    chosen_by: tuple[str, ...] = ()
    trains = True
    tables: tuple[str, ...] = ()

    def also(self, config: RunConfig, stage: Stage) -> list[str]:
        """Further tables and keys, of a stage that reads them by what the recipe asks for, or by its options."""
        return []

    @abstractmethod
    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        """The stores that decide the stage's result, by role; `inputs_of` adds those that all kinds may have."""

    @abstractmethod
    def build(self, run: StageRun) -> Training:
        """Loads the model and makes batches and objective; what is decided on the way is on disk when it returns."""

    @abstractmethod
    def batches(self, run: StageRun) -> Batches | None:
        """What the stage trains on, before it runs: where a decision or picks are still to come, all that they may
        leave, without targets; None without training."""

    def at_most(self, context: Context, stage: Stage) -> bool:
        """Whether the numbers of steps and tokens depend on what the run finds."""
        return False

    def head(self, config: RunConfig) -> str:
        """The kind of head that it trains, a key of `heads`."""
        return "voters"

    def reads(self, context: Context, stage: Stage) -> list[int]:
        """Tokens of each text that the stage reads without learning from it, the test files not among them."""
        return []

    def if_gold(self, context: Context, stage: Stage) -> dict[str, Any]:
        """By target, what a finished stage's decision makes of the test files of now; kept with the scores."""
        return {}


class Addition:
    """Something that joins stages of other kinds, those that have its name among their `additions`.

    Attributes:
        role: of what fine-tuning learns by it, if it does.
        tables: as of `StageKind`, for the stages that it joins.
    """

    name: str
    role = ""
    tables: tuple[str, ...] = ()

    def joins(self, config: RunConfig, kind: str) -> bool:
        """Whether the recipe has it join a target's stages of a kind."""
        return False

    def inputs(self, context: Context, stage: Stage) -> dict[str, TokenStore]:
        """Further stores that decide the result, by role."""
        return {}

    def stores(self, run: StageRun, encoder: Encoder) -> dict[str, TokenStore]:
        """Further stores that fine-tuning learns, by role."""
        return {}

    def reads(self, context: Context, stage: Stage) -> list[int]:
        """As `StageKind.reads`."""
        return []


def planned(context: Context, stage: Stage) -> Planned:
    """What a stage trains on, before it runs. One draw for all seeds, so that their estimates are the same.

    Args:
        context: as the stage's encoder sees the run.
    """
    batches = kind_of(stage).batches(StageRun(context, replace(stage, seed=0), {}))
    if batches is None:
        return Planned(None, 0, 0, BatchSize(0, 0, 0, 0))
    surveyed = min(SURVEYED, max(1, round(len(batches) / max(1.0, stage.training.epochs))))
    sizes = [(size, step) for step in range(surveyed) for size in batches.sizes(step)]
    steps = stage.training.passes * len(batches)
    largest, at = max(sizes, key=lambda found: found[0].tokens)
    return Planned(batches, steps, round(sum(s.tokens for s, _ in sizes) / surveyed * steps), largest, at)


Planner = Callable[[RunConfig, int, tuple[Stage, ...]], list[Stage]]
"""From a recipe, a seed, and the stages that the core makes of them, to further stages."""
_KINDS: dict[str, StageKind] = {}
_ADDITIONS: dict[str, Addition] = {}
_PLANNERS: list[Planner] = []


def register_kind(kind: StageKind) -> None:
    """Makes a kind of stage known; one of the same name is replaced."""
    _KINDS[kind.name] = kind


def register_addition(addition: Addition) -> None:
    """Makes something known that joins other stages; one of the same name is replaced."""
    _ADDITIONS[addition.name] = addition


def register_planner(planner: Planner) -> None:
    """Has the plan of every seed end with the stages that `planner` makes."""
    if planner not in _PLANNERS:
        _PLANNERS.append(planner)


def planners() -> tuple[Planner, ...]:
    """What further stages come from, in the order in which it was registered."""
    return tuple(_PLANNERS)


def kinds_in(name: str) -> set[str]:
    """The kinds of stages that a value of `--stage` names; "evaluate": all that are scored."""
    return {k.name for k in _KINDS.values() if name in k.chosen_by or (name == "evaluate" and not k.masked)}


def added_to(config: RunConfig, kind: str) -> tuple[str, ...]:
    """What joins a target's stages of a kind, by name."""
    return tuple(name for name, addition in _ADDITIONS.items() if addition.joins(config, kind))


ALWAYS = ("precision", "deterministic")
TASK = ("task", "labels", "max_length", "pooling")
VOTERS = ("selftrain.voters", "selftrain.widths")
"""What all stages get, those of a task model, and those of one with voters."""


def with_settings(config: RunConfig, stage: Stage) -> Stage:
    """A planned stage with what it gets of the recipe: by its kind, and by what joins it."""
    kind = kind_of(stage)
    keys = [*ALWAYS, *(() if kind.masked else TASK), *kind.tables, *kind.also(config, stage)]
    keys += [key for addition in additions_to(stage) for key in addition.tables]
    training = training_settings(stage.training) if kind.trains else {}
    return replace(stage, settings=settings_of(config, keys, stage.targets) | training)


def kind_of(stage: Stage) -> StageKind:
    """The kind of a stage.

    Raises:
        ConfigError: nothing has registered it.
    """
    if stage.kind not in _KINDS:
        raise ConfigError(f"{stage.id}: no kind of stage is called {stage.kind!r}; known: {', '.join(sorted(_KINDS))}")
    return _KINDS[stage.kind]


def additions_to(stage: Stage) -> list[Addition]:
    """What joins a stage, in the order in which it was registered."""
    return [addition for name, addition in _ADDITIONS.items() if name in stage.additions]


def inputs_of(context: Context, stage: Stage) -> dict[str, TokenStore]:
    """The stores that decide a stage's result, by role."""
    stores = kind_of(stage).inputs(context, stage)
    for addition in additions_to(stage):
        stores |= addition.inputs(context, stage)
    if stage.training.keep == "best":
        stores["dev"] = context.data.source_dev
    return stores


def read_tokens(context: Context, stage: Stage) -> list[int]:
    """Tokens of each text that a stage reads without learning from it, the test files among them."""
    kind = kind_of(stage)
    tokens = kind.reads(context, stage)
    for addition in additions_to(stage):
        tokens += addition.reads(context, stage)
    if kind.masked:
        return tokens
    return tokens + [int(test.offsets[-1]) for _, test in context.test_stores(stage).values()]
