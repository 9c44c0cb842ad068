"""The kernels of `fused.optimizer.adamw`; what they compute together is said there.

Tensors are cut into chunks of CHUNK elements, a program each. `owner` says which tensor a chunk is of, `layout` (3,
tensors) a tensor's first chunk, its elements and whether its gradient has 16 bits, `state` (6, tensors) the addresses
of its weight, moments, step and copy (0: none) and the number of its group.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pointer(address, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = address.to(tl.pointer_type(TYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _chunk(owner_ptr, layout_ptr, tensors, CHUNK: tl.constexpr):
    """The tensor of this program's chunk, where in it the chunk begins, and the tensor's elements."""
    tensor = tl.load(owner_ptr + tl.program_id(0))
    first = tl.load(layout_ptr + tensor)
    return tensor, (tl.program_id(0) - first) * CHUNK, tl.load(layout_ptr + tensors + tensor)


@triton.jit
def _load(pointer, at, elements, FULL: tl.constexpr):
    """fp32; a mask would keep a full chunk from loading 16 bytes at a time."""
    if FULL:
        return tl.load(pointer + at).to(tl.float32)
    return tl.load(pointer + at, mask=at < elements, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, at, values, elements, FULL: tl.constexpr):
    if FULL:
        tl.store(pointer + at, values)
    else:
        tl.store(pointer + at, values, mask=at < elements)


@triton.jit
def _load_gradient(address, half, at, elements, HALF: tl.constexpr, ALIGNED: tl.constexpr, FULL: tl.constexpr):
    if half:
        gradient = _load(_pointer(address, HALF, ALIGNED), at, elements, FULL)
    else:
        gradient = _load(_pointer(address, tl.float32, ALIGNED), at, elements, FULL)
    return gradient


@triton.jit
def _sum_of_squares(
    address,
    half,
    begin,
    elements,
    HALF: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
    FULL: tl.constexpr,
):
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(begin, begin + CHUNK if FULL else elements, BLOCK):
        at = start + tl.arange(0, BLOCK)
        gradient = _load_gradient(address, half, at, elements, HALF, ALIGNED, FULL)
        sums += gradient * gradient
    return tl.sum(sums, 0)


@triton.jit(do_not_specialize=["tensors"])
def norm_kernel(
    owner_ptr,  # (chunks,) int32
    layout_ptr,  # (3, tensors) int64
    gradients_ptr,  # (tensors,) int64, addresses
    partials_ptr,  # (chunks,) fp32
    tensors,
    HALF: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    tensor, begin, elements = _chunk(owner_ptr, layout_ptr, tensors, CHUNK)
    address = tl.load(gradients_ptr + tensor)
    half = tl.load(layout_ptr + 2 * tensors + tensor) != 0
    if begin + CHUNK <= elements:
        total = _sum_of_squares(address, half, begin, elements, HALF, CHUNK, BLOCK, ALIGNED, True)
    else:
        total = _sum_of_squares(address, half, begin, elements, HALF, CHUNK, BLOCK, ALIGNED, False)
    tl.store(partials_ptr + tl.program_id(0), total)


@triton.jit
def _power(BASE: tl.constexpr, exponent):
    """`BASE ** exponent` in fp64 by squaring: 1 - 0.999 ** t would lose its digits in fp32."""
    result = tl.full(exponent.shape, 1.0, tl.float64)
    square = tl.full(exponent.shape, BASE, tl.float64)
    for _ in range(24):  # steps are fp32, whole up to 2 ** 24
        result = tl.where(exponent & 1 == 1, result * square, result)
        square *= square
        exponent >>= 1
    return result


@triton.jit(do_not_specialize=["tensors"])
def settle_kernel(
    state_ptr,  # (6, tensors) int64
    rates_ptr,  # (groups,) fp32
    decays_ptr,  # (groups,) fp32
    skip_ptr,  # () fp32, or None
    coefficients_ptr,  # (3, tensors) fp32: rate times decay, rate / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
    tensors,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Counts the step of every tensor, and makes of it what the elements need."""
    tensor = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = tensor < tensors
    step_ptr = tl.load(state_ptr + 3 * tensors + tensor, mask=exists, other=0).to(tl.pointer_type(tl.float32))
    group = tl.load(state_ptr + 5 * tensors + tensor, mask=exists, other=0)
    rate = tl.load(rates_ptr + group, mask=exists, other=0.0)
    decay = tl.load(decays_ptr + group, mask=exists, other=0.0)
    step = tl.load(step_ptr, mask=exists, other=0.0)
    counts = 1.0
    if HAS_SKIP:
        counts = 1.0 - tl.load(skip_ptr)
    tl.store(step_ptr, step + counts, mask=exists)
    exponent = (step + 1.0).to(tl.int32)
    size = rate.to(tl.float64) / (1.0 - _power(BETA1, exponent))
    root = 1.0 / tl.sqrt(1.0 - _power(BETA2, exponent))
    tl.store(coefficients_ptr + tensor, rate * decay, mask=exists)
    tl.store(coefficients_ptr + tensors + tensor, size.to(tl.float32), mask=exists)
    tl.store(coefficients_ptr + 2 * tensors + tensor, root.to(tl.float32), mask=exists)


