"""The tables that others are made of: the encoder, the training of a stage, and that of a task model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...training.config import OptimizerConfig, option


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
class StageConfig(OptimizerConfig):
    """The training of one stage: the optimizer, its batches, and what of the encoder trains."""

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
    freeze_embeddings: bool = option(True, "keep the embeddings as they are (arXiv 2310.04726 section 4.2)")
    freeze_layers: int = option(3, "keep the lowest layers as they are", min=0)

    @property
    def fixed_micro_batch(self) -> int:
        """What batches are cut to beforehand; with "auto" the loop cuts them."""
        return 0 if self.micro_batch == "auto" else self.micro_batch


@dataclass(frozen=True, kw_only=True)
class TaskConfig(StageConfig):
    """Training of a task model."""

    keep: Literal["last", "best"] = option(
        "last", "weights that a stage leaves: of its last step, or of the epoch that scores best on source.dev"
    )
