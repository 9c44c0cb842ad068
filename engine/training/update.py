"""What happens to a step's gradients: unscaled, checked, clipped, applied. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .config import OptimizerConfig
from .l2_to_base import Anchor
from .optimizer import lr_factor, make_optimiser, set_lr
from .optimizer_state import load_optimiser_tensors, optimiser_tensors
from .precision import LossScaler, Weights

SKIPS_IN_A_ROW = 50
"""Overflows in a row after which fp16 training has failed: the scale is then far below one."""
SCALER = "scaler."


class Update:
    """The optimiser over the fp32 weights, with loss scaling in fp16.

    A step whose loss or gradient is not finite changes no weight. In fp16 that is an overflow, and the scale is
    lowered; otherwise all later steps are held back too, so that the weights stay those before the fault until the
    host has seen it.
    """

    def __init__(self, weights: Weights, config: OptimizerConfig, device: torch.device, precision: str) -> None:
        self.weights, self.config = weights, config
        self.optimiser = make_optimiser(weights.trainable, config, device)
        self.scaler = LossScaler(device) if precision == "fp16" else None
        self.anchor = Anchor(weights.trainable, config.l2_to_base) if config.l2_to_base > 0 else None
        self.held = torch.zeros((), dtype=torch.float32, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        return loss if self.scaler is None else loss * self.scaler.scale

    def set_rate(self, step: int, total: int) -> float:
        """The learning rate of a step, into the optimiser; returns that of the first group."""
        return set_lr(self.optimiser, lr_factor(step, total, self.config.warmup))

    def apply(self, loss: Tensor) -> Tensor:
        """Updates the weights by the gradients that lie in them, unless the step has failed.

        Args:
            loss: the step's mean loss, a scalar on the device.

        Returns:
            fp32 [4] on the device: loss, gradient norm before clipping, whether the step was held back (1 or 0), and
            how many were in a row.
        """
        parameters = [p for p in self.weights.trainable.values() if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        overflow = None if self.scaler is None else self.scaler.unscale(gradients)
        norm = torch.nn.utils.get_total_norm(gradients).to(self.held.device)
        found = (~(norm.isfinite() & loss.isfinite())).float()
        if self.scaler is not None and overflow is not None:
            found = torch.maximum(found, overflow)
            self.scaler.update(found)
            in_a_row = self.scaler.skipped_in_a_row.float()
        else:
            found = self.held.copy_(torch.maximum(found, self.held))
            in_a_row = found
        if self.config.clip > 0:
            # A held step's gradients stay what they are: on a CPU, which clears none ahead, the first bad one is found.
            harmless = torch.where(found > 0, self.config.clip, norm)
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip, harmless)
        self.optimiser.found_inf = found  # type: ignore[attr-defined]
        if self.anchor is not None:
            self.anchor.pull(self.optimiser, found)
        self.optimiser.step()
        self.weights.publish()
        return torch.stack([loss.float(), norm.float(), found, in_a_row])

    def state(self) -> dict[str, Tensor]:
        """Moments by parameter name, and the loss scale."""
        found = optimiser_tensors(self.optimiser, self.weights.trainable)
        if self.scaler is not None:
            found |= {SCALER + name: tensor for name, tensor in self.scaler.state().items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave.

        Raises:
            ModelError: it does not fit the weights.
        """
        load_optimiser_tensors(self.optimiser, self.weights.trainable, tensors)
        if self.scaler is not None:
            self.scaler.load({n.removeprefix(SCALER): t for n, t in tensors.items() if n.startswith(SCALER)})
