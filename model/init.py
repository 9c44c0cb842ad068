"""Seeded initialisation: every draw comes from a generator of its own, never from the global one."""

from __future__ import annotations

import torch
from torch import nn


class Initialiser:
    """Creates parameters as BERT does: weights normal(0, `std`), biases 0, LayerNorm 1 and 0.

    The values are a function of the seed and of the order of the calls. With `seed=None` the weights are left
    uninitialised, for a model that is filled from a file at once.
    """

    def __init__(self, seed: int | None, std: float) -> None:
        self._std = std
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> nn.Parameter:
        """A parameter drawn from normal(0, std)."""
        value = torch.empty(shape)
        if self._generator is not None:
            value.normal_(0.0, self._std, generator=self._generator)
        return nn.Parameter(value)

    def zeros(self, *shape: int) -> nn.Parameter:
        """A bias, or a LayerNorm's shift."""
        return nn.Parameter(torch.zeros(shape))

    def ones(self, *shape: int) -> nn.Parameter:
        """A LayerNorm's scale."""
        return nn.Parameter(torch.ones(shape))
