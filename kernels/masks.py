"""Dropout masks without random state: each bit is a function of (seed, site, row, column).

A mask element depends on nothing else: not on the number of rows or columns, the order of computation, the device or
the launch shape. So a mask is made again in backward instead of stored, a step can be replayed, and the compiled
kernels drop exactly what this reference drops.

The generator hashes counters with 32-bit integers, which a CPU vectorises and a GPU computes between two loads:

    mix(x)    x ^= x >> 16; x *= 0x7FEB352D; x ^= x >> 15; x *= 0x846CA68B; x ^= x >> 16
    site      base = mix(mix(low(seed) + G) + high(seed)); a = mix(base + site * G); b = mix(a ^ 0x5BF03635)
    row       k0 = mix(a + row * G); k1 = mix(b ^ row)
    word c    x = k0 + c * G; x ^= x >> 16; x *= 0x7FEB352D; x += k1; x ^= x >> 15; x *= 0x846CA68B; x ^= x >> 16

with G = 0x9E3779B9 and logical shifts. Word c holds the 16 bits of columns 2c (low half) and 2c + 1. Two keys a row
make two rows' sequences unrelated even where they run through the same counters. Two multiplications make a word;
Philox takes twenty wide ones for four. Enough for dropout, and meant for nothing else.

Rows are counted from 0, or from a number that goes with the seed: so a part of a batch drops what the whole does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import use_triton

LEVELS = 1 << 16
GOLDEN = 0x9E3779B9
FIRST = 0x7FEB352D
SECOND = 0x846CA68B
SITE_SPLIT = 0x5BF03635
_CHUNK_WORDS = 1 << 16
_MASK32 = (1 << 32) - 1


def is_active(p: float, seed: int | Tensor | None) -> bool:
    """Whether dropout changes anything; raises ValueError unless `p` is in [0, 1)."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout probability must be in [0, 1), got {p}")
    return seed is not None and dropped_levels(p) > 0


def dropped_levels(p: float) -> int:
    """How many of the 2**16 values of an element's bits drop it: `p` is rounded to a multiple of 2**-16."""
    return min(LEVELS - 1, round(p * LEVELS))


def keep_scale(p: float) -> float:
    """The factor of a kept element: one over the keep rate of `keep_mask`, so the expectation is exact."""
    return LEVELS / (LEVELS - dropped_levels(p))


def seed_tensor(p: float, seed: int | Tensor | None, device: torch.device) -> Tensor | None:
    """Seed and first row, int64 [2] on `device`, without waiting for it; None without dropout."""
    if not is_active(p, seed) or seed is None:
        return None
    if isinstance(seed, Tensor) and seed.numel() == 2:
        return seed.to(device=device, dtype=torch.int64)
    return _pair(seed, 0, device)


def seed_from_row(seed: int | Tensor | None, first: int | Tensor, x: Tensor) -> Tensor | None:
    """A seed whose rows are counted from `first` on, for all operations on tensors like `x`; None stays None.

    It is made where they read it: on the device for the kernels, on the host for plain torch.
    """
    if seed is None:
        return None
    if use_triton(x):
        return _pair(seed, first, x.device)
    return torch.tensor([_wrap(int(seed), 64), int(first)])


def _pair(seed: int | Tensor, first: int | Tensor, device: torch.device) -> Tensor:
    pair = torch.empty(2, dtype=torch.int64, device=device)
    for place, number in zip(pair.unbind(), (seed, first), strict=True):
        if isinstance(number, Tensor):
            place.fill_(number.reshape(()))
        else:
            place.fill_(_wrap(number, 64))
    return pair


def _wrap(value: int, bits: int = 32) -> int:
    """`value` modulo 2**bits, as the signed integer of that width."""
    half = 1 << (bits - 1)
    return (value + half) % (2 * half) - half


def _mix(x: int) -> int:
    x ^= x >> 16
    x = x * FIRST & _MASK32
    x ^= x >> 15
    x = x * SECOND & _MASK32
    return x ^ x >> 16


def _site_keys(seed: int, site: int) -> tuple[int, int]:
    """The two 32-bit keys of a dropout position."""
    base = _mix(_mix((seed & _MASK32) + GOLDEN & _MASK32) + (seed >> 32) & _MASK32)
    a = _mix(base + site * GOLDEN & _MASK32)
    return a, _mix(a ^ SITE_SPLIT)


def _xor_shift_(x: Tensor, by: int, scratch: Tensor) -> Tensor:
    """`x ^= x >> by` with a logical shift, in place."""
    torch.bitwise_right_shift(x, by, out=scratch)
    return x.bitwise_xor_(scratch.bitwise_and_((1 << (32 - by)) - 1))


def _mix_(x: Tensor, scratch: Tensor, key: Tensor | None = None) -> Tensor:
    _xor_shift_(x, 16, scratch)
    if key is None:
        x.mul_(FIRST)
    else:
        torch.add(key, x, alpha=FIRST, out=x)
    _xor_shift_(x, 15, scratch)
    x.mul_(_wrap(SECOND))
    return _xor_shift_(x, 16, scratch)


def keep_mask(
    rows: int | Tensor,
    columns: int,
    p: float,
    seed: int | Tensor,
    site: int,
    device: torch.device | None = None,
    *,
    lanes: int = 1,
    begin: int = 0,
) -> Tensor:
    """A mask [rows, columns], 1 where an element is kept.

    The keep rate is `1 - p`, with `p` rounded to a multiple of 2**-16. uint8 instead of bool because torch multiplies
    by it several times faster.

    Args:
        rows: how many, numbered from 0; or an integer tensor of row numbers. To all of them the first row is added.
        columns: how many.
        p: in [0, 1).
        seed: int; or an int64 tensor, read on the host: the seed alone, or [seed, first row].
        site: tells the dropout positions of a network apart.
        device: of the mask when `rows` is a number.
        lanes: rows of the mask to one of those that the first row counts.
        begin: the first column's number, even.
    """
    numbers = torch.arange(rows, device=device) if isinstance(rows, int) else rows
    numbers = numbers.to(torch.int32)
    value, first = (*seed.reshape(-1).tolist(), 0)[:2] if isinstance(seed, Tensor) else (seed, 0)
    if first:
        numbers = numbers.add(_wrap(first * lanes))
    a, b = _site_keys(value, site)
    key0 = _mix_(numbers.mul(_wrap(GOLDEN)).add_(_wrap(a)), torch.empty_like(numbers))[:, None]
    key1 = _mix_(numbers.bitwise_xor(_wrap(b)), torch.empty_like(numbers))[:, None]
    count = (columns + 1) // 2
    counter = torch.arange(begin // 2, begin // 2 + count, dtype=torch.int32, device=numbers.device)
    counter.mul_(_wrap(GOLDEN))
    mask = torch.empty((numbers.shape[0], columns), dtype=torch.uint8, device=numbers.device)
    least = dropped_levels(p) - LEVELS // 2
    step = max(1, min(_CHUNK_WORDS // max(count, 1), numbers.shape[0]))
    words, scratch = numbers.new_empty(2, step, count).unbind()
    for start in range(0, numbers.shape[0], step):
        span = slice(start, start + step)
        keys = key0[span]
        x, rest = words[: keys.shape[0]], scratch[: keys.shape[0]]
        bits = _mix_(torch.add(keys, counter, out=x), rest, key1[span]).view(torch.int16)
        torch.ge(bits[:, :columns], least, out=mask[span])
    return mask
