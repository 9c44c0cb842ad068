"""AdamW parameter groups, the learning-rate schedule, and clipping."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config import OptimizerConfig


def make_optimiser(
    parameters: Mapping[str, nn.Parameter], config: OptimizerConfig, device: torch.device
) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that train; biases and LayerNorms have no weight decay, as in BERT.

    Parameters below `head` get `head_lr`. Each group carries its peak rate under "peak". On a GPU rates are tensors
    there, so that a captured step can be replayed at another rate.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            peak = config.head_lr if config.head_lr is not None and name.startswith("head.") else config.lr
            decay = 0.0 if name.endswith("bias") or "norm" in name else config.weight_decay
            groups.setdefault((peak, decay), []).append(parameter)
    on_gpu = device.type == "cuda"
    tables = [
        {
            "params": members,
            "lr": torch.full((), peak, device=device) if on_gpu else peak,
            "peak": peak,
            "weight_decay": decay,
        }
        for (peak, decay), members in groups.items()
    ]
    return torch.optim.AdamW(tables, betas=(config.beta1, config.beta2), eps=config.eps, fused=True, capturable=on_gpu)


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
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(group["peak"] * factor)
        else:
            group["lr"] = group["peak"] * factor
    return float(optimiser.param_groups[0]["peak"]) * factor
