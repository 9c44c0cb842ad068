"""The kernels of `fused.votes`; what they compute together is said there."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_block(
    values_ptr,  # at the first value of the block
    rows,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
):
    """Consecutive rows of CLASSES values as `by_class` takes them; 0 beyond them.

    Rows whose size is a power of two are loaded as they lie. Rows of another size (9 classes) are not aligned: a row
    would be spread over 16 lanes of which 7 idle, and every maximum and sum over it would cost 4 shuffles. So the block
    is loaded as the one contiguous span that it is, to be STAGED through shared memory.
    """
    if STAGED:
        flat = tl.arange(0, COLUMNS * ITEMS)
        inside = (flat < rows * CLASSES) & (flat < ITEMS * CLASSES)
        # The alignment is disowned: only the first voter's span has one, and it would give each thread 4 neighbours,
        # which it would then load one by one.
        pointers = tl.multiple_of(values_ptr + flat, 1)
    else:
        row = tl.arange(0, ITEMS)[None, :]
        column = tl.arange(0, COLUMNS)[:, None]
        inside = (row < rows) & (column < CLASSES)
        pointers = values_ptr + row * CLASSES + column
    return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def by_class(values, CLASSES: tl.constexpr, COLUMNS: tl.constexpr, ITEMS: tl.constexpr, STAGED: tl.constexpr):
    """[COLUMNS, ITEMS] fp32 of what `load_block` loaded; -inf beyond the classes.

    STAGED: a gather whose indices run over the items first, so that each thread holds all classes of its item and
    reductions over the classes stay in the thread.
    """
    values = values.to(tl.float32)
    if STAGED:
        flat = tl.arange(0, COLUMNS * ITEMS)
        values = tl.reshape(tl.gather(values, (flat % ITEMS) * CLASSES + flat // ITEMS, 0), (COLUMNS, ITEMS))
    return tl.where((tl.arange(0, COLUMNS) < CLASSES)[:, None], values, float("-inf"))


@triton.jit
def _lowest_best(values, COLUMNS: tl.constexpr):
    """The first class of each item that holds its largest value; COLUMNS where none does (not a number)."""
    column = tl.arange(0, COLUMNS)[:, None]
    best = tl.max(values, axis=0)
    return tl.min(tl.where(values == best[None, :], column, COLUMNS), axis=0)


@triton.jit
def _thresholds_below(confidence, thresholds_ptr, thresholds, STEPS: tl.constexpr):
    """How many of the ascending thresholds are strictly below each confidence, by bisection."""
    below = tl.zeros_like(confidence).to(tl.int32)
    for step in tl.static_range(STEPS):
        probe = below + (1 << (STEPS - 1 - step))
        inside = probe <= thresholds
        value = tl.load(thresholds_ptr + probe - 1, mask=inside, other=float("inf"))
        below = tl.where(inside & (value < confidence), probe, below)
    return below


@triton.jit(do_not_specialize=["items", "thresholds", "copies"])
def votes_kernel(
    logits_ptr,  # (VOTERS, items, CLASSES)
    gold_ptr,  # (items,) integers, or None
    thresholds_ptr,  # (thresholds,) fp32 ascending, or None
    alpha_ptr,  # (1,) fp32, or None
    label_ptr,  # (items,) int64
    agree_ptr,  # (items,) bool
    confidence_ptr,  # (items,) fp32
    mean_ptr,  # (items, CLASSES) fp32
    histogram_ptr,  # (2 or 1, copies, CLASSES, thresholds + 1) int32, zeros
    counts_ptr,  # (compacting blocks,) int32, zeros
    items,
    thresholds,
    copies,
    VOTERS: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
    STEPS: tl.constexpr,
    COMPACT_ITEMS: tl.constexpr,
):
    block = tl.program_id(0)
    first = block.to(tl.int64) * ITEMS
    rows = tl.minimum(items - first, ITEMS).to(tl.int32)
    row = tl.arange(0, ITEMS)
    inside = row < rows
    mean = tl.zeros((COLUMNS, ITEMS), tl.float32)
    mass = tl.zeros((ITEMS,), tl.float32)
    confidence = tl.full((ITEMS,), 1.0, tl.float32)
    label = tl.zeros((ITEMS,), tl.int32)
    agree = inside
    loaded = load_block(logits_ptr + first * CLASSES, rows, CLASSES, COLUMNS, ITEMS, STAGED)
    for voter in range(VOTERS):
        values = by_class(loaded, CLASSES, COLUMNS, ITEMS, STAGED)
        # Ahead of the arithmetic on this voter, whose barriers the compiler would not load across.
        start = (first + (voter + 1) * items.to(tl.int64)) * CLASSES
        rows_ahead = tl.where(voter + 1 < VOTERS, rows, 0)
        loaded = load_block(logits_ptr + start, rows_ahead, CLASSES, COLUMNS, ITEMS, STAGED)
        power = tl.exp(values - tl.max(values, axis=0)[None, :])
        total = tl.sum(power, axis=0)
        # exp(0) = 1 stands where the logit is largest: the largest probability is the correctly rounded 1 / total.
        best = tl.div_rn(tl.full((ITEMS,), 1.0, tl.float32), total)
        mean += power * best[None, :]
        mass += total
        confidence = tl.minimum(confidence, best)
        choice = _lowest_best(values, COLUMNS)
        label = tl.where(voter == 0, choice, label)
        agree = agree & (choice == label)
    number = mass == mass
    agree = agree & number
    confidence = tl.where(number, confidence, mass)
    label = tl.where(agree, label, tl.where(number, _lowest_best(mean, COLUMNS), 0))

    item = first + row
    tl.store(label_ptr + item, label.to(tl.int64), mask=inside)
    tl.store(agree_ptr + item, agree, mask=inside)
    tl.store(confidence_ptr + item, confidence, mask=inside)
    column = tl.arange(0, COLUMNS)[:, None]
    written = inside[None, :] & (column < CLASSES)
    offset = row[None, :] * CLASSES + column
    tl.store(mean_ptr + first * CLASSES + offset, mean * (1.0 / VOTERS), mask=written)
    if thresholds_ptr is not None:
        below = _thresholds_below(confidence, thresholds_ptr, thresholds, STEPS)
        slot = ((block % copies) * CLASSES + label) * (thresholds + 1) + below
        tl.atomic_add(histogram_ptr + slot, 1, mask=agree, sem="relaxed")
        if gold_ptr is not None:
            correct = agree & (tl.load(gold_ptr + item, mask=inside, other=-1).to(tl.int64) == label)
            tl.atomic_add(histogram_ptr + copies * CLASSES * (thresholds + 1) + slot, 1, mask=correct, sem="relaxed")
    if alpha_ptr is not None:
        kept = agree & (confidence > tl.load(alpha_ptr))
        tl.atomic_add(counts_ptr + first // COMPACT_ITEMS, tl.sum(kept.to(tl.int32), axis=0), sem="relaxed")


@triton.jit(do_not_specialize=["thresholds", "copies", "classes"])
def suffix_kernel(
    histogram_ptr,  # (2 or 1, copies, classes, thresholds + 1) int32
    order_ptr,  # (thresholds,) int64, where each ascending threshold was given
    counts_ptr,  # (2 or 1, thresholds, classes) int64
    thresholds,
    copies,
    classes,
    COPIES: tl.constexpr,
    BUCKETS: tl.constexpr,
):
    """Items above each threshold for one class: the buckets are walked from the top, the sum of those above carried."""
    label = tl.program_id(0)
    group = tl.program_id(1)
    size = thresholds + 1
    copy = tl.arange(0, COPIES)
    bucket = tl.arange(0, BUCKETS)
    above = tl.zeros((1,), tl.int32)
    start = (thresholds // BUCKETS) * BUCKETS
    while start >= 0:
        here = start + bucket
        found = tl.zeros((BUCKETS,), tl.int32)
        first = 0
        while first < copies:
            offset = ((group * copies + first + copy) * classes + label)[:, None] * size + here[None, :]
            inside = (first + copy < copies)[:, None] & (here < size)[None, :]
            found += tl.sum(tl.load(histogram_ptr + offset, mask=inside, other=0), axis=0)
            first += COPIES
        total = tl.sum(found, axis=0)
        strictly_above = above + total - tl.cumsum(found, axis=0)
        given = tl.load(order_ptr + here, mask=here < thresholds, other=0)
        out = (group * thresholds + given) * classes + label
        tl.store(counts_ptr + out, strictly_above.to(tl.int64), mask=here < thresholds)
        above += total
        start -= BUCKETS


@triton.jit(do_not_specialize=["items", "blocks"])
def compact_kernel(
    agree_ptr,  # (items,) bool
    confidence_ptr,  # (items,) fp32
    alpha_ptr,  # (1,) fp32
    counts_ptr,  # (blocks,) int32, items kept in each block
    index_ptr,  # (items,) int64
    count_ptr,  # (1,) int64
    items,
    blocks,
    ITEMS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The kept items of a block behind those of the blocks before it; -1 in the part of its range that stays free."""
    block = tl.program_id(0)
    before = tl.zeros((1,), tl.int32)
    total = tl.zeros((1,), tl.int32)
    start = 0
    while start < blocks:
        other = start + tl.arange(0, BLOCKS)
        count = tl.load(counts_ptr + other, mask=other < blocks, other=0)
        before += tl.sum(tl.where(other < block, count, 0), axis=0)
        total += tl.sum(count, axis=0)
        start += BLOCKS
    item = block.to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    inside = item < items
    agree = tl.load(agree_ptr + item, mask=inside, other=0) != 0
    confidence = tl.load(confidence_ptr + item, mask=inside, other=0.0)
    kept = inside & agree & (confidence > tl.load(alpha_ptr))
    place = before + tl.cumsum(kept.to(tl.int32), axis=0) - 1
    tl.store(index_ptr + place, item, mask=kept)
    tl.store(index_ptr + item, tl.full((ITEMS,), -1, tl.int64), mask=inside & (item >= total))
    tl.store(count_ptr + tl.arange(0, 1), total.to(tl.int64), mask=block == 0)
