"""Other libraries' kernels, found when they are asked for. None of them is needed; an absent one raises ImportError."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor

PEERS = ("liger-kernel", "cut-cross-entropy")
"""Distributions that hold rivals."""

Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]
"""`loss(hidden, weight, bias, target)`, the sum over all rows."""


def versions(*more: str) -> dict[str, str | None]:
    """Of triton, the peers and `more` distributions; None where one is not installed."""
    return {name: _version(name) for name in ("triton", *PEERS, *more)}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _first(result: Any) -> Tensor:
    """Functions that return several things return the result first."""
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return out


def liger_loss(accumulate: torch.dtype | None) -> Loss:
    """Liger's fused linear cross entropy, with sums over chunks in this type (None: the type of the input)."""
    function = import_module("liger_kernel.ops.fused_linear_cross_entropy").LigerFusedLinearCrossEntropyFunction

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        # ce_weight, ignore_index, lse_square_scale, label_smoothing, reduction, softcap, return_z_loss, accum_dtype
        options = (None, -100, 0.0, 0.0, "sum", None, False, accumulate)
        return _first(function.apply(hidden, weight, target, bias, *options))

    return loss


def cut_cross_entropy() -> tuple[Loss, bool]:
    """Cut Cross Entropy without gradient filtering, and whether it knows a bias.

    The release of 2025-01 knows neither a bias nor the exact mode; there the filter is off, and gradients are summed in
    the type of the input.
    """
    function: Any = import_module("cut_cross_entropy").linear_cross_entropy
    has_bias = "bias" in inspect.signature(function).parameters

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        if has_bias:
            return _first(function(hidden, weight, target, bias=bias, reduction="sum", impl="cce_exact"))
        return _first(function(hidden, weight, target, reduction="sum", impl="cce", filter_eps=None))

    return loss, has_bias


def torch_chunked_loss() -> Loss:
    """torch's own chunked loss, which is there from 2.13 on."""
    function: Any = getattr(torch.nn.functional, "linear_cross_entropy", None)
    options: Any = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if function is None or options is None:
        raise ImportError(f"torch {torch.__version__} has no torch.nn.functional.linear_cross_entropy with options")

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        return _first(function(hidden, weight, target, linear_bias=bias, reduction="sum", options=options()))

    return loss


def liger_layer_norm(eps: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    function = import_module("liger_kernel.ops.layer_norm").LigerLayerNormFunction
    return lambda x, weight, bias: _first(function.apply(x, weight, bias, eps))


def liger_gate(activation: str) -> Callable[[Tensor, Tensor], Tensor]:
    """`gated(first, gate)`."""
    file, name = {"gelu": ("geglu", "LigerGELUMulFunction"), "silu": ("swiglu", "LigerSiLUMulFunction")}[activation]
    function = getattr(import_module(f"liger_kernel.ops.{file}"), name)
    return lambda first, gate: _first(function.apply(first, gate))


def liger_add_rms_norm(eps: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`norm(x, residual, weight)`, the norm alone."""
    function = import_module("liger_kernel.ops.fused_add_rms_norm").LigerFusedAddRMSNormFunction
    return lambda x, residual, weight: _first(function.apply(x, residual, weight, eps))


def liger_embedding() -> Callable[[Tensor, Tensor], Tensor]:
    """`lookup(table, ids)`."""
    function = import_module("liger_kernel.ops.experimental.embedding").LigerEmbeddingFunction
    return lambda table, ids: _first(function.apply(table, ids))


def flash_attention(cu_seqlens: Tensor, longest: int) -> Callable[[Tensor, float], Tensor]:
    """aten's flash attention of packed sequences, `attend(qkv [T, 3, heads, d], p)`; CUDA and 16 bits only."""
    if cu_seqlens.device.type != "cuda":
        raise NotImplementedError("aten's flash attention of packed sequences is for CUDA")
    function: Any = torch.ops.aten._flash_attention_forward

    def attend(qkv: Tensor, p: float) -> Tensor:
        q, k, v = qkv.unbind(1)
        bounds = (cu_seqlens, cu_seqlens, longest, longest)
        return _first(function(q, k, v, *bounds, p, False, False, scale=q.shape[-1] ** -0.5))

    return attend
