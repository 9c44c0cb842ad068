"""The device that a model runs on, and which implementation of the operations runs there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ... import ConfigError
from ...kernels.dispatch import kernels_path
from ...kernels.products import products_path

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def choose_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda".

    Raises:
        ConfigError: cuda was asked for, and there is none; or `XLT_KERNELS` or `XLT_PRODUCTS` asks for what cannot run.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device = "cuda", but torch finds no CUDA device; use "auto" or "cpu"')
    device = torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
    describe_kernels(device)
    describe_products()
    return device


def choose_precision(name: Precision, device: str = "auto") -> Precision:
    """What "auto" computes in: fp32 on a CPU, bf16 on a GPU of compute capability 8.0 or above, fp16 on older ones."""
    if name != "auto":
        return name
    if device == "cpu" or not torch.cuda.is_available():
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"


def describe_kernels(device: torch.device) -> str:
    """Which implementation of the operations runs on `device`, and why.

    Raises:
        ConfigError: `XLT_KERNELS` is unknown, or asks for what cannot run there.
    """
    try:
        path, reason = kernels_path(device)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{error}; unset XLT_KERNELS to let the device decide") from error
    return f"{path}: {reason}"


def describe_products() -> str:
    """Which library makes fp32 products on a CPU, and why.

    Raises:
        ConfigError: `XLT_PRODUCTS` is unknown, or asks for what this torch has not.
    """
    try:
        chosen = products_path()
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{error}; unset XLT_PRODUCTS to let the processor decide") from error
    return f"{chosen.library}: {chosen.reason}"


class Arriving:
    """A tensor on its way to the host, which goes on meanwhile; what is on the CPU has arrived.

    On a GPU it is copied to pinned memory, after what was launched before and without waiting for it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._tensor = tensor
        if tensor.device.type != "cpu":
            self._tensor = tensor.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self, until: Callable[[torch.cuda.Event], None]) -> Tensor:
        """The tensor on the CPU; `until` waits for an event, as `ProcessGroup.wait` does."""
        if self._event is not None:
            until(self._event)
        return self._tensor
