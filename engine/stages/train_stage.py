"""What is the same for every kind of stage: freeze, lineage, training with checkpoints, the weights that are kept."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import Interrupted, ModelError
from ...model import MaskedLM, TaskModel
from ...model.weights import frozen_hash, tensors_hash
from ...tasks import task_of
from ..training.checkpoint import Checkpoint, load_latest, save_checkpoint
from ..training.distributed import ProcessGroup
from ..training.loop import MODEL, Loop, StepResult, Trace
from ..training.objectives import BatchSource, Objective
from .context import freeze
from .kind import StageRun, Training, kind_of


@dataclass
class Outcome:
    """What a stage hands to `finish_stage`, which saves, scores and seals it.

    Attributes:
        encoder_at_start: hash of the encoder's weights before the first step, for the lineage.
        notes: entries for `stage.json`.
        line: one line for a person.
    """

    model: MaskedLM | TaskModel
    trace: Trace
    spent: Spent
    encoder_at_start: str
    notes: dict[str, Any] = field(default_factory=dict)
    line: str = ""


def train_stage(run: StageRun) -> Outcome:
    """Builds what the stage's kind says and trains it, going on from the newest checkpoint.

    Several passes start from the same weights; the stage leaves the mean, and the trace and notes of the last one.

    Raises:
        Interrupted: after a checkpoint, when the run was asked to stop.
        XltError: the kind's own; ModelError for a frozen weight that has changed, which is a bug.
    """
    passes, total = run.stage.training.passes, dict[str, Tensor]()
    trace, spent, kept = Trace(), Spent(), dict[str, Any]()
    for number in range(passes):
        one = replace(run, pass_number=number)
        training = kind_of(run.stage).build(one)
        freeze(training.model.encoder, run.stage.training)
        start = tensors_hash(dict(training.model.encoder.named_parameters()))
        if training.batches is not None and training.objective is not None:
            fit = Fit(one, training, training.batches, training.objective)
            trace = fit.loop.run(fit.after_step)
            seconds, kept = fit.finish()
            spent += seconds
        if passes > 1:
            trained = {name: p for name, p in training.model.named_parameters() if p.requires_grad}
            total = {name: p.detach().double() + total.get(name, 0.0) for name, p in trained.items()}
    if passes > 1:
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(total[name] / passes)
        kept |= {"kept_passes": passes}
    notes = training.notes | kept | training.after(trace)
    return Outcome(training.model, trace, spent, start, notes, training.line(trace))


@dataclass(frozen=True)
class Spent:
    """Seconds that a training took, over all starts, each up to the checkpoint that the next one went on from.

    Attributes:
        wall: by the clock on the wall.
        cpu: of the process with all its threads, whatever else ran on the machine; of several processes the first.
    """

    wall: float = 0.0
    cpu: float = 0.0

    @classmethod
    def now(cls) -> Spent:
        """The two clocks, whose zeros mean nothing."""
        return cls(time.monotonic(), time.process_time())

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


class Fit:
    """The loop of one stage, from the newest checkpoint, and what surrounds its steps: saving, telling, checking."""

    def __init__(self, run: StageRun, training: Training, batches: BatchSource, objective: Objective) -> None:
        context, stage, model = run.context, run.stage, training.model
        self.context, self.stage, self.fingerprint, self.model = context, stage, run.fingerprint, model
        self.held_out = training.held_out
        self.folder = Path(run.folder, "checkpoint", *([f"pass-{run.pass_number}"] if run.pass_number else []))
        self.parts = run.micro_batch()
        # Before the loop, which may compute in 16-bit copies of the weights.
        self.frozen = frozen_hash(model)
        self.loop = Loop(
            model,
            batches,
            objective,
            optimizer=stage.training,
            auto_micro_batch=stage.training.micro_batch == "auto",
            seed=run.seed("fit"),
            precision=context.config.precision,
            processes=context.processes,
            performance=context.config.performance,
            warn=context.warn,
        )
        self.kept = self._kept()
        if looks := self.kept or self.held_out:
            self.loop.settle = looks.due
        self.spent = Spent()
        self._restore()
        context.warnings += self.loop.memory.halvings  # of before the stage was cut off
        self.loop.memory.report = context.warn
        context.progress.begin(stage.id, self.loop.total, self.loop.step)

    def finish(self) -> tuple[Spent, dict[str, Any]]:
        """Gives the model its weights back and checks them; the time in all, and notes for `stage.json`."""
        context, stage, loop = self.context, self.stage, self.loop
        if stage.training.passes > 1:  # a start after this one passes it by
            self._save()
        notes = {} if self.kept is None else self.kept.restore(loop)
        context.run_dir.event("supply", stage=stage.id, **loop.supply)
        loop.close()
        self._check_same("the trained weights", lambda: tensors_hash(loop.weights.trainable))
        if frozen_hash(self.model) != self.frozen:
            raise ModelError(
                f"{stage.id}: frozen weights have changed during training; this is a bug, please report it"
            )
        return self._spent(), notes

    def _restore(self) -> None:
        """Goes on from the newest checkpoint, if there is one."""
        note = self.context.progress.note
        checkpoint = load_latest(
            self.folder, fingerprint=self.fingerprint, on_skip=lambda path, why: note(f"{path}: not used: {why}")
        )
        self._check_same("the step of the newest checkpoint", lambda: str(checkpoint and checkpoint.step))
        if checkpoint is not None:
            self.loop.restore(checkpoint.step, checkpoint.tensors, checkpoint.meta)
            self.spent = Spent(**checkpoint.meta["spent"])
            for text in [*checkpoint.notes, *self._other_parts(checkpoint.meta)]:
                note(f"{self.stage.id}: {text}")
        self.started, self.saved = Spent.now(), time.monotonic()

    def _spent(self) -> Spent:
        return self.spent + (Spent.now() - self.started)

    def after_step(self, loop: Loop, result: StepResult) -> None:
        """Tells of a step, and saves or stops after it where that is due."""
        if self.kept is not None:
            self.kept.look(loop)
        self._measure(loop)
        context, stage = self.context, self.stage.id
        context.progress.step(loop.step, loop.total, result.loss, result.tokens, result.lr)
        if loop.step % 50 == 0 or loop.step == loop.total:
            context.run_dir.event("step", stage=stage, step=loop.step, loss=result.loss, lr=result.lr)
        signal, due = self._agreed(result.step, time.monotonic() - self.saved >= context.config.checkpoint.seconds)
        if signal or (loop.step < loop.total and due):
            self._save()
            context.run_dir.write_status("running", stage=stage, step=loop.step)
            if signal:
                raise Interrupted(signal)

    def _measure(self, loop: Loop) -> None:
        """Adds to the trace what the model makes of held-out text, where that is due."""
        if self.held_out is None or not self.held_out.due(loop.step):
            return
        assert isinstance(self.model, MaskedLM)
        found = self.held_out.measure(self.model)
        loop.trace.held_out.append({"step": loop.step} | found)
        said = ", ".join(f"{name} {100 * values['accuracy']:.1f}" for name, values in found.items())
        self.context.progress.note(f"{self.stage.id}: step {loop.step}, % of held-out masked tokens: {said}")

    def _save(self) -> None:
        now, spent = time.monotonic(), self._spent()
        tensors, meta = self.loop.state()
        if self.context.processes.is_rank_zero:
            save_checkpoint(
                self.folder,
                step=self.loop.step,
                tensors=tensors,
                meta=meta | {"spent": asdict(spent), "parts": self.parts},
                fingerprint=self.fingerprint,
            )
        self.saved = now

    def _kept(self) -> KeptWeights | None:
        """What keeps weights of before the last step, where `training.keep` asks for them."""
        context, model = self.context, self.model
        training, total = self.stage.training, self.loop.total
        of_stage = {"fingerprint": self.fingerprint, "processes": context.processes}
        if training.keep in ("last", "seeds"):
            return None
        if training.keep == "mean":
            return MeanOfLast(self.folder / "mean", total=total, **of_stage)
        assert isinstance(model, TaskModel)
        store, metric = context.data.source_dev, task_of(context.config.task).metric
        every = max(1, round(total / training.epochs))
        return BestEpoch(
            self.folder / "best", every=every, score=lambda: context.score(model, store).points[metric], **of_stage
        )

    def _other_parts(self, meta: Mapping[str, Any]) -> list[str]:
        """A note where steps are cut into other parts than those of a checkpoint."""
        before, now = meta["parts"], self.parts
        sizes = [f"parts of {size} sequences" if size else "whole batches" for size in (before, now)]
        return [] if before == now else [f"begun in {sizes[0]}, goes on in {sizes[1]}: the same up to rounding"]

    def _agreed(self, step: int, due: bool) -> tuple[int, bool]:
        """Whether all processes stop after a step, and whether they save: the clock of the first one decides."""
        processes = self.context.processes
        if processes.size == 1 or step % processes.stop_every == 0:
            signal, save = processes.all_reduce_max(self.context.should_stop(), int(due and processes.is_rank_zero))
            return signal, bool(save)
        return 0, False

    def _check_same(self, what: str, value: Callable[[], str]) -> None:
        """Raises ModelError unless the value is the same in all processes; asks for it only where there are several."""
        if self.context.processes.size > 1 and (others := self.context.processes.differing(value())):
            raise ModelError(
                f"{self.stage.id}: {what} in process {others[0]} is not that of process 0. "
                "Do all machines see the same run folder and run the same versions?"
            )


class KeptWeights(ABC):
    """Weights of before the last step that a stage leaves. One that is cut off and goes on keeps the same again.

    Args:
        folder: where they lie until the stage ends, as checkpoints of their own.
        fingerprint: of the stage.
        processes: those of the run; the first one writes.
    """

    def __init__(self, folder: Path, *, fingerprint: Mapping[str, Any], processes: ProcessGroup) -> None:
        self._folder, self._fingerprint, self._processes = folder, fingerprint, processes

    @abstractmethod
    def due(self, step: int) -> bool:
        """Whether the weights after so many steps are looked at."""

    @abstractmethod
    def look(self, loop: Loop) -> None:
        """Keeps the weights where they are to be kept; at other steps does nothing."""

    @abstractmethod
    def restore(self, loop: Loop) -> dict[str, Any]:
        """Gives the loop what was kept; returns notes for `stage.json`.

        Raises:
            ModelError: a file is damaged.
        """

    def _keep(self, loop: Loop, place: str = "", **meta: Any) -> None:
        weights = {name: tensor for name, tensor in loop.state()[0].items() if name.startswith(MODEL)}
        if self._processes.is_rank_zero:
            where = self._folder / place
            save_checkpoint(where, step=loop.step, tensors=weights, meta=meta, fingerprint=self._fingerprint, keep=1)

    def _kept(self, place: str = "") -> Checkpoint:
        """What was kept on the way; each place is passed before the end."""
        if (found := load_latest(self._folder / place, fingerprint=self._fingerprint)) is None:
            folder = self._folder / place
            raise ModelError(f"{folder}: the weights that were kept cannot be read back; run the stage again")
        return found


class BestEpoch(KeptWeights):
    """Looks at a stage after every epoch and keeps the weights with the highest score, the earlier of equal ones.

    The paper does not say which checkpoint it takes; the last one is the default here. Scores are those of the source
    language: no label of the target is read.

    Args:
        every: steps in an epoch.
        score: of the weights as they are; all processes score.
    """

    def __init__(self, folder: Path, *, every: int, score: Callable[[], float], **of_stage: Any) -> None:
        super().__init__(folder, **of_stage)
        self._every, self._score, self._seen = every, score, -1
        checkpoint = load_latest(folder, fingerprint=self._fingerprint)
        self._best = None if checkpoint is None else float(checkpoint.meta["score"])

    def due(self, step: int) -> bool:
        return step % self._every == 0

    def look(self, loop: Loop) -> None:
        if loop.step == self._seen or not (self.due(loop.step) or loop.step == loop.total):
            return
        self._seen = loop.step
        score = self._score()
        if self._best is None or score > self._best:
            self._best = score
            self._keep(loop, score=score)

    def restore(self, loop: Loop) -> dict[str, Any]:
        self._processes.rank_zero_only(lambda: True)
        checkpoint = self._kept()
        loop.weights.load({name.removeprefix(MODEL): tensor for name, tensor in checkpoint.tensors.items()})
        return {"kept_step": checkpoint.step, "dev_score": checkpoint.meta["score"]}


class MeanOfLast(KeptWeights):
    """Keeps the weights of five points of a stage's last half, whose mean the stage leaves (arXiv 2310.10532).

    Args:
        total: steps of the stage; with fewer than five points in them the mean is that of fewer.
    """

    def __init__(self, folder: Path, *, total: int, **of_stage: Any) -> None:
        super().__init__(folder, **of_stage)
        self._points = sorted({-(-total * tenths // 10) for tenths in (6, 7, 8, 9, 10)})

    def due(self, step: int) -> bool:
        return step in self._points

    def look(self, loop: Loop) -> None:
        if self.due(loop.step):
            self._keep(loop, str(loop.step))

    def restore(self, loop: Loop) -> dict[str, Any]:
        self._processes.rank_zero_only(lambda: True)
        total = dict[str, Tensor]()
        for step in self._points:
            for name, tensor in self._kept(str(step)).tensors.items():
                total[name] = tensor.double() + total.get(name, 0.0)
        loop.weights.load({name.removeprefix(MODEL): total[name] / len(self._points) for name in total})
        return {"kept_steps": self._points}
