"""What every peer of the step benchmark has: a step on padded batches, and an encoder of transformers with voters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xlt_engine.engine.training.precision import DTYPES
from xlt_engine.model import EncoderConfig
from xlt_engine.model.heads import default_voter_widths

from .sides import OPTIMIZER
from .work import CLASSES, PAD, TASKS, Row, Step, soft_targets

VOTERS = ("soft", "hard")


class Peer:
    """A model of another library on padded batches; fp32 weights, 16-bit computation through autocast.

    Args:
        compiled: through torch.compile, for shapes that change.
        fused: AdamW as one kernel.
    """

    name = ""
    tasks: tuple[str, ...] = tuple(TASKS)
    model: nn.Module
    compiled = fused = False

    def __init__(self, task: str, config: EncoderConfig, device: torch.device, precision: str = "fp32") -> None:
        self.task, self.config, self.device, self.precision = task, config, device, precision
        with device:
            self.model = self.build()
        self.model.train(TASKS[task].trains)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=OPTIMIZER.lr, fused=self.fused or None)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.run: Callable[..., Any] = self.compile(self.model) if self.compiled else self.model
        self._loaded: list[list[dict[str, Any]]] = []

    def build(self) -> nn.Module:
        """The model, with what is frozen."""
        raise NotImplementedError

    def compile(self, model: nn.Module) -> Callable[..., Any]:
        """A faster `model`; torch.compile of the whole unless a peer does otherwise."""
        compiled: Callable[..., Any] = torch.compile(model, dynamic=True)
        return compiled

    def batch(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Arguments of the model, on the CPU."""
        return pad(self.task, rows)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        loss: Tensor = self.run(**batch)["loss"]
        return loss

    def load(self, steps: Sequence[Step]) -> None:
        self._loaded = [[self._moved(self.batch(rows)) for rows in step] for step in steps]

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def step(self, index: int) -> None:
        batches = self._loaded[index]
        if not TASKS[self.task].trains:
            with torch.inference_mode(), self._autocast():
                for batch in batches:
                    self.run(**batch)
            return
        (batch,) = batches
        with self._autocast():
            loss = self.loss(batch)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, OPTIMIZER.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def loss_and_gradients(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        batch = self._moved(self.batch(rows))
        if not TASKS[self.task].trains:
            with torch.inference_mode():
                logits = self.model(**batch)["logits"]
            return {f"logits {i}": logits[i, torch.from_numpy(r.positions)] for i, r in enumerate(rows)}
        self.model.eval()
        loss = self.model(**batch)["loss"]
        loss.backward()
        found = {"loss": loss.detach()}
        for index, layer in enumerate(layers_of(encoder_of(self.model))):
            bert = hasattr(layer, "attention")
            query = layer.attention.self.query.weight if bert else layer.attn.Wqkv.weight
            if query.requires_grad:
                found[f"query {index}"] = (query.grad if bert else query.grad.chunk(3)[0]).clone()
                found[f"up {index}"] = (layer.intermediate.dense if bert else layer.mlp.Wi).weight.grad.clone()
        self.model.zero_grad(set_to_none=True)
        self.model.train()
        return found


def encoder_of(model: Any) -> Any:
    """The encoder of a model of transformers, or of a `Student`."""
    return model.get_submodule(model.inside) if isinstance(model, Student) else model.base_model


def layers_of(encoder: Any) -> Any:
    """The layers of BERT or of ModernBERT."""
    return encoder.encoder.layer if hasattr(encoder, "encoder") else encoder.layers


class _Voter(nn.Module):
    """One voter, under the names of this package's checkpoints."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.dense_in, self.dense_out = nn.Linear(size, width), nn.Linear(width, size)
        self.dropout, self.classifier = nn.Dropout(0.1), nn.Linear(size, CLASSES)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.dropout(functional.gelu(self.dense_in(hidden)))
        logits: Tensor = self.classifier(self.dense_out(inner))
        return logits


class Student(nn.Module):
    """An encoder of transformers with a module for each voter, and the losses of self-training over unpadded words."""

    def __init__(self, encoder: nn.Module, config: EncoderConfig) -> None:
        super().__init__()
        self.inside = config.layout.prefix.removesuffix(".")  # as checkpoints of the layout call the encoder
        self.add_module(self.inside, encoder)
        size = config.hidden_size
        self.voters = nn.ModuleList(_Voter(size, width) for width in default_voter_widths(size))

    def forward(self, *, soft: Tensor | None = None, labels: Tensor | None = None, **given: Any) -> dict[str, Tensor]:
        hidden = self.get_submodule(self.inside)(**given).last_hidden_state
        logits = torch.stack([voter(hidden) for voter in self.voters]).float()
        if soft is not None:
            counted = soft.sum(-1)  # 0 where there is no word
            distance = (logits.softmax(-1) - soft).square().mean(-1).mean(0)
            return {"loss": (distance * counted).sum() / counted.sum()}
        assert labels is not None
        wanted = labels.expand(len(self.voters), *labels.shape)
        return {"loss": functional.cross_entropy(logits.flatten(0, -2), wanted.flatten())}


def pad(task: str, rows: Sequence[Row]) -> dict[str, Tensor]:
    """[S, L] tensors with what the task needs."""
    shape = len(rows), max(row.length for row in rows)
    ids, labels = np.full(shape, PAD), np.full(shape, -100)
    mask, soft = np.zeros(shape, dtype=np.int64), np.zeros((*shape, CLASSES), dtype=np.float32)
    for i, row in enumerate(rows):
        ids[i, : row.length] = row.ids
        mask[i, : row.length] = 1
        if task == "soft":
            soft[i, row.positions] = soft_targets(row)
        else:
            labels[i, row.positions] = row.targets
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if not TASKS[task].trains:
        return batch
    return batch | ({"soft": torch.from_numpy(soft)} if task == "soft" else {"labels": torch.from_numpy(labels)})
