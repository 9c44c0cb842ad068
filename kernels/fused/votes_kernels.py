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


@triton.jit(do_not_specialize=["items"])
def votes_kernel(
    logits_ptr,  # (VOTERS, items, CLASSES)
    label_ptr,  # (items,) int64
    agree_ptr,  # (items,) bool
    confidence_ptr,  # (items,) fp32
    mean_ptr,  # (items, CLASSES) fp32
    items,
    VOTERS: tl.constexpr,
    CLASSES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITEMS: tl.constexpr,
    STAGED: tl.constexpr,
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
    mean *= 1.0 / VOTERS
    if STAGED:  # back to rows as they lie, so that neighbouring lanes write neighbours; alignment as in `load_block`
        flat = tl.arange(0, COLUMNS * ITEMS)
        place = tl.minimum(flat, ITEMS * CLASSES - 1)
        lying = tl.gather(tl.reshape(mean, (COLUMNS * ITEMS,)), (place % CLASSES) * ITEMS + place // CLASSES, 0)
        written = (flat < rows * CLASSES) & (flat < ITEMS * CLASSES)
        tl.store(tl.multiple_of(mean_ptr + first * CLASSES + flat, 1), lying, mask=written)
    else:
        column = tl.arange(0, COLUMNS)[:, None]
        offset = row[None, :] * CLASSES + column
        tl.store(mean_ptr + first * CLASSES + offset, mean, mask=inside[None, :] & (column < CLASSES))