@triton.jit
def _to_half(values, HALF: tl.constexpr):
    """Rounded to nearest, ties to even; by hand for bf16, which the interpreter cuts off. Values are finite."""
    if tl.bfloat16 == HALF:
        bits = values.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        values = (bits & -0x10000).to(tl.float32, bitcast=True)
    return values.to(HALF)


@triton.jit
def _update(
    state_ptr,
    coefficients_ptr,
    address,
    half,
    scale,
    tensor,
    begin,
    elements,
    tensors,
    share1,
    share2,
    eps,
    HALF: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
    FULL: tl.constexpr,
):
    weight_ptr = _pointer(tl.load(state_ptr + tensor), tl.float32, ALIGNED)
    first_ptr = _pointer(tl.load(state_ptr + tensors + tensor), tl.float32, ALIGNED)
    second_ptr = _pointer(tl.load(state_ptr + 2 * tensors + tensor), tl.float32, ALIGNED)
    copy = tl.load(state_ptr + 4 * tensors + tensor)
    shrink = tl.load(coefficients_ptr + tensor)
    size = tl.load(coefficients_ptr + tensors + tensor)
    root = tl.load(coefficients_ptr + 2 * tensors + tensor)
    for start in range(begin, begin + CHUNK if FULL else elements, BLOCK):
        at = start + tl.arange(0, BLOCK)
        gradient = _load_gradient(address, half, at, elements, HALF, ALIGNED, FULL) * scale
        weight = _load(weight_ptr, at, elements, FULL)
        first = _load(first_ptr, at, elements, FULL)
        second = _load(second_ptr, at, elements, FULL)
        # As steps towards the gradient: with 1 - share in fp32 the moments would drift by its rounding.
        first += share1 * (gradient - first)
        second += share2 * (gradient * gradient - second)
        weight -= shrink * weight + size * first / (tl.sqrt(second) * root + eps)
        _store(first_ptr, at, first, elements, FULL)
        _store(second_ptr, at, second, elements, FULL)
        _store(weight_ptr, at, weight, elements, FULL)
        if copy != 0:
            _store(_pointer(copy, HALF, ALIGNED), at, _to_half(weight, HALF), elements, FULL)


@triton.jit(do_not_specialize=["tensors"])
def adamw_kernel(
    owner_ptr,  # (chunks,) int32
    layout_ptr,  # (3, tensors) int64
    gradients_ptr,  # (tensors,) int64, addresses
    state_ptr,  # (6, tensors) int64
    coefficients_ptr,  # (3, tensors) fp32
    scale_ptr,  # () fp32, or None
    skip_ptr,  # () fp32, or None
    tensors,
    share1,
    share2,
    eps,
    HAS_SCALE: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    HALF: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    skipped = 0.0
    if HAS_SKIP:
        skipped = tl.load(skip_ptr)
    scale = 1.0
    if HAS_SCALE:
        scale = tl.load(scale_ptr)
    if skipped == 0.0:
        tensor, begin, elements = _chunk(owner_ptr, layout_ptr, tensors, CHUNK)
        address = tl.load(gradients_ptr + tensor)
        half = tl.load(layout_ptr + 2 * tensors + tensor) != 0
        if begin + CHUNK <= elements:
            _update(
                state_ptr, coefficients_ptr, address, half, scale, tensor, begin, elements, tensors,
                share1, share2, eps, HALF, CHUNK, BLOCK, ALIGNED, True,
            )  # fmt: skip
        else:
            _update(
                state_ptr, coefficients_ptr, address, half, scale, tensor, begin, elements, tensors,
                share1, share2, eps, HALF, CHUNK, BLOCK, ALIGNED, False,
            )  # fmt: skip
