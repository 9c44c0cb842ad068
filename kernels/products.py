"""Matrix products on a CPU: by which library, and which of them have 16-bit operands.

Torch gives products of fp32 to MKL, which takes a slow path on what is not Intel's: on an AMD EPYC with AVX-512 of full
width oneDNN is more than twice as fast. Which one multiplies follows from the processor and the sizes, never from a
clock: equal machines give equal bits. `XLT_PRODUCTS=torch|onednn`, read at import, says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .dispatch import needs_gradient

_asked = os.environ.get("XLT_PRODUCTS", "")
_LARGE = 1 << 25
_NARROW_LARGE = 1 << 28
_LEAST_SIDE = 32


class Products(NamedTuple):
    """Which library makes products of fp32, "torch" or "onednn", and why.

    Attributes:
        least: products with fewer multiplications stay with torch: each new shape costs oneDNN 3 to 4 ms.
        of_weights: whether gradients of weights are among them.
    """

    library: str
    reason: str
    least: int = _LARGE
    of_weights: bool = True


def choose_products(asked: str, vendor: str, flags: frozenset[str], available: bool) -> Products:
    """The library for a processor, as /proc/cpuinfo names it; an unknown one stays with torch.

    Raises:
        ValueError: `asked`, the value of `XLT_PRODUCTS`, is unknown.
        RuntimeError: oneDNN was asked for, and this torch has no such product.
    """
    if asked not in ("", "torch", "onednn"):
        raise ValueError(f"XLT_PRODUCTS must be torch or onednn, got {asked!r}")
    if asked == "onednn" and not available:
        raise RuntimeError(f"XLT_PRODUCTS=onednn, but torch {torch.__version__} has no product by oneDNN")
    if asked:
        return Products(asked, f"XLT_PRODUCTS={asked}")
    if vendor != "AuthenticAMD" or "avx512f" not in flags or not available:
        return Products("torch", "the choice for this processor")
    if "avx_vnni" in flags:  # from Zen 5 on
        return Products("onednn", "AMD with AVX-512")
    return Products("onednn", "AMD with AVX-512 in halves: large products alone", _NARROW_LARGE, of_weights=False)


@cache
def _available() -> bool:
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def products_path() -> Products:
    """What `choose_products` says of this machine; it has the errors."""
    vendor, flags = "", frozenset[str]()
    info = Path("/proc/cpuinfo")
    for line in info.read_text(errors="replace").splitlines() if not _asked and info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "vendor_id":
            vendor = value.strip()
        elif name.strip() == "flags":
            flags = frozenset(value.split())
            break
    return choose_products(_asked, vendor, flags, _available())


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


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies `x` [T, H] and `weight` [F, H], and makes the gradients of that product."""
    if torch.compiler.is_compiling() or x.dtype != torch.float32 or x.device.type != "cpu" or x.dim() != 2:
        return False
    chosen = products_path()
    if chosen.library == "torch" or weight.dtype != torch.float32:
        return False
    rows, depth, columns = *x.shape, weight.shape[0]
    return min(rows, depth, columns) >= _LEAST_SIDE and rows * depth * columns >= chosen.least


def with_few_sizes(x: Tensor) -> Tensor:
    """`x` with up to a sixteenth more rows, of zeros: one of sixteen numbers an octave, since oneDNN compiles and keeps
    a product for each."""
    rows = x.shape[0]
    step = 1 << max(0, rows.bit_length() - 5)
    if rows % step == 0:
        return x
    padded = x.new_zeros(-(-rows // step) * step, x.shape[1])
    padded[:rows] = x
    return padded


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    """By oneDNN, with rows of few sizes; `resize_` leaves out what they have more, and makes no view."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(with_few_sizes(x), weight, bias).resize_(x.shape[0], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, d_x, d_weight = with_few_sizes(grad), None, None
        if ctx.needs_input_grad[0]:
            d_x = _onednn(rows, weight.t()).resize_(x.shape)
        if ctx.needs_input_grad[1]:
            of_weights = products_path().of_weights
            d_weight = _onednn(rows.t(), with_few_sizes(x).t()) if of_weights else torch.mm(grad.t(), x)
        return d_x, d_weight, grad.sum(0) if ctx.needs_input_grad[2] else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` by the faster library; as torch's `functional.linear` for what is not fp32 on a CPU.

    In 16 bits without gradients torch's bits are made with the bias in the product: torch writes it to the result
    first, which oneDNN reads again (1.3 times as long at 4,096 rows of 768, Xeon with AMX).
    """
    autocast = torch.is_autocast_enabled("cpu")
    if not autocast and by_onednn(x, weight):
        apply: Callable[..., Tensor] = _Linear.apply
        return apply(x, weight, bias)
    if not autocast and bias is not None and _fuses_bias(x, weight, bias):
        return _onednn(x, weight, bias)
    return functional.linear(x, weight, bias)


def _fuses_bias(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    if x.dim() != 2 or not x.numel() or not products_in_16_bits(x) or needs_gradient(x, weight, bias):
        return False
    return x.dtype == weight.dtype == bias.dtype and _available() and not torch.compiler.is_compiling()


def linear_of_each(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x[m] @ weight[m].T + bias[m]` for every m, [M, K, F]."""
    if not by_onednn(x[0], weight[0]) or torch.is_autocast_enabled("cpu"):
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
    return torch.stack([linear(*each) for each in zip(x, weight, bias, strict=True)])


def product(a: Tensor, b: Tensor, *, onednn: bool = False) -> Tensor:
    """`a @ b`; autocast has no say in it. `onednn` is for sizes that are few."""
    if onednn:
        return _onednn(a, b.t())
    return torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))


def add_product(total: Tensor, a: Tensor, b: Tensor, *, onednn: bool = False) -> None:
    """`total += a @ b`, where the sum may be of more precision than the operands; as `product`."""
    if a.dtype == total.dtype and not onednn:
        total.addmm_(a, b)
    else:
        total += product(a, b, onednn=onednn)
