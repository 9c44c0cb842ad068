"""Losses of M voters against a teacher's distribution or against classes (arXiv 2310.04726, equations 1 and 2).

Beside them the supervised contrastive loss of a batch: items of one class attract each other, all others are pushed
away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import REDUCTIONS, check_option, check_temperature, reduce_loss
from .dispatch import use_triton
from .votes import MAX_CLASSES


def soft_label_loss(
    logits: Tensor, teacher: Tensor, *, weights: Tensor | None = None, reduction: str = "sum"
) -> Tensor:
    """The mean square of what parts the voters' probabilities from the teacher's, in fp32 (Eq. 1).

    An item's loss is the mean over voters and classes. Gradients flow to `logits` only.

    Args:
        logits: [M, K, C].
        teacher: [K, C], probabilities.
        weights: [K], multiplies each item's loss.
        reduction: "sum", "mean" (divided by the sum of the weights) or "none".

    Returns:
        A scalar, or [K] for "none".

    Raises:
        ValueError: an unknown reduction, or shapes that do not fit together.
    """
    if logits.dim() != 3 or teacher.shape != logits.shape[1:]:
        raise ValueError(f"logits {tuple(logits.shape)}, teacher {tuple(teacher.shape)} must be [M, K, C], [K, C]")
    check_option("reduction", reduction, REDUCTIONS)
    if _fits_kernels(logits):
        return _fused(logits, teacher, weights, True, reduction, ignore_index=0)
    student = logits if logits.dtype == torch.float64 else logits.float()
    distance = (student.softmax(-1) - teacher.detach().to(student.dtype)).square().mean(-1)
    return reduce_loss((distance * (1.0 / logits.shape[0])).sum(0), weights, None, reduction)


def _fits_kernels(logits: Tensor) -> bool:
    voters, _, classes = logits.shape
    return use_triton(logits) and voters >= 1 and 1 <= classes <= MAX_CLASSES


def _fused(
    logits: Tensor, target: Tensor, weights: Tensor | None, soft: bool, reduction: str, ignore_index: int
) -> Tensor:
    from .fused.soft_label_loss import soft_label_loss as operator

    constants = [None if t is None else t.detach().contiguous() for t in (target, weights)]
    loss: Tensor
    loss, _ = operator(logits.contiguous(), *constants, soft, reduction, ignore_index)
    return loss


def voter_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weights: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "sum",
) -> Tensor:
    """The mean over the voters of the cross entropy with the class of each item, in fp32.

    Args:
        logits: [M, K, C].
        target: [K], classes or `ignore_index`.
        weights: [K], multiplies each item's loss.
        ignore_index: items with this target have no loss and no gradient.
        reduction: "sum", "mean" (divided by the sum of the weights of the items that count; 0 when there are none) or
            "none".

    Returns:
        A scalar, or [K] for "none".

    Raises:
        ValueError: an unknown reduction, or shapes that do not fit together.
    """
    if logits.dim() != 3 or target.shape != logits.shape[1:2]:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} must be [M, K, C] and [K]")
    check_option("reduction", reduction, REDUCTIONS)
    if _fits_kernels(logits):
        return _fused(logits, target, weights, False, reduction, ignore_index)
    values = logits if logits.dtype == torch.float64 else logits.float()
    valid = target != ignore_index
    index = torch.where(valid, target, 0).long()
    log_probability = values.log_softmax(-1)
    picked = log_probability.gather(-1, index[None, :, None].expand(logits.shape[0], -1, 1))
    per_item = torch.where(valid, -picked.squeeze(-1).mean(0), 0.0)
    return reduce_loss(per_item, weights, valid, reduction)


def supervised_contrastive(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: float,
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
        ignore_index: the label of padding.
        reduction: "sum", "mean" (divided by the number of the items that count; 0 when there are none) or "none".

    Returns:
        A scalar, or [N] for "none".

    Raises:
        ValueError: an unknown reduction, a temperature that is not positive, or shapes that do not fit together.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features {tuple(features.shape)} and labels {tuple(labels.shape)} must be [N, H] and [N]")
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
    return reduce_loss(torch.where(anchor, spread - nearness, 0.0), None, anchor, reduction)
