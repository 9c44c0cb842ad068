"""What every stage of a run shares, and how a stage trains: load, fit with checkpoints, save, score."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import ConfigError, Interrupted, ModelError
from ..data import Tokenizer, TokenStore
from ..model import Encoder, TaskModel, load_encoder, load_masked_lm, load_task_model
from .checkpoint import load_latest, save_checkpoint
from .config import OptimiserConfig, RunConfig
from .datasets import Datasets
from .diagnostics import Warning
from .files import atomic_write_json, sha256_file
from .inference import metric_rows, score
from .loop import BatchSource, Loop, Objective, StepResult, Trace
from .plan import Stage
from .progress import Progress
from .rundir import RunDir

WEIGHTS = "model.safetensors"
FINISHED = "stage.json"


@dataclass
class Context:
    """One run while it runs.

    Attributes:
        should_stop: returns the number of the signal that asks the run to stop, or 0.
        start_digests: stage id -> digest of the fingerprint of its result, for stages that are done.
    """

    config: RunConfig
    run_dir: RunDir
    data: Datasets
    tokenizer: Tokenizer
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    should_stop: Callable[[], int] = lambda: 0
    digests: dict[str, str] = field(default_factory=dict)
    warnings: list[Warning] = field(default_factory=list)

    def folder(self, stage_id: str) -> Path:
        return self.run_dir.path / stage_id

    def warn(self, *found: Warning | None) -> None:
        """Records the warnings among `found` for the stage that runs."""
        for warning in found:
            if warning is not None:
                self.warnings.append(warning)
                self.progress.warning(warning)

    def warnings_as_json(self) -> list[dict[str, Any]]:
        return [warning.as_dict() for warning in self.warnings]

    def restore_warnings(self, stored: list[dict[str, Any]]) -> None:
        """Takes up the warnings of a part of the stage that was done before the run was cut off."""
        self.warnings += [Warning(**entry) for entry in stored]

    def poll(self) -> None:
        """Raises `Interrupted` when the run was asked to stop; every long loop calls it."""
        signal = self.should_stop()
        if signal:
            raise Interrupted(signal)

    def load_base(self, stage: Stage, role: str = "base") -> Encoder:
        """The encoder that a stage starts from: an input's, or the model folder that the recipe names."""
        return load_encoder(self.input_folder(stage, role)).to(self.device)

    def check_base(self, stage: Stage) -> None:
        """Raises ModelError if the recipe's model folder, where the stage starts from it, cannot be loaded."""
        if "base" not in stage.inputs and self.config.model.path is not None:
            load = load_masked_lm if stage.kind == "btf" else load_encoder
            load(self.config.model.path)

    def load_task_model(self, stage: Stage, role: str) -> TaskModel:
        return load_task_model(self.input_folder(stage, role)).to(self.device)

    def input_folder(self, stage: Stage, role: str) -> Path:
        """The model folder of an input, verified against the hash written when it was made.

        Raises:
            ModelError: the stage is unfinished, or its weights are not those that it wrote.
        """
        if role not in stage.inputs:
            assert role == "base"
            assert self.config.model.path is not None
            return self.config.model.path
        folder = self.folder(stage.inputs[role])
        try:
            hashes = json.loads((folder / FINISHED).read_bytes())["hashes"]
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: is not a finished stage ({FINISHED}: {error}); run it again") from error
        if sha256_file(folder / WEIGHTS) != hashes[WEIGHTS]:
            raise ModelError(f"{folder / WEIGHTS}: the file has changed since it was written; delete the folder")
        return folder

    def fit(
        self,
        stage: Stage,
        fingerprint: Mapping[str, Any],
        model: nn.Module,
        batches: BatchSource,
        objective: Objective,
        *,
        seed: int,
    ) -> tuple[Trace, float]:
        """Trains with checkpoints; goes on from the newest one. Returns the trace and the seconds it took in all.

        Raises:
            Interrupted: after a checkpoint, when the run was asked to stop.
            ModelError: a frozen weight has changed, which is a bug.
        """
        folder = self.folder(stage.id) / "checkpoint"
        frozen = frozen_hash(model)
        loop = Loop(model, batches, objective, optimiser=stage.optimiser, seed=seed, precision=self.config.precision)
        found = load_latest(folder, fingerprint=fingerprint, on_skip=self._skipped)
        spent = 0.0
        if found is not None:
            loop.restore(found.step, found.tensors, found.meta)
            spent = float(found.meta["seconds"])
            for note in found.notes:
                self.progress.note(f"{stage.id}: {note}")
        started = time.monotonic()
        saved = started
        every = self.config.checkpoint.seconds

        def on_step(loop: Loop, result: StepResult) -> None:
            nonlocal saved
            self.progress.step(loop.step, loop.total, result.loss, result.tokens)
            if loop.step % 50 == 0 or loop.step == loop.total:
                self.run_dir.event("step", stage=stage.id, step=loop.step, loss=result.loss, lr=result.lr)
            now, signal = time.monotonic(), self.should_stop()
            if signal or (loop.step < loop.total and now - saved >= every):
                tensors, meta = loop.state()
                meta["seconds"] = spent + now - started
                save_checkpoint(
                    folder,
                    step=loop.step,
                    tensors=tensors,
                    meta=meta,
                    fingerprint=fingerprint,
                    keep=self.config.checkpoint.keep,
                )
                saved = now
                self.run_dir.write_status("running", stage=stage.id, step=loop.step)
                if signal:
                    raise Interrupted(signal)

        self.progress.begin(stage.id, loop.total, loop.step)
        trace = loop.run(on_step)
        loop.close()
        if frozen_hash(model) != frozen:
            raise ModelError(
                f"{stage.id}: frozen weights have changed during training; this is a bug, please report it"
            )
        return trace, spent + time.monotonic() - started

    def score_stage(self, stage: Stage, model: TaskModel) -> list[dict[str, Any]]:
        """Scores on the source and on the target of the stage (all targets where it has none)."""
        return [
            row
            for language, (role, store) in self.test_stores(stage).items()
            for row in metric_rows(self._score(model, store), language, role, len(store))
        ]

    def _score(self, model: TaskModel, store: TokenStore) -> dict[str, float]:
        return score(model, store, precision=self.config.precision, poll=self.poll)[0]

    def test_stores(self, stage: Stage) -> dict[str, tuple[str, TokenStore]]:
        """What a stage is scored on: language -> role ("source" or "target") and store."""
        if stage.kind in ("pretrain", "btf"):
            return {}
        found: dict[str, tuple[str, TokenStore]] = {}
        source = self.config.source
        if source.test is not None:
            found[source.language] = "source", self.data.labelled(source.test, source.language)
        for target in self.config.targets:
            if target.test is not None and stage.target in (None, target.language):
                found[target.language] = "target", self.data.labelled(target.test, target.language)
        return found

    def _skipped(self, path: Path, reason: str) -> None:
        self.progress.note(f"{path}: not used: {reason}")


def freeze(encoder: Encoder, config: OptimiserConfig) -> None:
    """Freezes what the table of a stage says.

    Raises:
        ConfigError: the encoder has fewer layers.
    """
    layers = encoder.config.num_layers
    if config.freeze_layers > layers:
        raise ConfigError(f"freeze_layers = {config.freeze_layers}, but the encoder has {layers} layers; lower it")
    encoder.freeze(config.freeze_embeddings, config.freeze_layers)


def frozen_hash(model: nn.Module) -> str:
    """Hash over the weights that do not train."""
    return tensors_hash({n: p for n, p in model.named_parameters() if not p.requires_grad})


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash over names and bytes of tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_trace(folder: Path, trace: Trace) -> None:
    """`trace.json`: every step's loss, rate and gradient norm (docs/summary-schema.md)."""
    columns = {"steps": list(range(1, len(trace.loss) + 1)), **vars(trace)}
    atomic_write_json(folder / "trace.json", columns, indent=None)
