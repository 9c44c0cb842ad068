"""Matrix products on a CPU: which of them have 16-bit operands."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def _multiplies_bf16() -> bool:
    """Whether the processor has units for products of bf16 with fp32 sums; without them such a product is emulated,
    and slower than that of fp32."""
    found = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(found)


def products_in_16_bits(x: Tensor) -> bool:
    """Whether products of tensors like `x` are made of 16-bit operands, with fp32 sums and a 16-bit result.

    So it is for bf16 on a CPU with AVX512-BF16 or AMX. On other CPUs, and for fp16, operands are converted to fp32.
    """
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and _multiplies_bf16()


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """`total += a @ b`, where the sum may be of more precision than the operands; autocast has no say in it."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += torch.mm(a, b, out=a.new_empty(total.shape))
