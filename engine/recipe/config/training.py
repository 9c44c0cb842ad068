"""How stages train: what [training] says for all of them, and what the table of each says for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...training.config import OptimizerConfig, ScheduleConfig, option


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ScheduleConfig):
    """The [training] table: what is set once, for every stage that trains."""

    freeze_embeddings: bool = option(True, "keep the embeddings as they are (arXiv 2310.04726 section 4.2)")
    freeze_layers: int = option(3, "keep the lowest layers as they are", min=0)
    order: Literal["random", "sorted"] = option(
        "random", "how an epoch becomes batches: at random, or batches of about one length, in windows of 50 of them"
    )
    micro_batch: int | Literal["auto"] = option(
        0,
        "sequences in one forward pass; 0 means the whole batch, auto halves it where memory does not suffice",
        min=0,
        decides=False,  # by more than rounding
    )
    recompute: bool = option(
        False,
        "compute the layers again in the backward pass instead of keeping their activations; the same result",
        decides=False,
    )
    keep: Literal["last", "best", "mean", "seeds"] = option(
        "last",
        "weights that a task stage leaves: of its last step, of the epoch that scores best on source.dev, or the mean "
        "of those after 60, 70, 80, 90 and 100 % of its steps, or of three seeds from one start (arXiv 2310.10532)",
    )

    @property
    def fixed_micro_batch(self) -> int:
        """What batches are cut to beforehand; with "auto" the loop cuts them."""
        return 0 if self.micro_batch == "auto" else self.micro_batch

    @property
    def passes(self) -> int:
        """How often a stage is trained, each time from the same weights."""
        return 3 if self.keep == "seeds" else 1


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What every table of a stage has. A further key or constant that has a name of [training] stands above that."""

    lr: float = option(2e-5, "peak learning rate", above=0)
    epochs: float = option(3.0, "passes over the data", above=0)
    batch_size: int = option(32, "sequences in one optimiser step", min=1)


@dataclass(frozen=True, kw_only=True)
class StageTraining(TrainingConfig, OptimizerConfig):
    """How one stage trains: its own table where that says something, else [training]."""

    epochs: float
    batch_size: int
