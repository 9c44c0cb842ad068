"""The kernels of `fused.soft_label_loss`; what they compute together is said there.

A block is [COLUMNS, ITEMS]: the classes, padded to a power of two, of ITEMS consecutive items, as `votes_kernels` loads
them. Columns beyond the classes hold 0 in every probability, target and logarithm, so that they add nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .votes_kernels import by_class, load_block

NONE = tl.constexpr(0)
SUM = tl.constexpr(1)
MEAN = tl.constexpr(2)


@triton.jit
def _softmax(scores, CLASSES: tl.constexpr, COLUMNS: tl.constexpr):
    """Probabilities and their logarithms of scores that are -inf beyond the classes."""
    shifted = scores - tl.max(scores, axis=0)[None, :]
    power = tl.exp(shifted)
    total = tl.sum(power, axis=0)
    inside = (tl.arange(0, COLUMNS) < CLASSES)[:, None]
    return power / total[None, :], tl.where(inside, shifted - tl.log(total)[None, :], 0.0)


@triton.jit
def _target(
    target_ptr,
    first,
    rows,
    ignore_index,
    SOFT: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
):
    """The teacher's probabilities, or those that are 1 for a class; and which items count."""
    row = tl.arange(0, ITEMS)
    column = tl.arange(0, COLUMNS)[:, None]
    counted = row < rows
    if SOFT:
        loaded = load_block(target_ptr + first * CLASSES, rows, CLASSES, COLUMNS, ITEMS, STAGED)
        target = tl.where(column < CLASSES, by_class(loaded, CLASSES, COLUMNS, ITEMS, STAGED), 0.0)
    else:
        gold = tl.load(target_ptr + first + row, mask=counted, other=0).to(tl.int64)
        counted = counted & (gold != ignore_index)
        known = (gold >= 0) & (gold < CLASSES)
        # A class that does not exist must not pass for an item without loss.
        one = tl.where(known, 1.0, float("nan"))
        target = tl.where((column == gold[None, :]) | ~known[None, :], one[None, :], 0.0)
        target = tl.where(counted[None, :] & (column < CLASSES), target, 0.0)
    return target, counted


@triton.jit
def _load_voter(
    logits_ptr,
    voter,
    first,
    rows,
    items,
    VOTERS: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
):
    """A voter's block; nothing of the voter after the last, whom the loops below ask for one step ahead."""
    start = (first + voter * items.to(tl.int64)) * CLASSES
    there = tl.where(voter < VOTERS, rows, 0)
    return load_block(logits_ptr + start, there, CLASSES, COLUMNS, ITEMS, STAGED)


@triton.jit
def _share(VOTERS: tl.constexpr):
    """[1], each voter's part of the mean over the voters."""
    return tl.full((1,), 1.0 / VOTERS, tl.float32)


@triton.jit
def _distance(probability, logarithm, target, SOFT: tl.constexpr, CLASSES: tl.constexpr):
    """[ITEMS], the mean square or the cross entropy."""
    if SOFT:
        difference = probability - target
        distance = tl.sum(difference * difference, axis=0) / CLASSES
    else:
        distance = -tl.sum(tl.where(target == 0.0, 0.0, target * logarithm), axis=0)
    return distance


@triton.jit
def _store_loss(loss_ptr, divisor_ptr, total, mass, REDUCTION: tl.constexpr):
    """A sum, or a mean over the mass: 0 when there is none."""
    one = tl.arange(0, 1)
    if REDUCTION == MEAN:
        divisor = tl.where(mass == 0.0, 1.0, mass)
        tl.store(divisor_ptr + one, divisor)
        total = total / divisor
    tl.store(loss_ptr + one, total)


