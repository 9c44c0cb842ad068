"""A pull back to the weights that a stage starts from, against forgetting."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

ENCODER = "encoder."


class Anchor:
    """L2 to the start (L2-SP, arXiv 1802.01483), decoupled from the gradient like AdamW's weight decay.

    Before each step `w <- w - lr * strength * (w - start)`, one gradient step on `strength / 2 * |w - start|^2` at the
    step's rate. As a term of the loss it would be divided by Adam's second moment, so that weights with large gradients
    would hardly be held, and it would count towards the norm that clips. Encoder weights alone are held, in fp32: a
    head starts from random numbers, which are nothing to come back to.

    The start is a copy of what trains, made when the loop is, before a checkpoint is read: a stage that is continued
    has the same one.

    Args:
        trainable: fp32 weights by name.
        strength: `l2_to_base`, above 0.
    """

    def __init__(self, trainable: Mapping[str, nn.Parameter], strength: float) -> None:
        self.strength = strength
        held = {name: p for name, p in trainable.items() if name.startswith(ENCODER)}
        self._start = {p: p.detach().clone() for p in held.values()}

    @torch.no_grad()
    def pull(self, optimiser: torch.optim.Optimizer, found: Tensor) -> None:
        """Moves the weights by one step's share, at the rates that lie in the optimiser; nothing waits for the device.

        Args:
            found: fp32 scalar on the device, 1.0 where the step is held back and no weight may change, else 0.0.
        """
        for group in optimiser.param_groups:
            share = (1.0 - found) * group["lr"] * self.strength
            for parameter in group["params"]:
                if (start := self._start.get(parameter)) is not None:
                    parameter.lerp_(start, share)
