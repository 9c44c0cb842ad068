"""The kernels of `fused.soft_label_loss`; what they compute together is said there.

A block is [COLUMNS, ITEMS]: the classes, padded to a power of two, of ITEMS consecutive items, as `votes_kernels` loads
them. Columns beyond the classes hold 0 in every probability, target and logarithm, so that they add nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .votes_kernels import by_class, load_block

# What is compared: see `kernels.soft_label_loss`; CLASS is `kernels.voter_cross_entropy`. Those below KL are squares.
MSE = tl.constexpr(0)
LOGITS = tl.constexpr(1)
KL = tl.constexpr(2)
CE = tl.constexpr(3)
CLASS = tl.constexpr(4)

NONE = tl.constexpr(0)
SUM = tl.constexpr(1)
MEAN = tl.constexpr(2)


@triton.jit
def _log(x):
    """The logarithm, -inf of 0."""
    return tl.where(x == 0.0, float("-inf"), tl.log(tl.where(x == 0.0, 1.0, x)))


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
    teacher_ptr,
    first,
    rows,
    temperature,
    ignore_index,
    KIND: tl.constexpr,
    POWERS: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
):
    """The target, its logarithm (0 where the target is), and which items count.

    POWERS: the teacher's probabilities are raised to the power 1 / temperature and normalised.
    """
    row = tl.arange(0, ITEMS)
    column = tl.arange(0, COLUMNS)[:, None]
    counted = row < rows
    if KIND == CLASS:
        gold = tl.load(teacher_ptr + first + row, mask=counted, other=0).to(tl.int64)
        counted = counted & (gold != ignore_index)
        known = (gold >= 0) & (gold < CLASSES)
        # A class that does not exist must not pass for an item without loss.
        one = tl.where(known, 1.0, float("nan"))
        target = tl.where((column == gold[None, :]) | ~known[None, :], one[None, :], 0.0)
        target = tl.where(counted[None, :] & (column < CLASSES), target, 0.0)
        log_target = tl.zeros((COLUMNS, ITEMS), tl.float32)
    else:
        loaded = load_block(teacher_ptr + first * CLASSES, rows, CLASSES, COLUMNS, ITEMS, STAGED)
        given = by_class(loaded, CLASSES, COLUMNS, ITEMS, STAGED)
        if KIND == LOGITS:
            target = tl.where(column < CLASSES, given, 0.0)
            log_target = target
        elif POWERS:
            # Rows beyond the items are all 0, which no power makes a distribution.
            given = tl.where(counted[None, :], given, 1.0)
            given = _log(tl.where(column < CLASSES, given, 0.0))
            target, log_target = _softmax(given / temperature, CLASSES, COLUMNS)
            log_target = tl.where(target == 0.0, 0.0, log_target)
        else:
            target = tl.where(column < CLASSES, given, 0.0)
            log_target = tl.log(tl.where(target == 0.0, 1.0, target))
    return target, log_target, counted


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
def _view(
    loaded,
    temperature,
    KIND: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
):
    """What of a voter is compared, and its logarithm: probabilities, or the logits themselves (without logarithm)."""
    scores = by_class(loaded, CLASSES, COLUMNS, ITEMS, STAGED)
    if KIND == LOGITS:
        inside = (tl.arange(0, COLUMNS) < CLASSES)[:, None]
        view = tl.where(inside, scores, 0.0)
        log_view = view
    else:
        view, log_view = _softmax(scores / temperature, CLASSES, COLUMNS)
    return view, log_view


@triton.jit
def _share(VOTERS: tl.constexpr):
    """[1], each voter's part of the mean over the voters."""
    return tl.full((1,), 1.0 / VOTERS, tl.float32)


