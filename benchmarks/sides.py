"""The two sides of `step.py`: this package, and transformers doing the same maths on padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from common import MASK, MAX_LENGTH, PAD, SPECIAL, VOCABULARY, Sentence
from torch import Tensor, nn

from xlt_engine.data import PackedBatch, pack, rng_for
from xlt_engine.data.masking import mask_tokens
from xlt_engine.data.sources import INFERENCE_TOKENS
from xlt_engine.engine.config import OptimiserConfig
from xlt_engine.engine.loop import Loop
from xlt_engine.engine.objectives import cross_entropy, masked_lm
from xlt_engine.engine.optimiser import make_optimiser
from xlt_engine.model import Encoder, EncoderConfig, LinearHead, MaskedLM, TaskModel
from xlt_engine.model.names import canonical, views

CLASSES = 9
FROZEN_LAYERS = {12: 3, 4: 1}
OPTIMISER = OptimiserConfig(lr=2e-5, clip=1.0)
SHAPES = {
    "mbert": EncoderConfig(vocab_size=119_547),
    "small": EncoderConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_layers=4,
        num_heads=6,
        intermediate_size=768,
        max_positions=MAX_LENGTH,
    ),
}


@dataclass(frozen=True)
class Row:
    """One sequence of a task: what goes in, which positions have a target, and the targets."""

    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray

    @property
    def length(self) -> int:
        return len(self.ids)


def make_row(task: str, sentence: Sentence, number: int) -> Row:
    """A sentence as a training or inference example of `task`; masks depend on `number` alone."""
    if task != "btf":
        return Row(sentence.ids, sentence.positions, sentence.labels)
    special = np.zeros(VOCABULARY, dtype=bool)
    special[:SPECIAL] = True
    rng = rng_for(0, "benchmark mask", number)
    corrupted, targets = mask_tokens(sentence.ids, special, rng, mask_id=MASK, vocab_size=len(special))
    positions = np.flatnonzero(targets >= 0)
    return Row(corrupted, positions, targets[positions])


class Side(Protocol):
    """Something that can be timed: batches are made by `prepare`, outside the clock."""

    name: str

    def prepare(self, batches: Sequence[Sequence[Row]]) -> Any: ...

    def step(self, prepared: Any) -> None: ...

    def loss_and_gradients(self, rows: Sequence[Row]) -> dict[str, Tensor]: ...


def _layers_frozen(config: EncoderConfig) -> int:
    return FROZEN_LAYERS[config.num_layers]


class _Current:
    """A batch source whose every step is the batch that was set last."""

    batches: list[PackedBatch]

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, step: int, /) -> list[PackedBatch]:
        return self.batches


class Ours:
    """This package: `engine.Loop` as the stages run it, and `inference_batches`' packing for the teacher."""

    name = "xlt-engine"

    def __init__(self, task: str, config: EncoderConfig, device: torch.device) -> None:
        self.task, self.device = task, device
        encoder = Encoder(config, seed=0)
        self.model: Any = (
            MaskedLM(encoder, seed=1)
            if task == "btf"
            else TaskModel(
                encoder, LinearHead(config.hidden_size, CLASSES, seed=1), "ner", [str(i) for i in range(CLASSES)]
            )
        )
        self.model.to(device)
        if task != "teacher":
            encoder.freeze(embeddings=True, layers=_layers_frozen(config))
        self.source = _Current()
        self.objective: Any = masked_lm if task == "btf" else cross_entropy
        self.loop = Loop(self.model, self.source, self.objective, optimiser=OPTIMISER, seed=0)

    def prepare(self, batches: Sequence[Sequence[Row]]) -> list[PackedBatch]:
        groups = list(batches)
        if self.task == "teacher":
            rows = sorted((row for batch in batches for row in batch), key=lambda row: row.length)
            group = (np.cumsum([row.length for row in rows]) - 1) // INFERENCE_TOKENS
            groups = [[row for row, g in zip(rows, group, strict=True) if g == k] for k in np.unique(group)]
        return [
            pack([r.ids for r in rows], items=[r.positions for r in rows], labels=[r.targets for r in rows]).to(
                self.device
            )
            for rows in groups
        ]

    def step(self, prepared: list[PackedBatch]) -> None:
        if self.task == "teacher":
            with torch.inference_mode():
                for batch in prepared:
                    self.model(batch)
            return
        self.source.batches = prepared
        self.loop.advance()

    def loss_and_gradients(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        (batch,) = self.prepare([rows])
        if self.task == "teacher":
            with torch.inference_mode():
                order = np.argsort([r.length for r in rows], kind="stable")
                parts = torch.split(self.model(batch)[0], [len(rows[i].positions) for i in order])
                return {f"logits {i}": part for i, part in zip(order, parts, strict=True)}
        loss = self.objective(self.model, batch, None) / batch.num_targets
        loss.backward()
        found = {"loss": loss.detach()}
        for index, layer in enumerate(self.model.encoder.layers):
            if layer.output_weight.requires_grad:
                found[f"query {index}"] = layer.qkv_weight.grad.chunk(3)[0].clone()
                found[f"up {index}"] = layer.up_weight.grad.clone()
        self.model.zero_grad(set_to_none=True)
        return found


class Transformers:
    """Hugging Face transformers with dynamic padding and its scaled-dot-product attention."""

    name = "transformers"

    def __init__(self, task: str, config: EncoderConfig, device: torch.device) -> None:
        from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

        self.task, self.device = task, device
        values = {k: v for k, v in config.to_hf().items() if k not in ("model_type", "position_embedding_type")}
        hf = BertConfig(**values, num_labels=CLASSES)
        self.model: nn.Module = (BertForMaskedLM if task == "btf" else BertForTokenClassification)(hf).to(device)
        self.attention = str(self.model.config._attn_implementation)  # type: ignore[union-attr]
        bert: Any = self.model.bert
        if task != "teacher":
            bert.embeddings.requires_grad_(False)
            bert.encoder.layer[: _layers_frozen(config)].requires_grad_(False)
        self.optimiser = make_optimiser(dict(self.model.named_parameters()), OPTIMISER, device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train(task != "teacher")

    def prepare(self, batches: Sequence[Sequence[Row]]) -> list[dict[str, Tensor]]:
        return [{k: v.to(self.device) for k, v in _pad(rows, self.task != "teacher").items()} for rows in batches]

    def step(self, prepared: list[dict[str, Tensor]]) -> None:
        if self.task == "teacher":
            with torch.inference_mode():
                for batch in prepared:
                    self.model(**batch)
            return
        (batch,) = prepared
        loss = self.model(**batch).loss
        loss.backward()
        loss.item()
        torch.nn.utils.clip_grad_norm_(self.parameters, OPTIMISER.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def loss_and_gradients(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        (batch,) = self.prepare([rows])
        if self.task == "teacher":
            with torch.inference_mode():
                logits = self.model(**batch).logits
            return {f"logits {i}": logits[i, torch.from_numpy(r.positions)] for i, r in enumerate(rows)}
        self.model.eval()
        loss = self.model(**batch).loss
        loss.backward()
        found = {"loss": loss.detach()}
        bert: Any = self.model.bert
        for index, layer in enumerate(bert.encoder.layer):
            if layer.output.dense.weight.requires_grad:
                found[f"query {index}"] = layer.attention.self.query.weight.grad.clone()
                found[f"up {index}"] = layer.intermediate.dense.weight.grad.clone()
        self.model.zero_grad(set_to_none=True)
        self.model.train()
        return found


PEERS: dict[str, type[Transformers]] = {"transformers": Transformers}


def _pad(rows: Sequence[Row], with_labels: bool) -> dict[str, Tensor]:
    longest = max(row.length for row in rows)
    ids = np.full((len(rows), longest), PAD)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), -100)
    for i, row in enumerate(rows):
        ids[i, : row.length] = row.ids
        mask[i, : row.length] = 1
        labels[i, row.positions] = row.targets
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    return batch | ({"labels": torch.from_numpy(labels)} if with_labels else {})


def copy_weights(peer: Transformers, ours: Ours) -> None:
    """Gives our model the peer's weights."""
    targets = views(ours.model)
    done = set()
    for name, value in peer.model.state_dict().items():
        target = targets.get(canonical(name))
        if target is not None:
            target.copy_(value)
            done.add(canonical(name))
    assert done == set(targets), sorted(set(targets) - done)


def worst_difference(peer: Transformers, ours: Ours, rows: Sequence[Row]) -> float:
    """The largest relative error of loss and gradients, or of the logits, with dropout off."""
    copy_weights(peer, ours)
    expected, found = peer.loss_and_gradients(rows), ours.loss_and_gradients(rows)
    assert expected.keys() == found.keys()
    return max(float((found[k] - v).norm() / v.norm()) for k, v in expected.items())
