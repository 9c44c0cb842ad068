"""The kernels of `fused.contrastive`; what they compute together is said there."""

from __future__ import annotations

import triton
import triton.language as tl

NONE, SUM, MEAN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _inverse_length(square):
    """Of a vector by its product with itself; 0 for a vector of zeros, which then is near to nothing."""
    return tl.where(square > 0, 1.0 / tl.sqrt(tl.where(square > 0, square, 1.0)), 0.0)


@triton.jit
def _anchors(gram_ptr, labels_ptr, size, ROWS: tl.constexpr):
    """A block of items: numbers, which of them exist, labels, inverse lengths."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < size
    label = tl.load(labels_ptr + row, mask=inside, other=0).to(tl.int64)
    square = tl.load(gram_ptr + row * size + row, mask=inside, other=0.0)
    return row, inside, label, _inverse_length(square)


@triton.jit
def _tile(gram_ptr, labels_ptr, row, inside, label, length, size, ignore_index, start, COLUMNS: tl.constexpr):
    """Part of the items' rows: column numbers, inverse lengths, cosines, who else is there, who of them is alike."""
    column = (start + tl.arange(0, COLUMNS)).to(tl.int64)
    there = column < size
    other = tl.load(labels_ptr + column, mask=there, other=0).to(tl.int64)
    length_other = _inverse_length(tl.load(gram_ptr + column * size + column, mask=there, other=0.0))
    both = inside[:, None] & there[None, :]
    product = tl.load(gram_ptr + row[:, None] * size + column[None, :], mask=both, other=0.0)
    cosine = product * length[:, None] * length_other[None, :]
    counted = both & (row[:, None] != column[None, :])
    counted = counted & (label != ignore_index)[:, None] & (other != ignore_index)[None, :]
    return column, length_other, cosine, counted, counted & (label[:, None] == other[None, :])


@triton.jit(do_not_specialize=["size", "ignore_index"])
def forward_kernel(
    gram_ptr,  # (size, size) fp32, products of the features
    labels_ptr,  # (size,) integers
    weights_ptr,  # (size,), or None
    item_ptr,  # (size,) fp32, each item's loss
    spread_ptr,  # (size,) fp32, the logarithm of the sum over the others; 0 where nothing counts
    number_ptr,  # (size,) int32, others of the same class
    size,
    ignore_index,
    scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row, inside, label, length = _anchors(gram_ptr, labels_ptr, size, ROWS)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    near = tl.zeros((ROWS,), tl.float32)
    number = tl.zeros((ROWS,), tl.int32)
    start = 0
    while start < size:
        _, _, cosine, counted, positive = _tile(
            gram_ptr, labels_ptr, row, inside, label, length, size, ignore_index, start, COLUMNS
        )
        similarity = tl.where(counted, cosine * scale, float("-inf"))
        best = tl.maximum(top, tl.max(similarity, axis=1))
        # Nothing seen yet: any finite number in place of the maximum.
        base = tl.where(best == float("-inf"), 0.0, best)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(similarity - base[:, None]), axis=1)
        near += tl.sum(tl.where(positive, cosine * scale, 0.0), axis=1)
        number += tl.sum(positive.to(tl.int32), axis=1)
        top = best
        start += COLUMNS
    counts = number > 0
    spread = tl.where(counts, top + tl.log(tl.where(counts, total, 1.0)), 0.0)
    loss = tl.where(counts, spread - near / tl.maximum(number, 1).to(tl.float32), 0.0)
    if weights_ptr is not None:
        loss = loss * tl.load(weights_ptr + row, mask=inside, other=0.0).to(tl.float32)
    tl.store(item_ptr + row, loss, mask=inside)
    tl.store(spread_ptr + row, spread, mask=inside)
    tl.store(number_ptr + row, number, mask=inside)


