"""What every stage of a run shares: its settings, data, device and processes; loading and scoring models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import Interrupted, ModelError
from ...data import Tokenizer, TokenStore
from ...model import Encoder, TaskModel, load_encoder, load_masked_lm, load_task_model
from ..evaluation.inference import Scored, metric_rows, score
from ..plan import Stage
from ..plan.stage import given
from ..recipe.config import RunConfig, StageTraining
from ..storage.names import FINISHED, serves
from ..storage.run_folder import RunDir
from ..storage.run_warning import RunWarning
from ..storage.stage_files import damage, refuse_changed
from ..training.distributed import ProcessGroup
from ..training.out_of_memory import PassRetry
from ..training.progress import Progress
from .datasets import Datasets

AGAIN = "the same command again makes it anew"


@dataclass
class Context:
    """One run while it runs.

    Attributes:
        should_stop: returns the number of the signal that asks the run to stop, or 0.
        processes: the processes that make the run together; the first one writes.
        digests: stage id -> digest of the fingerprint of its result, for stages that are done.
        reuse: other run folders, whose finished stages and stores serve where they are those wanted.
        models: where co-training has a second encoder, the run as each of the two sees it, by letter; else empty.
        retry: of all passes of the run, so that what did not fit once is not tried again.
    """

    config: RunConfig
    run_dir: RunDir
    data: Datasets
    tokenizer: Tokenizer
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    should_stop: Callable[[], int] = lambda: 0
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    digests: dict[str, str] = field(default_factory=dict)
    warnings: list[RunWarning] = field(default_factory=list)
    reuse: tuple[Path, ...] = ()
    models: dict[str, Context] = field(default_factory=dict)
    retry: PassRetry | None = None

    def __post_init__(self) -> None:
        if self.retry is None:
            self.retry = PassRetry(auto=not self.config.inference_tokens, report=self.warn)

    def of_model(self, letter: str) -> Context:
        """The run as the first ("a") or the second ("b") encoder sees it: its folder, tokenizer and stores."""
        return self.models.get(letter, self)

    def of_stage(self, stage: Stage) -> Context:
        """The run as a stage sees it: by its encoder, with what it gets of the recipe."""
        seen_by = self.of_model(stage.options.get("model", "a"))
        return replace(seen_by, config=given(seen_by.config, stage))

    def folder(self, stage_id: str) -> Path:
        return self.run_dir.path / stage_id

    def warn(self, *warnings: RunWarning | None) -> None:
        """Records warnings for the stage that runs; None is none."""
        for warning in warnings:
            if warning is not None:
                self.warnings.append(warning)
                self.progress.warning(warning)

    def mend(self, problem: str) -> None:
        """Hears of a damaged token store, which is built again."""
        self.warn(damage(f"{problem}; the text is read again", {"store": problem}))

    def poll(self) -> None:
        """Raises `Interrupted` when the run was asked to stop; every long loop calls it."""
        (signal,) = self.processes.all_reduce_max(self.should_stop())
        if signal:
            raise Interrupted(signal)

    @property
    def passes(self) -> dict[str, Any]:
        """How all passes without gradients run: arguments of `predict_logits`, `vote` and `score`."""
        config = self.config
        return {
            "precision": config.precision,
            "poll": self.poll,
            "processes": self.processes,
            "tokens": config.inference_tokens,
            "retry": self.retry,
        }

    def special_tokens(self, vocab_size: int) -> np.ndarray:
        """bool [vocab_size], the tokens that are never masked and never drawn, rows without a piece among them."""
        special = np.zeros(vocab_size, dtype=bool)
        special[list(self.tokenizer.special_ids)] = True
        special[self.tokenizer.vocab_size :] = True
        return special

    def check_base(self, stage: Stage) -> None:
        """Raises ModelError if the recipe's model folder, where the stage starts from it, cannot be loaded."""
        if "base" not in stage.inputs and self.config.model.path is not None:
            load = load_masked_lm if stage.kind in ("pretrain", "btf") else load_encoder
            load(self.config.model.path)

    def load_task_model(self, stage: Stage, role: str) -> TaskModel:
        return load_task_model(self.input_folder(stage, role)).to(self.device)

    def input_folder(self, stage: Stage, role: str) -> Path:
        """The model folder of an input, verified against the hashes written when it was made.

        Raises:
            ModelError: the stage is unfinished, or its model is not the one that it wrote.
        """
        if role not in stage.inputs:
            assert role == "base"
            assert self.config.model.path is not None
            return self.config.model.path
        folder = self.folder(stage.inputs[role])
        self.processes.visible(folder / FINISHED)
        if "hashes" not in refuse_changed(folder, remedy=AGAIN):
            raise ModelError(f"{folder}: is not a finished stage (no {FINISHED} with hashes); {AGAIN}")
        return folder

    def score_stage(self, stage: Stage, model: TaskModel) -> tuple[list[dict[str, Any]], dict[str, Scored]]:
        """Scores on the sources and the targets of the stage (all where it has none): rows, and by language."""
        rows: list[dict[str, Any]] = []
        scored: dict[str, Scored] = {}
        for language, (role, store) in self.test_stores(stage).items():
            scored[language] = self.score(model, store)
            rows += metric_rows(scored[language], language, role, len(store))
        return rows, scored

    def score(self, model: TaskModel, store: TokenStore) -> Scored:
        """The scores of a model as this run predicts."""
        return score(model, store, prediction=self.config.prediction, **self.passes)

    def test_stores(self, stage: Stage) -> dict[str, tuple[str, TokenStore]]:
        """What a stage is scored on: language -> role ("source" or "target") and store."""
        if stage.arm is None:
            return {}
        stores: dict[str, tuple[str, TokenStore]] = {}
        for source in self.config.sources:
            if source.test is not None:
                stores[source.language] = "source", self.data.scored(source.test, source.language)
        for target in self.config.targets:
            if target.test is not None and serves(stage.pair, target.language):
                stores[target.language] = "target", self.data.scored(target.test, target.language)
        return stores


def freeze(encoder: Encoder, config: StageTraining) -> None:
    """Freezes what a stage keeps as it is, and says whether layers are computed again in the backward pass."""
    encoder.freeze(config.freeze_embeddings, config.freeze_layers)
    encoder.recompute = config.recompute