@triton.jit
def _mean_view(
    logits_ptr,
    first,
    rows,
    items,
    temperature,
    KIND: tl.constexpr,
    VOTERS: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
):
    """The voters' mean view and its logarithm, of which "kl" and "ce" use the latter: a logsumexp over the voters."""
    mean = tl.zeros((COLUMNS, ITEMS), tl.float32)
    top = tl.full((COLUMNS, ITEMS), float("-inf"), tl.float32)
    total = tl.zeros((COLUMNS, ITEMS), tl.float32)
    loaded = _load_voter(logits_ptr, 0, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
    for voter in range(VOTERS):
        view, log_view = _view(loaded, temperature, KIND, CLASSES, COLUMNS, ITEMS, STAGED)
        loaded = _load_voter(logits_ptr, voter + 1, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
        share = _share(VOTERS)
        if KIND < KL:
            mean += share[None, :] * view
        else:
            term = log_view + _log(share)[None, :]
            higher = tl.maximum(top, term)
            base = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp(top - base) + tl.exp(term - base)
            top = higher
    return mean, tl.where(top == float("-inf"), 0.0, top) + _log(total)


@triton.jit
def _distance(view, log_view, target, log_target, KIND: tl.constexpr, CLASSES: tl.constexpr):
    """[ITEMS]; of "kl" and "ce" without the squared temperature."""
    if KIND < KL:
        difference = view - target
        distance = tl.sum(difference * difference, axis=0) / CLASSES
    elif KIND == KL:
        distance = tl.sum(target * (log_target - log_view), axis=0)
    elif KIND == CE:
        distance = -tl.sum(target * log_view, axis=0)
    else:
        distance = -tl.sum(tl.where(target == 0.0, 0.0, target * log_view), axis=0)
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
    teacher_ptr,  # (items, CLASSES), or (items,) integers for CLASS
    weights_ptr,  # (items,), or None
    loss_ptr,  # (items,) fp32 for NONE, else (1,)
    divisor_ptr,  # (1,) fp32 for MEAN
    partial_ptr,  # (2, programs) fp32: losses, masses; None for one program
    items,
    ignore_index,
    temperature,
    scale,
    KIND: tl.constexpr,
    POWERS: tl.constexpr,
    COMBINE: tl.constexpr,
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
        target, log_target, counted = _target(
            teacher_ptr, first, rows, temperature, ignore_index, KIND, POWERS, CLASSES, COLUMNS, ITEMS, STAGED
        )
        if COMBINE:
            view, log_view = _mean_view(
                logits_ptr, first, rows, items, temperature, KIND, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED
            )
            loss = _distance(view, log_view, target, log_target, KIND, CLASSES)
        else:
            loss = tl.zeros((ITEMS,), tl.float32)
            loaded = _load_voter(logits_ptr, 0, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
            for voter in range(VOTERS):
                view, log_view = _view(loaded, temperature, KIND, CLASSES, COLUMNS, ITEMS, STAGED)
                loaded = _load_voter(logits_ptr, voter + 1, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
                share = _share(VOTERS)
                loss += share * _distance(view, log_view, target, log_target, KIND, CLASSES)
        loss = tl.where(counted, loss * scale, 0.0)
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
    teacher_ptr,  # (items, CLASSES), or (items,) integers for CLASS
    weights_ptr,  # (items,), or None
    divisor_ptr,  # (1,) fp32, or None
    gradient_ptr,  # (VOTERS, items, CLASSES)
    upstream_stride,
    items,
    ignore_index,
    temperature,
    scale,
    KIND: tl.constexpr,
    POWERS: tl.constexpr,
    COMBINE: tl.constexpr,
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
    target, log_target, counted = _target(
        teacher_ptr, first, rows, temperature, ignore_index, KIND, POWERS, CLASSES, COLUMNS, ITEMS, STAGED
    )
    factor = scale * tl.load(upstream_ptr + (first + row) * upstream_stride, mask=counted, other=0.0)
    if weights_ptr is not None:
        factor *= tl.load(weights_ptr + first + row, mask=counted, other=0.0).to(tl.float32)
    if divisor_ptr is not None:
        factor /= tl.load(divisor_ptr)
    mass = tl.sum(target, axis=0)
    if COMBINE:
        mean, log_mean = _mean_view(
            logits_ptr, first, rows, items, temperature, KIND, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED
        )
    loaded = _load_voter(logits_ptr, 0, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
    for voter in range(VOTERS):
        view, log_view = _view(loaded, temperature, KIND, CLASSES, COLUMNS, ITEMS, STAGED)
        loaded = _load_voter(logits_ptr, voter + 1, first, rows, items, VOTERS, CLASSES, COLUMNS, ITEMS, STAGED)
        share = _share(VOTERS)
        if KIND < KL:
            # d (sum_c d_c^2) / dz = 2 d, and through a softmax 2 p (d - sum_c p_c d_c); the 2 is in the scale.
            gradient = (mean if COMBINE else view) - target
            if KIND == MSE:
                gradient = view * (gradient - tl.sum(view * gradient, axis=0)[None, :])
            gradient *= share[None, :]
        elif COMBINE:
            # Each voter answers for its part of the mean probability.
            pull = target * tl.exp(log_view + _log(share)[None, :] - log_mean)
            gradient = view * tl.sum(pull, axis=0)[None, :] - pull
        else:
            gradient = (view * mass[None, :] - target) * share[None, :]
        gradient = tl.where(counted[None, :], gradient * factor[None, :], 0.0)
        start = (first + voter * items.to(tl.int64)) * CLASSES
        inside = (row < rows)[None, :] & (column < CLASSES)
        tl.store(gradient_ptr + start + row[None, :] * CLASSES + column, gradient, mask=inside)