@triton.jit(do_not_specialize=["size"])
def finish_kernel(
    item_ptr,  # (size,) fp32
    number_ptr,  # (size,) int32
    weights_ptr,  # (size,), or None
    loss_ptr,  # () fp32
    divisor_ptr,  # (1,) fp32, with MEAN
    size,
    ITEMS: tl.constexpr,
    REDUCTION: tl.constexpr,
):
    """Sum or mean, by one program in a fixed order."""
    total = tl.zeros((1,), tl.float32)
    mass = tl.zeros((1,), tl.float32)
    start = 0
    while start < size:
        item = start + tl.arange(0, ITEMS)
        inside = item < size
        total += tl.sum(tl.load(item_ptr + item, mask=inside, other=0.0), axis=0)
        if REDUCTION == MEAN:
            weight = (tl.load(number_ptr + item, mask=inside, other=0) > 0).to(tl.float32)
            if weights_ptr is not None:
                weight = weight * tl.load(weights_ptr + item, mask=inside, other=0.0).to(tl.float32)
            mass += tl.sum(weight, axis=0)
        start += ITEMS
    one = tl.arange(0, 1)
    if REDUCTION == MEAN:
        mass = tl.where(mass == 0.0, 1.0, mass)
        tl.store(divisor_ptr + one, mass)
        total = total / mass
    tl.store(loss_ptr + one, total)


@triton.jit
def _reached(upstream_ptr, weights_ptr, spread_ptr, number_ptr, divisor, item, inside, stride):
    """Of some items what their losses are multiplied by (0 for those that count nothing), spread, and number."""
    number = tl.load(number_ptr + item, mask=inside, other=0)
    spread = tl.load(spread_ptr + item, mask=inside, other=0.0)
    slope = tl.load(upstream_ptr + item * stride, mask=inside, other=0.0).to(tl.float32) / divisor
    if weights_ptr is not None:
        slope = slope * tl.load(weights_ptr + item, mask=inside, other=0.0).to(tl.float32)
    return tl.where(number > 0, slope, 0.0), spread, number


@triton.jit(do_not_specialize=["size", "ignore_index", "stride"])
def backward_kernel(
    upstream_ptr,  # () or (size,) with a stride
    gram_ptr,  # (size, size) fp32
    labels_ptr,  # (size,) integers
    weights_ptr,  # (size,), or None
    spread_ptr,  # (size,) fp32
    number_ptr,  # (size,) int32
    divisor_ptr,  # (1,) fp32, or None
    mixture_ptr,  # (size, size) fp32: the gradient is its product with the features
    stride,
    size,
    ignore_index,
    scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row, inside, label, length = _anchors(gram_ptr, labels_ptr, size, ROWS)
    divisor = 1.0
    if divisor_ptr is not None:
        divisor = tl.load(divisor_ptr)
    slope, spread, number = _reached(upstream_ptr, weights_ptr, spread_ptr, number_ptr, divisor, row, inside, stride)
    evenly = slope / tl.maximum(number, 1).to(tl.float32)
    along = tl.zeros((ROWS,), tl.float32)
    start = 0
    while start < size:
        column, length_other, cosine, counted, positive = _tile(
            gram_ptr, labels_ptr, row, inside, label, length, size, ignore_index, start, COLUMNS
        )
        slope_other, spread_other, number_other = _reached(
            upstream_ptr, weights_ptr, spread_ptr, number_ptr, divisor, column, column < size, stride
        )
        evenly_other = slope_other / tl.maximum(number_other, 1).to(tl.float32)
        # Chosen before the power: that of an item that counts nothing may be infinite, and infinity times 0 no number.
        by_row = counted & (number > 0)[:, None]
        by_column = counted & (number_other > 0)[None, :]
        share = tl.exp(tl.where(by_row, cosine * scale - spread[:, None], float("-inf")))
        share_other = tl.exp(tl.where(by_column, cosine * scale - spread_other[None, :], float("-inf")))
        pull = slope[:, None] * share + slope_other[None, :] * share_other
        pull = pull - tl.where(positive, evenly[:, None] + evenly_other[None, :], 0.0)
        pull = tl.where(counted, pull * scale, 0.0)
        along += tl.sum(pull * cosine, axis=1)
        apart = inside[:, None] & (column < size)[None, :] & (row[:, None] != column[None, :])
        place = row[:, None] * size + column[None, :]
        tl.store(mixture_ptr + place, pull * length[:, None] * length_other[None, :], mask=apart)
        start += COLUMNS
    # Lengths do not matter: what points along the item's own features is taken out again.
    tl.store(mixture_ptr + row * size + row, -along * length * length, mask=inside)
