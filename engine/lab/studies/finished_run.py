"""A run that has ended, opened for looking at: its stages, the stores that they read, their words, its models.

Stores are found by the content hashes that the stages recorded, so that moved or changed input files do not matter.
Torch is loaded when a model is asked, not before.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .... import DataError, XltError
from ....data import Example, Tokenizer, TokenStore, file_hash
from ....data.readers.lines import file_stem
from ....tasks import per_word
from ...reading.read_file import read_file
from ...recipe.config import RunConfig
from ...recipe.load import load_recipe
from ...stages.datasets import Datasets
from ...stages.decision_files import decided_arrays, of_one_target
from ...storage.files import read_json
from ...storage.names import STAMP, targets_of
from ...storage.stage_files import refuse_changed
from ...summary.stage_folders import read_decision
from ...summary.summary import build_summary

if TYPE_CHECKING:
    from ....model import TaskModel
    from ...evaluation.voted import Voted

Json = dict[str, Any]
TASK_KINDS = ("finetune", "soft", "hard")


@dataclass(frozen=True, eq=False)
class TaskStage:
    """A finished stage with a task model, with what `stage.json` and `fingerprint.json` hold.

    `pair` is the target of the model, None where it serves all; one for several together is a stage for each of them.
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

    def alpha(self, name: str) -> Any:
        """A key of [selftrain.alpha], of a hard stage; earlier versions wrote it without its first table."""
        return self.fingerprint.get(f"selftrain.alpha.{name}", self.fingerprint.get(f"alpha.{name}"))


