"""AdamW parameter groups, the learning-rate schedule, and clipping."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import OptimiserConfig


def make_optimiser(model: nn.Module, config: OptimiserConfig) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that train: matrices with weight decay, vectors without.

    Parameters below `head` get `head_lr`. Each group carries its peak rate under "peak".
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            peak = config.head_lr if config.head_lr is not None and name.startswith("head.") else config.lr
            decay = config.weight_decay if _is_matrix(name, parameter) else 0.0
            groups.setdefault((peak, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": peak, "peak": peak, "weight_decay": decay} for (peak, decay), p in groups.items()],
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and not name.endswith("bias") and ".b1" not in name and ".b2" not in name


def lr_factor(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate at `step` (from 0) of `total`: linear warm-up, then linear decay to zero.

    The first step already moves (factor 1 / warm-up steps), the last one still does.
    """
    warm = max(1, round(total * warmup)) if warmup > 0 else 0
    if step < warm:
        return (step + 1) / warm
    return (total - step) / max(1, total - warm)


def set_lr(optimiser: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group's rate to `factor` times its peak; returns the first group's rate."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor
    return float(optimiser.param_groups[0]["lr"])
