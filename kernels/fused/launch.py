"""What every launcher needs: the launch itself, the limits of the device, and sizes of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..masks import dropped_levels, keep_scale


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: Sequence[Any],
    numbers: Sequence[float],
    **constants: Any,
) -> None:
    """Runs `kernel(*tensors, *numbers, **constants)`; nothing for an empty grid.

    Triton launches on the current device, which need not be that of the tensors: the first one decides.
    """
    if 0 in grid:
        return
    device = tensors[0].device
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else nullcontext():
        kernel[grid](*tensors, *numbers, **constants)


def dropout_numbers(site: int, p: float) -> tuple[int, int, float]:
    """What the kernels are told of dropout: the site, the levels dropped, and the factor of what is kept."""
    return site, dropped_levels(p), keep_scale(p)


@cache
def _shared_memory(index: int) -> int:
    properties = torch.cuda.get_device_properties(index)
    return int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))


def shared_memory(x: Tensor) -> int:
    """Bytes of shared memory that one program may use on the device of `x`; Hopper's 227 KiB for CPU tensors."""
    return _shared_memory(x.device.index) if x.device.type == "cuda" else 227 << 10


@cache
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def multiprocessors(x: Tensor) -> int:
    """How many the device of `x` has; an H100's 132 for CPU tensors."""
    return _multiprocessors(x.device.index) if x.device.type == "cuda" else 132


def next_power_of_2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def cdiv(n: int, by: int) -> int:
    return -(-n // by)