@dataclass
class FinishedRun:
    """A run folder; languages in the recipe's order.

    Nothing in it is changed, unless a text must be read that no stage has read yet.
    """

    folder: Path
    summary: Json
    stages: list[TaskStage]
    source: str
    targets: list[str]
    _stores: dict[str, TokenStore] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> FinishedRun:
        """Open a run, finished or not; only its finished stages count.

        Raises:
            DataError: the folder is not a run, or has no finished stage with a task model.
        """
        folder = Path(folder)
        summary = build_summary(folder)
        stages = []
        for entry in summary["stages"]:
            if entry["finished"] and entry["kind"] in TASK_KINDS:
                path = folder / entry["folder"]
                same = {name: entry[name] for name in ("stage", "label", "kind", "order", "seed")}
                same |= {"record": read_json(path / "stage.json"), "fingerprint": read_json(path / STAMP)}
                for pair in targets_of(entry["pair"]) or (None,):
                    stages.append(TaskStage(path, entry["folder"], **same, arm=entry["arm"] or "", pair=pair))
        if not stages:
            raise DataError(f"{folder}: no stage of this run has ended yet; run it first")
        return cls(folder, summary, stages, str(summary["source"]), list(summary["targets"]))

    def store(self, content_hash: str) -> TokenStore:
        """The store with this content.

        Raises:
            DataError: it is gone, or damaged.
        """
        for manifest in sorted(self.folder.glob("store/*/store.json")):
            if content_hash not in self._stores and read_json(manifest, None).get("sha256") == content_hash:
                self._stores[content_hash] = TokenStore.open(manifest.parent)
        if content_hash not in self._stores:
            raise DataError(f"{self.folder / 'store'}: the store {content_hash[:12]} is gone; run the recipe again")
        return self._stores[content_hash]

    @cached_property
    def config(self) -> RunConfig:
        """The recipe as it was resolved, its files where they are now; without the files of a made world."""
        config: RunConfig = self._with_places(load_recipe(self.folder / "config.toml").config)
        return config

    def place_of(self, path: Path) -> Path:
        """Where an input file of the run is: where it was, or where it went together with the run's folder."""
        digest = (read_json(self.folder / "run.json").get("hashes") or {}).get(str(path))
        if digest is None or path.exists():
            return path
        beside = product(self.folder.resolve().parents, range(1, len(path.parts)))
        places = (folder.joinpath(*path.parts[i:]) for folder, i in beside)
        return next((place for place in places if place.exists() and file_hash(place) == digest), path)

    def _with_places(self, value: Any) -> Any:
        """A part of the recipe with each path that an input file has now."""
        if isinstance(value, Path):
            return self.place_of(value)
        if isinstance(value, tuple):
            return tuple(map(self._with_places, value))
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: self._with_places(getattr(value, f.name)) for f in fields(value)})
        return value

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What all its stages read text with."""
        return Tokenizer.from_folder(self.stages[0].folder)

    @cached_property
    def data(self) -> Datasets:
        """The recipe's files, for a text that no stage has read."""
        from ...runs.synthetic_data import settled

        config = settled(self.config, self.folder)
        return Datasets(config, self.tokenizer, self.folder / "store")

    def pool(self, target: str) -> TokenStore:
        """The unlabelled text of a target, as self-training reads it."""
        for stage in self.stages:
            if stage.record["pair"] == target and "data.target" in stage.fingerprint:
                return self.store(stage.fingerprint["data.target"])
        return self.data.target_pool(self.data.config.target(target))

    def source_train(self) -> TokenStore:
        """The labelled text of all sources that the stages train on."""
        return self.store(next(s.fingerprint["data.source"] for s in self.stages if "data.source" in s.fingerprint))

    def model(self, stage: TaskStage) -> TaskModel:
        """The model that a stage left, on the CPU."""
        from ....model import load_task_model

        refuse_changed(stage.folder)
        return load_task_model(stage.folder)

    def by_id(self, stage_id: str) -> TaskStage | None:
        """The finished stage of this id, None without one."""
        return next((s for s in self.stages if s.id == stage_id), None)

    def input_of(self, stage: TaskStage, *roles: str) -> TaskStage | None:
        """The stage that was the input of another one in the first of some roles that it has; None where it is gone."""
        inputs = stage.record.get("inputs") or {}
        return next((self.by_id(inputs[role]) for role in roles if role in inputs), None)

    def labeller(self, hard: TaskStage) -> TaskStage | None:
        """The stage whose model made the decision of a hard stage."""
        return self.input_of(hard, "student", "teacher")

    def decisions(self) -> list[tuple[TaskStage, Json, dict[str, np.ndarray]]]:
        """The hard stages with both files of a decision and what these hold; in the order of pair, round and seed."""
        hard = [s for s in self.stages if s.kind == "hard" and (s.folder / "decision.safetensors").exists()]
        both = []
        for stage in hard:
            record = read_decision(stage.folder, str(stage.pair))
            both.append((stage, record, of_one_target(record, decided_arrays(stage.folder))))
        return sorted((d for d in both if d[1]), key=lambda d: (d[0].pair or "", d[0].order, d[0].seed))

    def originals(
        self, store: TokenStore, numbers: Collection[int], language: str, *, labelled_first: bool
    ) -> dict[int, Example]:
        """Examples of a store as their files have them; without those whose file is gone or has changed.

        Args:
            labelled_first: a file that can be read with labels is read with them.
        """
        by_id = {store.example_ids[n]: n for n in numbers}
        stems = {name.rpartition(":")[0] for name in by_id}
        paths = [self.place_of(Path(p)) for p in read_json(self.folder / "run.json").get("hashes") or {}]
        paths = sorted((p for p in paths if p.is_file()), key=lambda p: file_stem(p) not in stems)
        found = dict[int, Example]()
        for path, unlabelled in product(paths, (not labelled_first, labelled_first)):
            if len(found) == len(by_id):
                break
            try:
                examples = read_file(self.config, path, unlabelled=unlabelled, language=language)
            except XltError:
                continue  # a file of another kind, one without labels, or a recipe of another version
            for example in examples:
                number = by_id.get(example.id)
                if number is not None and is_example(example, store, number, self.tokenizer):
                    found.setdefault(number, example)
        return found

    def votes(self, stage: TaskStage, store: TokenStore, examples: np.ndarray | None = None) -> Voted:
        """What the voters of a stage say about examples of a store, all without a choice."""
        from ...evaluation.voted import vote

        return vote(self.model(stage), store, examples)


def is_example(example: Example, store: TokenStore, number: int, tokenizer: Tokenizer) -> bool:
    """Whether an example of a file is that of a store: of the same id, and giving the same tokens."""
    if example.id != store.example_ids[number] or (per_word(store.task) and example.words is None):
        return False
    length = None if store.whole else store.max_length
    if example.words is not None:
        ids = tokenizer.encode_words([example.words], max_length=length)[0].ids
    else:
        ids = tokenizer.encode_texts([str(example.text)], [example.pair], max_length=length)[0].ids
    return bool(list(ids) == store.ids(number).tolist())


def words_of(store: TokenStore, number: int, example: Example | None, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The words (tagging), or the one text, of an example as its file has it; None: as far as the tokens tell."""
    if example is not None and example.words is not None:
        return example.words
    if example is not None:
        return (str(example.text) if example.pair is None else f"{example.text} | {example.pair}",)
    ids = store.ids(number).tolist()
    if not per_word(store.task):
        return (tokenizer.decode(ids[1:-1]),)
    words = ["?"] * int(store.num_words[number])
    positions, numbers = (array.tolist() for array in store.items(number))
    for start, end, word in zip(positions, [*positions[1:], len(ids) - 1], numbers, strict=True):
        words[word] = tokenizer.decode(ids[start:end])
    return tuple(words)
