"""What M voters say about each item: label, agreement, confidence and mean probability.

arXiv 2310.04726, section 3.2, equation 4: an item is kept when all voters agree and the confidence of every one of them
exceeds the threshold, strictly: `agree & (min_confidence > alpha)`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .dispatch import use_triton

MAX_CLASSES = 1024
"""What one tile of the kernels over the voters holds; more is left to plain torch."""


class Votes(NamedTuple):
    """The votes on K items.

    Attributes:
        label: [K] int64, the agreed class, or the most probable class of the mean where voters disagree.
        agree: [K] bool, all voters name the same class; False where any probability is not a number.
        min_confidence: [K], the smallest over the voters of a voter's own largest probability.
        mean_probability: [K, C], the mean over the voters.
    """

    label: Tensor
    agree: Tensor
    min_confidence: Tensor
    mean_probability: Tensor


def votes(logits: Tensor) -> Votes:
    """Count the votes on every item; never waits for the device. Equal logits vote for the lowest class.

    Args:
        logits: [M, K, C], M >= 1.

    Returns:
        The votes; probabilities are fp32 (fp64 for fp64 logits).

    Raises:
        ValueError: `logits` is not [M, K, C] with M, C >= 1.
    """
    if logits.dim() != 3 or logits.shape[0] < 1 or logits.shape[2] < 1:
        raise ValueError(f"logits must be [M, K, C] with at least one voter and one class, got {tuple(logits.shape)}")
    with torch.no_grad():
        if use_triton(logits) and logits.shape[2] <= MAX_CLASSES:
            from .fused.votes import votes as fused

            return Votes(*fused(logits.detach().contiguous()))
        values = logits if logits.dtype == torch.float64 else logits.float()
        probability = values.softmax(dim=-1)
        choice = values.argmax(dim=-1)
        mean = probability.mean(dim=0)
        agree = (choice == choice[0]).all(dim=0) & ~mean.isnan().any(dim=-1)
        label = torch.where(agree, choice[0], mean.argmax(dim=-1))
        return Votes(label, agree, probability.amax(dim=-1).amin(dim=0), mean)