@triton.jit(do_not_specialize=["items", "ignore_index"])
def forward_kernel(
    logits_ptr,  # (VOTERS, items, CLASSES)
    target_ptr,  # (items, CLASSES) for SOFT, else (items,) integers
    weights_ptr,  # (items,), or None
    loss_ptr,  # (items,) fp32 for NONE, else (1,)
    divisor_ptr,  # (1,) fp32 for MEAN
    partial_ptr,  # (2, programs) fp32: losses, masses; None for one program
    items,
    ignore_index,
    SOFT: tl.constexpr,
    REDUCTION: tl.constexpr,
    VOTERS: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
):
    row = tl.arange(0, ITEMS)
    total = tl.zeros((ITEMS,), tl.float32)
    mass = tl.zeros((ITEMS,), tl.float32)
    first = tl.program_id(0).to(tl.int64) * ITEMS
    while first < items:
        rows = tl.minimum(items - first, ITEMS).to(tl.int32)
        target, counted = _target(target_ptr, first, rows, ignore_index, SOFT, CLASSES, COLUMNS, ITEMS, STAGED)
        loss = tl.zeros((ITEMS,), tl.float32)
        loaded = _load_voter(logits_ptr, 0, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
        for voter in range(VOTERS):
            scores = by_class(loaded, CLASSES, COLUMNS, ITEMS, STAGED)
            loaded = _load_voter(logits_ptr, voter + 1, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
            probability, logarithm = _softmax(scores, CLASSES, COLUMNS)
            loss += _share(VOTERS) * _distance(probability, logarithm, target, SOFT, CLASSES)
        loss = tl.where(counted, loss, 0.0)
        weight = tl.where(counted, 1.0, 0.0)
        if weights_ptr is not None:
            weight *= tl.load(weights_ptr + first + row, mask=counted, other=0.0).to(tl.float32)
            loss *= weight
        if REDUCTION == NONE:
            tl.store(loss_ptr + first + row, loss, mask=row < rows)
        total += loss
        mass += weight
        first += tl.num_programs(0) * ITEMS
    if REDUCTION != NONE:
        if partial_ptr is None:
            _store_loss(loss_ptr, divisor_ptr, tl.sum(total, axis=0), tl.sum(mass, axis=0), REDUCTION)
        else:
            slot = partial_ptr + tl.program_id(0)
            tl.store(slot, tl.sum(total, axis=0))
            tl.store(slot + tl.num_programs(0), tl.sum(mass, axis=0))


@triton.jit(do_not_specialize=["parts"])
def finish_kernel(
    partial_ptr,  # (2, parts) fp32
    loss_ptr,  # (1,) fp32
    divisor_ptr,  # (1,) fp32 for MEAN
    parts,
    PARTS: tl.constexpr,
    REDUCTION: tl.constexpr,
):
    part = tl.arange(0, PARTS)
    total = tl.sum(tl.load(partial_ptr + part, mask=part < parts, other=0.0), axis=0)
    mass = tl.sum(tl.load(partial_ptr + parts + part, mask=part < parts, other=0.0), axis=0)
    _store_loss(loss_ptr, divisor_ptr, total, mass, REDUCTION)


@triton.jit(do_not_specialize=["upstream_stride", "items", "ignore_index"])
def backward_kernel(
    upstream_ptr,  # (items,) fp32 with upstream_stride, which is 0 for one number
    logits_ptr,  # (VOTERS, items, CLASSES)
    target_ptr,  # (items, CLASSES) for SOFT, else (items,) integers
    weights_ptr,  # (items,), or None
    divisor_ptr,  # (1,) fp32, or None
    gradient_ptr,  # (VOTERS, items, CLASSES)
    upstream_stride,
    items,
    ignore_index,
    SOFT: tl.constexpr,
    VOTERS: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * ITEMS
    rows = tl.minimum(items - first, ITEMS).to(tl.int32)
    row = tl.arange(0, ITEMS)
    column = tl.arange(0, COLUMNS)[:, None]
    target, counted = _target(target_ptr, first, rows, ignore_index, SOFT, CLASSES, COLUMNS, ITEMS, STAGED)
    factor = tl.load(upstream_ptr + (first + row) * upstream_stride, mask=counted, other=0.0)
    if weights_ptr is not None:
        factor *= tl.load(weights_ptr + first + row, mask=counted, other=0.0).to(tl.float32)
    if divisor_ptr is not None:
        factor /= tl.load(divisor_ptr)
    loaded = _load_voter(logits_ptr, 0, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
    for voter in range(VOTERS):
        scores = by_class(loaded, CLASSES, COLUMNS, ITEMS, STAGED)
        loaded = _load_voter(logits_ptr, voter + 1, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
        probability, _ = _softmax(scores, CLASSES, COLUMNS)
        if SOFT:
            # d (sum_c d_c^2 / C) / dz through a softmax: 2 / C p (d - sum_c p_c d_c).
            gradient = (probability - target) * (2.0 / CLASSES)
            gradient = probability * (gradient - tl.sum(probability * gradient, axis=0)[None, :])
        else:
            gradient = probability - target
        gradient *= _share(VOTERS)[None, :]
        gradient = tl.where(counted[None, :], gradient * factor[None, :], 0.0)
        start = (first + voter * items.to(tl.int64)) * CLASSES
        inside = (row < rows)[None, :] & (column < CLASSES)
        tl.store(gradient_ptr + start + row[None, :] * CLASSES + column, gradient, mask=inside)
