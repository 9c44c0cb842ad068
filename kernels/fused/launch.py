"""What every launcher needs: the launch itself, the limits of the device, and sizes of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of `x`."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: Sequence[Tensor | None],
    numbers: Sequence[float],
    **constants: Any,
) -> None:
    """Runs `kernel(*tensors, *numbers, **constants)` on the device of the first tensor; nothing for an empty grid."""
    if 0 not in grid:
        assert tensors[0] is not None
        with on_device(tensors[0]):
            kernel[grid](*tensors, *numbers, **constants)


@cache
def _shared_memory(index: int) -> int:
    properties = torch.cuda.get_device_properties(index)
    return int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))


def shared_memory(x: Tensor) -> int:
    """Bytes of shared memory that one program may use on the device of `x`; Hopper's 227 KiB for CPU tensors."""
    return _shared_memory(x.device.index) if x.device.type == "cuda" else 227 << 10


def next_power_of_2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def cdiv(n: int, by: int) -> int:
    return -(-n // by)
