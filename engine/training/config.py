"""Settings of the loop: what its optimizer does with gradients, and how steps reach the device."""

from __future__ import annotations

from dataclasses import dataclass, field
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
class ScheduleConfig:
    """AdamW with linear warm-up, a constant middle and linear decay: all but the rates, which differ by stage."""

    warmup: float = option(0.1, "share of the steps", min=0, max=1)
    decay: float = option(
        1.0,
        "share of the steps after warm-up in which the rate falls to zero; before them it is constant, with 0 to the "
        "end",
        min=0,
        max=1,
    )
    weight_decay: float = option(0.01, "on matrices only", min=0)
    clip: float = option(1.0, "largest global gradient norm; 0 switches clipping off", min=0)
    beta2: float = option(0.999, "AdamW's decay of the squared gradients", min=0, max=1)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(ScheduleConfig):
    """What an optimizer is made of."""

    lr: float = option(2e-5, "peak learning rate", above=0)
    head_lr: float | None = option(None, "peak learning rate of the head; `lr` when absent", above=0)
    beta1: float = 0.9
    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class PerformanceConfig:
    """How steps reach the device; results differ by rounding at most (docs/performance.md)."""

    graphs: bool | Literal["auto"] = option("auto", "launch a step as one CUDA graph; auto: where that is possible")
    buckets: int | Literal["auto"] = option(
        "auto", "number of sizes that batches are padded to, 0 for none; auto: 8 with graphs, else 0", min=0
    )
    feed: bool | Literal["auto"] = option("auto", "make batches ahead in a thread; auto: on a GPU")

    def problems(self) -> list[tuple[str, str]]:
        if self.graphs is True and self.buckets == 0:
            return [("buckets", "is 0, but graphs = true needs static sizes; leave it out")]
        return []
