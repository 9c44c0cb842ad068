"""What M voters say about each item: label, agreement, confidence, and the counts of a threshold sweep.

arXiv 2310.04726, section 3.2, equation 4: an item is kept when all voters agree and the confidence of every one of them
exceeds the threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .dispatch import use_triton

_MAX_CLASSES = 1024
"""What one tile of the kernels holds; more is left to plain torch."""


class Votes(NamedTuple):
    """The votes on K items.

    Attributes:
        label: [K] int64, the agreed class, or the most probable class of the mean where voters disagree.
        agree: [K] bool, all voters name the same class; False where any probability is not a number.
        min_confidence: [K], the smallest over the voters of a voter's own largest probability.
        mean_probability: [K, C], the mean over the voters.
        kept: [A] int64, items kept at each threshold; None without thresholds, as the three below.
        correct: [A] int64, kept items whose label is the gold class; None without gold, as `correct_per_class`.
        kept_per_class: [A, C] int64, by label.
        correct_per_class: [A, C] int64, by label.
        index: [K] int64, the items kept at `alpha` in ascending order, then -1; None without alpha.
        count: [1] int64, how many entries of `index` are items; None without alpha.
    """

    label: Tensor
    agree: Tensor
    min_confidence: Tensor
    mean_probability: Tensor
    kept: Tensor | None
    correct: Tensor | None
    kept_per_class: Tensor | None
    correct_per_class: Tensor | None
    index: Tensor | None  # type: ignore[assignment]
    count: Tensor | None  # type: ignore[assignment]


def votes(
    logits: Tensor,
    *,
    thresholds: Tensor | None = None,
    gold: Tensor | None = None,
    alpha: float | Tensor | None = None,
) -> Votes:
    """Count the votes on every item; never waits for the device.

    An item is kept at a threshold when all voters agree and `min_confidence > threshold`, strictly, compared in the
    dtype of `min_confidence` (thresholds are rounded to it). Equal logits vote for the lowest class. An item with a
    logit that makes a probability not a number is never kept.

    Args:
        logits: [M, K, C], M >= 1.
        thresholds: [A], in any order; one row of counts for each. Nothing is kept at one that is not a number.
        gold: [K], true classes; classes outside [0, C) are never correct. Used with `thresholds` only.
        alpha: the threshold of `index` and `count`.

    Returns:
        The votes; probabilities are fp32 (fp64 for fp64 logits).

    Raises:
        ValueError: `logits` is not [M, K, C] with M, C >= 1, or `gold` is not [K].
    """
    if logits.dim() != 3 or logits.shape[0] < 1 or logits.shape[2] < 1:
        raise ValueError(f"logits must be [M, K, C] with at least one voter and one class, got {tuple(logits.shape)}")
    items, classes = logits.shape[1:]
    if gold is not None and gold.shape != (items,):
        raise ValueError(f"gold must be [{items}], got {tuple(gold.shape)}")
    if use_triton(logits) and classes <= _MAX_CLASSES:
        return _fused(logits, thresholds, gold, alpha)
    with torch.no_grad():
        values = logits if logits.dtype == torch.float64 else logits.float()
        probability = values.softmax(dim=-1)
        choice = values.argmax(dim=-1)
        mean = probability.mean(dim=0)
        confidence = probability.amax(dim=-1).amin(dim=0)
        agree = (choice == choice[0]).all(dim=0) & ~mean.isnan().any(dim=-1)
        label = torch.where(agree, choice[0], mean.argmax(dim=-1))
        kept = correct = index = count = None
        if thresholds is not None:
            kept, correct = _sweep(label, agree, confidence, thresholds, gold, classes)
        if alpha is not None:
            index, count = _compact(agree & (confidence > _alpha_tensor(alpha, confidence)))
    return Votes(
        label=label,
        agree=agree,
        min_confidence=confidence,
        mean_probability=mean,
        kept=None if kept is None else kept.sum(dim=1),
        correct=None if correct is None else correct.sum(dim=1),
        kept_per_class=kept,
        correct_per_class=correct,
        index=index,
        count=count,
    )


def _fused(logits: Tensor, thresholds: Tensor | None, gold: Tensor | None, alpha: float | Tensor | None) -> Votes:
    from .fused.votes import votes as operator

    with torch.no_grad():
        like = logits.new_empty((), dtype=torch.float32)
        grid = None if thresholds is None else _threshold_tensor(thresholds, like).contiguous()
        level = None if alpha is None else _alpha_tensor(alpha, like).reshape(1)
        classes = None if grid is None or gold is None else gold.contiguous()
        values = logits.detach().contiguous()
        label, agree, confidence, mean, counts, index, count = operator(values, grid, classes, level)
        kept = correct = kept_per_class = correct_per_class = None
        if grid is not None:
            totals = counts.sum(dim=2)
            kept, kept_per_class = totals[0], counts[0]
            if classes is not None:
                correct, correct_per_class = totals[1], counts[1]
    return Votes(
        label=label,
        agree=agree,
        min_confidence=confidence,
        mean_probability=mean,
        kept=kept,
        correct=correct,
        kept_per_class=kept_per_class,
        correct_per_class=correct_per_class,
        index=None if alpha is None else index,
        count=None if alpha is None else count,
    )


def _threshold_tensor(thresholds: Tensor, like: Tensor) -> Tensor:
    """In the dtype of the confidences; infinity, which nothing exceeds, for what is not a number."""
    values = thresholds.detach().to(like)
    return torch.where(values.isnan(), torch.inf, values)


def _alpha_tensor(alpha: float | Tensor, like: Tensor) -> Tensor:
    """On the device without waiting for it, in the dtype of the confidences."""
    return alpha.detach().to(like) if isinstance(alpha, Tensor) else like.new_full((), alpha)


def _sweep(
    label: Tensor, agree: Tensor, confidence: Tensor, thresholds: Tensor, gold: Tensor | None, classes: int
) -> tuple[Tensor, Tensor | None]:
    """[A, C] counts from one histogram: an item is kept at the thresholds strictly below its confidence."""
    ordered, order = _threshold_tensor(thresholds, confidence).sort()
    below = torch.bucketize(confidence, ordered, right=False)
    kept = _suffix_counts(below, label, agree, order, classes)
    if gold is None:
        return kept, None
    return kept, _suffix_counts(below, label, agree & (label == gold), order, classes)


def _suffix_counts(below: Tensor, label: Tensor, counted: Tensor, order: Tensor, classes: int) -> Tensor:
    buckets = order.shape[0] + 1
    histogram = torch.zeros(buckets * classes, dtype=torch.int64, device=label.device)
    histogram.scatter_add_(0, below * classes + label, counted.long())
    suffix = histogram.view(buckets, classes).flip(0).cumsum(0).flip(0)[1:]
    return torch.empty_like(suffix).index_copy_(0, order, suffix)


def _compact(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the true entries, in order, by a prefix sum: `nonzero` would wait for the device."""
    items = keep.shape[0]
    slot = torch.where(keep, keep.cumsum(0) - 1, items)
    index = torch.full((items + 1,), -1, dtype=torch.int64, device=keep.device)
    index.scatter_(0, slot, torch.arange(items, device=keep.device))
    index[items] = -1
    return index[:items], keep.sum().view(1)
