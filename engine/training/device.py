"""The device that a model runs on, which implementation runs there, and runs on it that end in the same bits.

`deterministic = true`: the project's own kernels have fixed launch configurations and add no floats atomically, and
dropout has no generator whose state could be lost. What is left is torch, which is told to take deterministic
algorithms and to refuse where it has none. On a CPU all this is so anyway, with one number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable of cuBLAS, which takes a workspace of its own for each stream only where this is set."""
WORKSPACES = (":4096:8", ":16:8")
SIGNS = ("does not have a deterministic implementation", "use_deterministic_algorithms(True)")


@contextmanager
def deterministic(on: bool, device: str) -> Iterator[None]:
    """Has torch refuse, for a block of code, what is not the same to the bit in every run. Nothing to do on a CPU.

    Args:
        device: of the recipe: "auto", "cpu" or "cuda".

    Raises:
        ConfigError: cuBLAS cannot be made deterministic any more.
    """
    if not on or device == "cpu" or not torch.cuda.is_available():
        yield
        return
    _claim_workspace()
    # Sums over several GPUs, too, have one order.
    os.environ.setdefault("NCCL_ALGO", "Ring")
    before = _settings()
    _apply((True, False, "highest", False, True, False, False, False))
    try:
        yield
    finally:
        _apply(before)


_Settings = tuple[bool, bool, str, bool, bool, bool, bool, bool]


def _settings() -> _Settings:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        torch.backends.cuda.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
    )


def _apply(settings: _Settings) -> None:
    algorithms, fill, products, tf32, cudnn, benchmark, flash, cudnn_attention = settings
    torch.use_deterministic_algorithms(algorithms)
    # Filling fresh memory costs a pass over it, and no kernel reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = cudnn
    torch.backends.cudnn.benchmark = benchmark
    torch.backends.cuda.enable_flash_sdp(flash)
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


def _claim_workspace() -> None:
    """cuBLAS reads the variable when it is first used, in this process or never."""
    workspace = os.environ.get(WORKSPACE)
    if workspace is None and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        os.environ[WORKSPACE] = WORKSPACES[0]
    elif workspace is None:
        raise ConfigError(
            f"deterministic = true, but this process has used CUDA already; set {WORKSPACE}={WORKSPACES[0]} in the "
            "environment before it starts"
        )
    elif workspace not in WORKSPACES:
        raise ConfigError(
            f"deterministic = true, but {WORKSPACE}={workspace} in the environment; unset it, or give "
            f"{' or '.join(WORKSPACES)}"
        )


def refusal(error: Exception) -> ConfigError | None:
    """What torch says of an operation that it cannot make deterministic, as an error of the configuration."""
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS):
        return ConfigError(f"deterministic = true, but {str(error)[:300]}; run without it")
    return None
