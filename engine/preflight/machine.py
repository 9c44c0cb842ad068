"""`env`: what a bug report says of the machine."""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

import torch

from ..storage.run_folder import environment
from ..training.device import choose_device, choose_precision, describe_kernels, describe_products


def describe_environment() -> dict[str, Any]:
    """Versions, machine, device and the kernels' path, as JSON values; null for what this machine has not.

    Raises:
        ConfigError: `XLT_KERNELS` or `XLT_PRODUCTS` is unknown, or asks for what cannot run here.
    """
    device = choose_device("auto")
    facts = environment()
    cuda = torch.cuda.is_available()
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return {
        **facts["versions"],
        "triton": metadata.version("triton") if "triton" in installed else None,
        "platform": facts["platform"],
        "machine": facts["machine"],
        "device": device.type,
        "precision": choose_precision("auto"),
        "cuda_device": facts["cuda"],
        "cuda_version": torch.version.cuda,
        "cuda_capability": ".".join(map(str, torch.cuda.get_device_capability())) if cuda else None,
        "cpu_capability": facts["cpu_capability"],
        "cpu_count": os.cpu_count(),
        "threads": facts["threads"],
        "kernels": {name: describe_kernels(torch.device(name)) for name in dict.fromkeys(("cpu", device.type))},
        "products": describe_products(),
    }
