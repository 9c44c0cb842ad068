"""The two kinds of sides that the step benchmark times: this package here, and its rivals in `peers.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from xlt_engine.data import ItemView, PackedBatch, TokenStore, inference_tokens
from xlt_engine.engine.evaluation.inference import predict_votes
from xlt_engine.engine.training.config import OptimizerConfig, PerformanceConfig
from xlt_engine.engine.training.loop import Loop, StepResult
from xlt_engine.engine.training.objectives import BatchSource, cross_entropy, masked_lm, soft_labels
from xlt_engine.engine.training.precision import computing_in
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, MaskedLM, TaskModel, VoterHeads
from xlt_engine.model.folder import views
from xlt_engine.model.heads import Head, PredictionHead

from .work import CLASSES, TASKS, Drawn, Listed, Row, Step, frozen_layers, packed

OPTIMIZER = OptimizerConfig(lr=2e-5, clip=1.0)
OURS = "xlt-engine"


class Side(Protocol):
    """Something that can be timed. Batches are made by `load`, outside the clock."""

    name: str

    def loss_and_gradients(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """In fp32 without dropout, before `load`; the logits of each row for the teacher."""
        ...

    def load(self, steps: Sequence[Step]) -> None:
        """Make the batches of all steps that will be asked for."""
        ...

    def step(self, index: int) -> None:
        """Run one of them; a training step changes the weights."""
        ...


class Ours:
    """This package: `Loop` as the stages run it, and the packing of `inference_batches` for the teacher."""

    name = OURS

    def __init__(self, task: str, config: EncoderConfig, device: torch.device, precision: str = "fp32") -> None:
        self.task, self.config, self.device, self.precision = task, config, device, precision
        encoder = Encoder(config, seed=0)
        self.model: MaskedLM | TaskModel
        if task == "btf":
            self.model = MaskedLM(encoder, seed=1)
        else:
            labels = [str(i) for i in range(CLASSES)]
            self.model = TaskModel(encoder, _head(task, config), "ner", labels)
        self.model.to(device)
        if TASKS[task].trains:
            encoder.freeze(embeddings=True, layers=frozen_layers(config))
        self.objective: Any = {"btf": masked_lm, "soft": soft_labels}.get(task, cross_entropy)
        self._loop: Loop | None = None
        self._passes: list[list[PackedBatch]] = []
        self._lent = ExitStack()

    def loop(self, source: BatchSource, performance: PerformanceConfig) -> Loop:
        """A loop over a source, as a stage makes it."""
        return Loop(
            self.model,
            source,
            self.objective,
            optimizer=OPTIMIZER,
            seed=0,
            precision=self.precision,
            performance=performance,
        )

    def load(self, steps: Sequence[Step]) -> None:
        self.close()
        if TASKS[self.task].trains:
            listed = Listed([[packed(self.task, rows) for rows in step] for step in steps])
            self._loop = self.loop(listed, PerformanceConfig())
            return
        self._passes = [[batch.to(self.device) for batch in self._repacked(step)] for step in steps]
        self._lent.enter_context(computing_in(self.model, self.precision))

    def _repacked(self, step: Step) -> list[PackedBatch]:
        """All rows by length, in batches of as many tokens as a run takes."""
        rows = sorted((row for rows in step for row in rows), key=lambda row: row.length)
        group = (np.cumsum([row.length for row in rows]) - 1) // inference_tokens(self.device.type)
        return [
            packed(self.task, [r for r, g in zip(rows, group, strict=True) if g == number])
            for number in np.unique(group)
        ]

    def step(self, index: int) -> None:
        if self._loop is not None:
            self._loop.step = index
            self._loop.advance()
            return
        with torch.inference_mode():
            for batch in self._passes[index]:
                self.model(batch)

    def label(self, store: TokenStore) -> None:
        """The teacher's pass over a store, as a run makes it for soft labels and votes."""
        assert isinstance(self.model, TaskModel)
        predict_votes(self.model, ItemView(store), precision=self.precision)

    def close(self) -> None:
        """Gives the model its fp32 weights back; `load` may follow."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        self._lent.close()
        self._passes = []

    def idle(self, source: Drawn, warm_up: int) -> dict[str, Any]:
        """How long the loop waits for batches when it runs by itself, from step `warm_up` on."""
        loop = self.loop(source, PerformanceConfig())
        began = waited = 0.0

        def note(running: Loop, result: StepResult) -> None:
            nonlocal began, waited
            if result.step + 1 == warm_up:
                began, waited = time.perf_counter(), running.prefetcher.waited

        try:
            loop.run(note)
            seconds, waited = time.perf_counter() - began, loop.prefetcher.waited - waited
            return {
                "share": waited / seconds,
                "waited_s": waited,
                "seconds": seconds,
                "steps": len(source) - warm_up,
                "graph_steps": 0 if loop.graphs is None else loop.graphs.replayed,
                "buckets": len(loop.prefetcher.buckets),
                "padding": loop.prefetcher.padding,
            }
        finally:
            loop.close()

    def loss_and_gradients(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        if not TASKS[self.task].trains:
            with torch.inference_mode():
                logits = self.model(packed(self.task, rows).to(self.device))[0]
            parts = torch.split(logits, [len(row.positions) for row in rows])
            return {f"logits {i}": part for i, part in enumerate(parts)}
        batch = packed(self.task, rows).to(self.device)
        loss = self.objective(self.model, batch, None) / batch.num_targets
        loss.backward()
        found = {"loss": loss.detach()}
        for index, layer in enumerate(self.model.encoder.layers):
            weight: Any = layer.qkv_weight
            if weight.requires_grad:
                up: Any = layer.up_weight
                found[f"query {index}"] = weight.grad.chunk(3)[0].clone()
                found[f"up {index}"] = up.grad.clone()
        self.model.zero_grad(set_to_none=True)
        return found


def _head(task: str, config: EncoderConfig) -> Head:
    """Three voters, or the head that transformers has for tags."""
    if task in ("soft", "hard"):
        return VoterHeads(config.hidden_size, CLASSES, seed=1)
    if config.layout.tagger == PredictionHead.kind:
        return PredictionHead(config, CLASSES, seed=1)
    return LinearHead(config.hidden_size, CLASSES, seed=1)


def copy_weights(state: dict[str, Tensor], ours: Ours) -> None:
    """Gives our model the weights of a peer of the same architecture."""
    targets = views(ours.model)
    done = set()
    for name, value in state.items():
        bare = ours.config.layout.bare(name)
        if bare in targets:
            targets[bare].copy_(value)
            done.add(bare)
    assert done == set(targets), sorted(set(targets) - done)


def worst_difference(peer: Any, ours: Ours, rows: Sequence[Row]) -> float:
    """The largest relative error of loss and gradients, or of the logits, with dropout off."""
    copy_weights(peer.model.state_dict(), ours)
    expected, found = peer.loss_and_gradients(rows), ours.loss_and_gradients(rows)
    assert expected.keys() == found.keys()
    return max(float((found[k] - v).norm() / v.norm()) for k, v in expected.items())
