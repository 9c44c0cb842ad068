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
from .distributed import World
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
        world: the processes that make the run together; the first one writes.
        start_digests: stage id -> digest of the fingerprint of its result, for stages that are done.
    """

    config: RunConfig
    run_dir: RunDir
    data: Datasets
    tokenizer: Tokenizer
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    should_stop: Callable[[], int] = lambda: 0
    world: World = field(default_factory=World)
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
        (signal,) = self.world.agree(self.should_stop())
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
            hashes = json.loads(self.world.visible(folder / FINISHED).read_bytes())["hashes"]
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
        loop = Loop(
            model,
            batches,
            objective,
            optimiser=stage.optimiser,
            seed=seed,
            precision=self.config.precision,
            world=self.world,
            performance=self.config.performance,
            warn=self.warn,
        )
        found = load_latest(folder, fingerprint=fingerprint, on_skip=self._skipped)
        self._check_same(stage, "the step of the newest checkpoint", lambda: str(found and found.step))
        spent = 0.0
        if found is not None:
            loop.restore(found.step, found.tensors, found.meta)
            spent = float(found.meta["seconds"])
            for note in [*found.notes, *self._other_parts(stage, found.meta)]:
                self.progress.note(f"{stage.id}: {note}")
        started = time.monotonic()
        saved = started
        every = self.config.checkpoint.seconds

        def on_step(loop: Loop, result: StepResult) -> None:
            nonlocal saved
            self.progress.step(loop.step, loop.total, result.loss, result.tokens)
            if loop.step % 50 == 0 or loop.step == loop.total:
                self.run_dir.event("step", stage=stage.id, step=loop.step, loss=result.loss, lr=result.lr)
            now = time.monotonic()
            signal, due = self._agreed(result.step, now - saved >= every)
            if signal or (loop.step < loop.total and due):
                tensors, meta = loop.state()
                meta |= {"seconds": spent + now - started, "processes": self.world.size}
                if self.world.first:
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

        self._hear_halvings(loop)
        self.progress.begin(stage.id, loop.total, loop.step)
        trace = loop.run(on_step)
        self.run_dir.event("supply", stage=stage.id, **loop.supply)
        loop.close()
        self._check_same(stage, "the trained weights", lambda: tensors_hash(loop.weights.trainable))
        if frozen_hash(model) != frozen:
            raise ModelError(
                f"{stage.id}: frozen weights have changed during training; this is a bug, please report it"
            )
        return trace, spent + time.monotonic() - started

    def _other_parts(self, stage: Stage, meta: Mapping[str, Any]) -> list[str]:
        """A note where the processes cut batches into other parts than those that saved a checkpoint did."""
        before = int(meta.get("processes", 1))
        if before == self.world.size or stage.optimiser.micro_batch != 0:
            return []
        return [
            f"begun by {before} processes, goes on with {self.world.size}: the same batches in other parts, hence "
            "other dropout masks; a micro_batch in the recipe gives the same for any number of processes"
        ]

    def _hear_halvings(self, loop: Loop) -> None:
        """Has smaller micro-batches reported, and those from before the run was cut off recorded again."""
        self.restore_warnings([halving.warning().as_dict() for halving in loop.memory.halvings])
        loop.memory.report = lambda halving: self.warn(halving.warning())

    def _agreed(self, step: int, due: bool) -> tuple[int, bool]:
        """Whether all processes stop after a step, and whether they save: the clock of the first one decides."""
        if self.world.size == 1 or step % self.world.stop_every == 0:
            signal, save = self.world.agree(self.should_stop(), int(due and self.world.first))
            return signal, bool(save)
        return 0, False

    def _check_same(self, stage: Stage, what: str, value: Callable[[], str]) -> None:
        """Raises ModelError unless the value is the same in all processes; asks for it only where there are several."""
        if self.world.size > 1 and (others := self.world.differing(value())):
            raise ModelError(
                f"{stage.id}: {what} in process {others[0]} is not that of process 0. "
                "Do all machines see the same run folder and run the same versions?"
            )

    def score_stage(self, stage: Stage, model: TaskModel) -> list[dict[str, Any]]:
        """Scores on the source and on the target of the stage (all targets where it has none)."""
        return [
            row
            for language, (role, store) in self.test_stores(stage).items()
            for row in metric_rows(self._score(model, store), language, role, len(store))
        ]

    def _score(self, model: TaskModel, store: TokenStore) -> dict[str, float]:
        return score(
            model,
            store,
            precision=self.config.precision,
            poll=self.poll,
            world=self.world,
            tokens=self.config.inference_tokens,
            prediction=self.config.prediction,
        )[0]

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
    """Freezes what the table of a stage says, and has computed again in the backward pass what it says.

    Raises:
        ConfigError: the encoder has fewer layers.
    """
    layers = encoder.config.num_layers
    if config.freeze_layers > layers:
        raise ConfigError(f"freeze_layers = {config.freeze_layers}, but the encoder has {layers} layers; lower it")
    encoder.freeze(config.freeze_embeddings, config.freeze_layers)
    encoder.recompute = config.recompute


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
