"""The tables that others are made of: the encoder, the optimiser, and the training of a task model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


def option(default: Any, help: str, **limits: Any) -> Any:
    """A key with a default; `help` is what `init` and error messages say of it, `limits` what `schema` checks.

    `decides=False` says that the key does not identify a stage of its table: its result is the same, or something else
    identifies it.
    """
    return field(default=default, metadata={"help": help, **limits})


def required(help: str, **limits: Any) -> Any:
    """A key that must be given."""
    return field(metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class NewEncoderConfig:
    """An encoder made from scratch: vocabulary and weights. For the demo and for laboratories."""

    vocab_size: int = option(3000, "WordPiece vocabulary asked for", min=16)
    hidden_size: int = option(96, "", min=8)
    num_layers: int = option(2, "", min=1)
    num_heads: int = option(4, "", min=1)
    intermediate_size: int = option(384, "", min=8)
    max_positions: int = option(128, "", min=8)
    dropout: float = option(0.1, "", min=0, max=1)
    initializer_range: float = option(0.04, "", min=0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder that everything starts from: a Hugging Face folder, or a new one."""

    path: Path | None = option(None, "folder with config.json, model.safetensors and tokenizer.json or vocab.txt")
    new: NewEncoderConfig | None = option(None, "make an encoder instead of loading one")

    def problems(self) -> list[tuple[str, str]]:
        if (self.path is None) == (self.new is None):
            return [("path", "give either path (a model folder) or a [model.new] table")]
        return []


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with linear warm-up and linear decay."""

    lr: float = option(2e-5, "peak learning rate", above=0)
    head_lr: float | None = option(None, "peak learning rate of the head; `lr` when absent", above=0)
    epochs: float = option(3, "passes over the data", above=0)
    batch_size: int = option(32, "sequences in one optimiser step", min=1)
    order: Literal["random", "sorted"] = option(
        "random", "how an epoch becomes batches: at random, or batches of about one length, in windows of 50 of them"
    )
    micro_batch: int | Literal["auto"] = option(
        0, "sequences in one forward pass; 0 means the whole batch, auto halves it where memory does not suffice", min=0
    )
    recompute: bool = option(
        False,
        "compute the layers again in the backward pass instead of keeping their activations; the same result",
        decides=False,
    )
    warmup: float = option(0.1, "share of the steps", min=0, max=1)
    weight_decay: float = option(0.01, "on matrices only", min=0)
    clip: float = option(1.0, "largest global gradient norm; 0 switches clipping off", min=0)
    beta1: float = option(0.9, "", min=0, max=1)
    beta2: float = option(0.999, "", min=0, max=1)
    eps: float = option(1e-8, "", above=0)
    freeze_embeddings: bool = option(True, "keep the embeddings as they are (arXiv 2310.04726 section 4.2)")
    freeze_layers: int = option(3, "keep the lowest layers as they are", min=0)
    l2_to_base: float = option(
        0.0, "against forgetting: pulls what trains of the encoder back to its weights at the stage's start", min=0
    )

    def problems(self) -> list[tuple[str, str]]:
        if self.l2_to_base * self.lr > 1:
            return [("l2_to_base", f"times lr is above 1: every step would overshoot; at most {1 / self.lr:g}")]
        return []

    @property
    def fixed_micro_batch(self) -> int:
        """What batches are cut to beforehand; with "auto" the loop cuts them."""
        return 0 if self.micro_batch == "auto" else self.micro_batch


@dataclass(frozen=True, kw_only=True)
class TaskConfig(OptimiserConfig):
    """Training of a task model."""

    keep: Literal["last", "best"] = option(
        "last", "weights that a stage leaves: of its last step, or of the epoch that scores best on source.dev"
    )
