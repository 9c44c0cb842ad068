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

_KINDS = ("mse", "logits", "kl", "ce")


def soft_label_loss(
    logits: Tensor,
    teacher: Tensor,
    *,
    kind: str = "mse",
    temperature: float = 1.0,
    weights: Tensor | None = None,
    combine: str = "per-voter",
    reduction: str = "sum",
) -> Tensor:
    """The distance of the voters' distributions from the teacher's, in fp32.

    An item's loss is the mean over the voters of, by `kind`:

    - "mse": the mean over the classes of the squared difference of probabilities;
    - "logits": the mean over the classes of the squared difference of logits;
    - "kl": `sum_c t_c (log t_c - log p_c)`, times the squared temperature (arXiv 1503.02531);
    - "ce": `-sum_c t_c log p_c`, times the squared temperature.

    Gradients flow to `logits` only.

    Args:
        logits: [M, K, C].
        teacher: [K, C], probabilities; logits for `kind="logits"`.
        temperature: divides the logits before the softmax; the teacher is raised to the power `1 / temperature` and
            normalised, which is the same. Not used by `kind="logits"`.
        weights: [K], multiplies each item's loss.
        combine: "per-voter", or "mean", which compares the voters' mean probability (mean logit for "logits").
        reduction: "sum", "mean" (divided by the sum of the weights) or "none".

    Returns:
        A scalar, or [K] for "none".

    Raises:
        ValueError: an unknown option, a temperature that is not positive, or shapes that do not fit together.
    """
    _check_options(logits, teacher, kind, temperature, combine, reduction)
    if _fits_kernels(logits):
        return _fused(logits, teacher, weights, kind, temperature, combine, reduction, ignore_index=0)
    student = logits if logits.dtype == torch.float64 else logits.float()
    target = teacher.detach().to(student.dtype)
    share = 1.0 / logits.shape[0]
    if kind == "logits":
        if combine == "mean":
            student = (student * share).sum(0, keepdim=True)
        distance = (student - target).square().mean(-1)
    else:
        target = target if temperature == 1.0 else (target.log() / temperature).softmax(-1)
        distance = _distance(student / temperature, target, kind, combine, share)
        if kind != "mse":
            distance = distance * temperature**2
    per_item = distance[0] if combine == "mean" else (distance * share).sum(0)
    return reduce_loss(per_item, weights, None, reduction)


def _fits_kernels(logits: Tensor) -> bool:
    voters, _, classes = logits.shape
    return use_triton(logits) and voters >= 1 and 1 <= classes <= MAX_CLASSES


def _fused(
    logits: Tensor,
    teacher: Tensor,
    weights: Tensor | None,
    kind: str,
    temperature: float,
    combine: str,
    reduction: str,
    ignore_index: int,
) -> Tensor:
    from .fused.soft_label_loss import soft_label_loss as operator

    constants = [None if t is None else t.detach().contiguous() for t in (teacher, weights)]
    loss: Tensor
    loss, _ = operator(logits.contiguous(), *constants, kind, temperature, combine, reduction, ignore_index)
    return loss


def _distance(student: Tensor, target: Tensor, kind: str, combine: str, share: float) -> Tensor:
    """[M, K], or [1, K] when the voters' mean is compared."""
    if kind == "mse":
        probability = student.softmax(-1)
        if combine == "mean":
            probability = (probability * share).sum(0, keepdim=True)
        return (probability - target).square().mean(-1)
    log_probability = student.log_softmax(-1)
    if combine == "mean":
        log_probability = (log_probability + log_probability.new_full((), share).log()).logsumexp(0, keepdim=True)
    cross_entropy = -(target * log_probability).sum(-1)
    if kind == "ce":
        return cross_entropy
    return cross_entropy + torch.xlogy(target, target).sum(-1)


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
        return _fused(logits, target, weights, "class", 1.0, "per-voter", reduction, ignore_index)
    values = logits if logits.dtype == torch.float64 else logits.float()
    valid = target != ignore_index
    index = torch.where(valid, target, 0).long()
    log_probability = values.log_softmax(-1)
    picked = log_probability.gather(-1, index[None, :, None].expand(logits.shape[0], -1, 1))
    per_item = torch.where(valid, -picked.squeeze(-1).mean(0), 0.0)
    return reduce_loss(per_item, weights, valid, reduction)


def _check_options(
    logits: Tensor, teacher: Tensor, kind: str, temperature: float, combine: str, reduction: str
) -> None:
    if logits.dim() != 3 or teacher.shape != logits.shape[1:]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and teacher {tuple(teacher.shape)} must be [M, K, C] and [K, C]"
        )
    check_option("kind", kind, _KINDS)
    check_option("combine", combine, ("per-voter", "mean"))
    check_option("reduction", reduction, REDUCTIONS)
    check_temperature(temperature)


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
