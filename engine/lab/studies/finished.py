"""A run that has ended, opened for looking at: its stages, the stores that they read, its models and their votes.

Stores are found by the content hashes that the stages recorded, so that moved or changed input files do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from .... import DataError
from ....data import Tokenizer, TokenStore
from ....model import TaskModel, load_task_model
from ...pseudolabels.filters import Reason
from ...recipe.config import RunConfig
from ...recipe.load import load_recipe
from ...report.summary import build_summary
from ...runs.prepare import with_world
from ...stages.datasets import Datasets
from ...stages.round_decision import Voted, vote
from ...storage.files import read_json

Json = dict[str, Any]
DECISION = "decision.safetensors"
TASK_KINDS = ("finetune", "soft", "hard")
_REMOVED_BEFORE = int(Reason.REMOVED_BEFORE)


@dataclass(frozen=True)
class TaskStage:
    """A finished stage with a task model.

    Attributes:
        pair: target language of the model; None where it serves all targets.
        order: position in the trail (docs/summary-schema.md).
        record, fingerprint: the content of `stage.json` and `fingerprint.json`.
    """

    folder: Path
    id: str
    stage: str
    label: str
    arm: str
    kind: str
    order: int
    seed: int
    pair: str | None
    record: Json
    fingerprint: Json


@dataclass
class FinishedRun:
    """A run folder. Nothing in it is changed, unless a text must be read that no stage has read yet."""

    folder: Path
    summary: Json
    stages: list[TaskStage]
    _models: dict[str, TaskModel] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> FinishedRun:
        """Open a run, finished or not; only its finished stages count.

        Raises:
            DataError: the folder is not a run, or has no finished stage with a task model.
        """
        folder = Path(folder)
        summary = build_summary(folder)
        stages = []
        for s in summary["stages"]:
            if s["finished"] and s["kind"] in TASK_KINDS:
                own, table = (read_json(folder / s["folder"] / n) for n in ("stage.json", "fingerprint.json"))
                names = {k: s[k] for k in ("stage", "label", "kind", "order", "seed", "pair")}
                path = folder / s["folder"]
                stages.append(TaskStage(path, s["folder"], arm=s["arm"] or "", record=own, fingerprint=table, **names))
        if not stages:
            raise DataError(f"{folder}: no stage of this run has ended yet; run it first")
        return cls(folder, summary, stages)

    @property
    def source(self) -> str:
        """The source language."""
        return str(self.summary["source"])

    @property
    def targets(self) -> list[str]:
        """The target languages, in the recipe's order."""
        return list(self.summary["targets"])

    @cached_property
    def hashes(self) -> dict[str, Path]:
        """Content hash -> folder, of every store of the run."""
        found = {}
        for manifest in sorted(self.folder.glob("store/*/store.json")):
            found[str(read_json(manifest).get("sha256"))] = manifest.parent
        return found

    def store(self, content_hash: str) -> TokenStore:
        """The store with this content.

        Raises:
            DataError: it is gone.
        """
        if content_hash not in self.hashes:
            raise DataError(f"{self.folder / 'store'}: the store {content_hash[:12]} is gone; run the recipe again")
        return TokenStore.open(self.hashes[content_hash])

    @cached_property
    def config(self) -> RunConfig:
        """The recipe as it was resolved; without the files of a made world."""
        return load_recipe(self.folder / "config.toml").config

    @cached_property
    def data(self) -> Datasets:
        """The recipe's files, for a text that no stage has read."""
        config = with_world(self.config, self.folder)
        return Datasets(config, Tokenizer.from_folder(self.stages[0].folder), self.folder / "store")

    def pool(self, target: str) -> TokenStore:
        """The unlabelled text of a target, as self-training reads it."""
        for stage in self.stages:
            if stage.pair == target and "data.target" in stage.fingerprint:
                return self.store(stage.fingerprint["data.target"])
        return self.data.target_pool(self.data.config.target(target))

    def test(self, language: str) -> TokenStore | None:
        """The labelled file that a language was scored on, None without one."""
        for stage in self.stages:
            if found := (stage.record.get("scored_on") or {}).get(language):
                return self.store(found.split()[0])
        return None

    def source_train(self) -> TokenStore:
        """The labelled text of all sources that the stages train on."""
        return self.store(next(s.fingerprint["data.source"] for s in self.stages if "data.source" in s.fingerprint))

    def source_held_out(self) -> tuple[TokenStore, str] | None:
        """Labelled source text that no stage trains on, and where it comes from; None without.

        That is `test`; `dev` where alpha was chosen there, or where there is no `test`.
        """
        read = [s.fingerprint for s in self.stages if "data.dev" in s.fingerprint]
        test = self.test(self.source)
        if read and (test is None or any(found.get("alpha.data") == "dev" for found in read)):
            return self.store(read[0]["data.dev"]), "dev"
        return None if test is None else (test, "test")

    def model(self, stage: TaskStage) -> TaskModel:
        """The model that a stage left, on the CPU; the last one stays in memory."""
        if stage.id not in self._models:
            self._models = {stage.id: load_task_model(stage.folder)}
        return self._models[stage.id]

    def by_id(self, stage_id: str) -> TaskStage | None:
        """The finished stage of this id, None without one."""
        return next((s for s in self.stages if s.id == stage_id), None)

    def first_teacher(self, stage: TaskStage) -> TaskStage | None:
        """The stage that the lineage of a self-trained model began with; None for others, or where it is gone."""
        found: TaskStage | None = stage
        while found is not None and found.arm == "selftrain":
            found = self.by_id((found.record.get("inputs") or {}).get("teacher") or "")
        return None if found is stage else found

    def labeller(self, hard: TaskStage) -> TaskStage | None:
        """The stage whose model made the decision of a hard stage."""
        inputs = hard.record.get("inputs") or {}
        return self.by_id(inputs.get("student") or inputs.get("teacher") or "")

    def pool_before(self, hard: TaskStage) -> tuple[np.ndarray, np.ndarray]:
        """Target and source examples that were still in when a hard stage decided, as booleans.

        Target examples are those that the stage voted on; a hard stage without an earlier one saw all source examples.
        """
        arrays = self.arrays(hard)
        store = self.pool(str(hard.pair))
        seen = np.diff(np.concatenate([[0], np.cumsum(arrays["target.reason"] >= 0)])[store.item_offsets]) > 0
        return seen, arrays["source.reason"] != _REMOVED_BEFORE

    def arrays(self, hard: TaskStage) -> dict[str, np.ndarray]:
        """The content of `decision.safetensors` of a hard stage."""
        return load_file(hard.folder / DECISION)

    def decisions(self) -> list[tuple[TaskStage, Json]]:
        """The hard stages with both files of a decision, and `decision.json`; in the order of pair, round and seed."""
        found = [(s, read_json(s.folder / "decision.json")) for s in self.stages if s.kind == "hard"]
        found = [(s, record) for s, record in found if record and (s.folder / DECISION).exists()]
        return sorted(found, key=lambda item: (item[0].pair or "", item[0].order, item[0].seed))

    def votes(self, stage: TaskStage, store: TokenStore, examples: np.ndarray | None = None) -> Voted:
        """What the voters of a stage say about examples of a store, all without a choice."""
        return vote(self.model(stage), store, examples)
