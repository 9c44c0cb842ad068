"""Which implementation an operation runs: Triton kernels on CUDA tensors, plain torch elsewhere.

The environment variable `XLT_KERNELS`, read at import, may say otherwise:

    auto       (default) Triton on CUDA devices of compute capability 8.0 or more where triton is installed, else torch
    reference  plain torch everywhere
    triton     Triton or an error: for CUDA tensors where there is a GPU, and elsewhere for those of the CPU, which
               needs `TRITON_INTERPRET=1`, set before the first import of triton

fp64 always runs in plain torch, and so does bf16 under Triton's interpreter, which computes it wrongly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

MODES = ("auto", "reference", "triton")
MINIMUM_CAPABILITY = (8, 0)

_mode = os.environ.get("XLT_KERNELS", "auto") or "auto"
_has_triton = find_spec("triton") is not None
_interpreted = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")
_decided: dict[tuple[str, int, str], bool] = {}


def kernels_path(device: torch.device | str) -> tuple[str, str]:
    """What runs for tensors on `device`, "triton" or "reference", and why.

    Raises:
        ValueError: `XLT_KERNELS` is not one of `MODES`.
        RuntimeError: "triton" was asked for where it cannot run.
    """
    device = torch.device(device)
    if _mode not in MODES:
        raise ValueError(f"XLT_KERNELS must be one of {', '.join(MODES)}, got {_mode!r}")
    if _mode == "reference":
        return "reference", "XLT_KERNELS=reference"
    obstacle = _obstacle(device)
    if _mode == "triton":
        if obstacle is not None and device.type == "cpu" and torch.cuda.is_available():
            return "reference", "results that were copied to the CPU; XLT_KERNELS=triton is for the GPU"
        if obstacle is not None:
            raise RuntimeError(f"XLT_KERNELS=triton, but {obstacle}")
        return "triton", "XLT_KERNELS=triton" + (", interpreted on the CPU" if _interpreted else "")
    if device.type != "cuda":
        return "reference", f"plain torch is the implementation for {device.type} tensors"
    if obstacle is not None:
        return "reference", obstacle
    return "triton", f"{torch.cuda.get_device_name(device)}"


def _obstacle(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on `device`; None when they can."""
    if not _has_triton:
        return "triton is not installed"
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < MINIMUM_CAPABILITY:
            return f"compute capability {found[0]}.{found[1]} is below {MINIMUM_CAPABILITY[0]}.{MINIMUM_CAPABILITY[1]}"
        return None
    if device.type != "cpu":
        return f"there are no kernels for {device.type} tensors"
    return None if _interpreted else "CPU tensors need TRITON_INTERPRET=1 in the environment before the first import"


def _decide(device_type: str, index: int, dtype: str) -> bool:
    key = (device_type, index, dtype)
    if key not in _decided:
        device = torch.device(device_type, index) if index >= 0 else torch.device(device_type)
        supported = dtype in ("float32", "float16") or (dtype == "bfloat16" and not _interpreted)
        _decided[key] = supported and kernels_path(device)[0] == "triton"
    return _decided[key]


# What torch.compiler.assume_constant_result does, which also imports the whole compiler: 2 seconds, and triton.
_decide._dynamo_marked_constant = True  # type: ignore[attr-defined]


def use_triton(x: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether the operation on `x`, its floating-point input, runs as a Triton kernel.

    Args:
        dtype: what it will be computed in, where that is not the dtype of `x`, as under autocast.
    """
    index = x.device.index
    name = str(x.dtype if dtype is None else dtype).removeprefix("torch.")
    return _decide(x.device.type, -1 if index is None else index, name)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for the gradient of any of them."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


@contextmanager
def using(mode: str) -> Iterator[None]:
    """Choose the path for a block of code, over `XLT_KERNELS`: for comparisons in one process. Not for threads.

    Raises:
        ValueError: `mode` is not one of `MODES`.
    """
    global _mode
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    before = _mode
    _mode = mode
    _decided.clear()
    try:
        yield
    finally:
        _mode = before
        _decided.clear()
