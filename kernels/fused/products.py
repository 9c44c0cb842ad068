"""Matrix products of 16-bit operands with fp32 accumulation and an fp32 result, which torch has on CUDA only."""

from __future__ import annotations

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` in fp32."""
    if a.dtype == torch.float32:
        return torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))  # without `out` autocast would round to 16 bits
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float())


def product_into(out: Tensor, a: Tensor, b: Tensor, scale: Tensor | None = None) -> None:
    """`out[...] = a @ b * scale`, computed in fp32 and rounded once to the dtype of `out`."""
    if scale is not None:
        torch.mul(product(a, b), scale, out=out)
    elif out.dtype == a.dtype and out.is_contiguous():
        torch.mm(a, b, out=out)
    else:
        out.copy_(product(a, b))


def add_product(out: Tensor, a: Tensor, b: Tensor, scale: Tensor | None = None) -> None:
    """`out += a @ b * scale`; the sum is made in fp32 for an fp32 `out`."""
    if scale is not None:
        out.add_(product(a, b).mul_(scale))
    elif out.dtype == a.dtype:
        out.addmm_(a, b)
    elif out.dtype == torch.float32 and a.device.type == "cuda":
        torch.addmm(out, a, b, out_dtype=torch.float32, out=out)
    else:
        out.add_(product(a, b))
