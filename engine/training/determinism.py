"""`deterministic = true`: runs on a GPU that end in the same bits, kill and resume included, or refuse to start.

The project's own kernels have fixed launch configurations and add no floats atomically, and dropout has no generator
whose state could be lost. What is left is torch: here it is told to take deterministic algorithms and to refuse where
it has none. On a CPU all this is so anyway, with one number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ... import ConfigError

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
