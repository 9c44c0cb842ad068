"""The supervised contrastive loss of a batch: items of one class attract each other, all others are pushed away."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import REDUCTIONS, check_option, check_temperature, reduce_loss


def supervised_contrastive(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    weights: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "sum",
) -> Tensor:
    """The loss of Yu and Joty (EMNLP 2021), Eq. 2, after arXiv 2011.01403, in fp32.

    With `z` the features divided by their length and `s_ij = z_i . z_j / temperature`, an item's loss is the mean over
    the other items `j` of its class of `log sum_k exp(s_ik) - s_ij`, `k` over all items but `i` itself. An item with
    nobody of its class counts nothing, nor does a batch without items; features that are all zero have similarity 0 to
    everything and no gradient. Memory is that of one [N, N] matrix of fp32.

    Args:
        features: [N, H], of any length; gradients flow to them only.
        labels: [N] integers. Items with `ignore_index` do not exist for the others.
        temperature: divides the cosines.
        weights: [N], multiplies each item's own loss; an item of weight 0 still is company for the others.
        ignore_index: the label of padding.
        reduction: "sum", "mean" (divided by the sum of the weights of the items that count; 0 when there are none) or
            "none".

    Returns:
        A scalar, or [N] for "none".

    Raises:
        ValueError: an unknown reduction, a temperature that is not positive, or shapes that do not fit together.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features {tuple(features.shape)} and labels {tuple(labels.shape)} must be [N, H] and [N]")
    if weights is not None and weights.shape != labels.shape:
        raise ValueError(f"weights must be [{labels.shape[0]}], got {tuple(weights.shape)}")
    check_temperature(temperature)
    check_option("reduction", reduction, REDUCTIONS)
    values = features if features.dtype == torch.float64 else features.float()
    square = values.square().sum(dim=-1, keepdim=True)
    long = square > 0
    unit = values * torch.where(long, square, 1.0).rsqrt() * long
    with torch.autocast(features.device.type, enabled=False):
        similarity = unit @ unit.T / temperature
    there = labels != ignore_index
    other = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device) & there & there[:, None]
    positive = other & (labels == labels[:, None])
    number = positive.sum(dim=-1)
    anchor = number > 0
    # Rows that count nothing become harmless before the logarithm: its gradient at a sum of zero is not a number.
    compared = torch.where(anchor[:, None], similarity.masked_fill(~other, -torch.inf), 0.0)
    nearness = torch.where(positive, similarity, 0.0).sum(dim=-1) / number.clamp(min=1)
    # An empty batch has no dimension to take a logarithm over.
    spread = compared.logsumexp(dim=-1) if len(labels) else nearness
    return reduce_loss(torch.where(anchor, spread - nearness, 0.0), weights, anchor, reduction)
