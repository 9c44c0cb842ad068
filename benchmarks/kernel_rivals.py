"""Other libraries' kernels, which `kernels.py` compares the package's with, and `step.py` computes with.

They are found when they are asked for. None of them is needed; an absent one raises ImportError.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xlt_engine.engine.bench.attention import by_length, drawn_lengths
from xlt_engine.engine.bench.case import Forward, Rival, Setting, Shape, compiled
from xlt_engine.engine.bench.cases import EPS, NORM_EPS, places

Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]
"""`loss(hidden, weight, bias, target)`, the sum over all rows."""


def _first(result: Any) -> Tensor:
    """Functions that return several things return the result first."""
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return out


def _liger(file: str, name: str) -> Callable[..., Any]:
    apply: Callable[..., Any] = getattr(import_module(f"liger_kernel.ops.{file}"), name).apply
    return apply


def liger_loss(accumulate: torch.dtype | None) -> Loss:
    """Liger's fused linear cross entropy, with sums over chunks in this type (None: the type of the input)."""
    apply = _liger("fused_linear_cross_entropy", "LigerFusedLinearCrossEntropyFunction")
    # ce_weight, ignore_index, lse_square_scale, label_smoothing, reduction, softcap, return_z_loss, accum_dtype
    options = (None, -100, 0.0, 0.0, "sum", None, False, accumulate)
    return lambda hidden, weight, bias, target: _first(apply(hidden, weight, target, bias, *options))


def cut_cross_entropy() -> tuple[Loss, bool]:
    """Cut Cross Entropy without gradient filtering, and whether it knows a bias.

    The release of 2025-01 knows neither a bias nor the exact mode; there the filter is off, and gradients are summed in
    the type of the input.
    """
    function: Any = import_module("cut_cross_entropy").linear_cross_entropy
    if "bias" in inspect.signature(function).parameters:
        return lambda h, w, b, t: _first(function(h, w, t, bias=b, reduction="sum", impl="cce_exact")), True
    return lambda h, w, b, t: _first(function(h, w, t, reduction="sum", impl="cce", filter_eps=None)), False


def torch_chunked_loss() -> Loss:
    """torch's own chunked loss, which is there from 2.13 on."""
    function: Any = getattr(torch.nn.functional, "linear_cross_entropy", None)
    options: Any = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if function is None or options is None:
        raise ImportError(f"torch {torch.__version__} has no torch.nn.functional.linear_cross_entropy with options")
    return lambda h, w, b, t: _first(function(h, w, t, linear_bias=b, reduction="sum", options=options()))


def liger_layer_norm(eps: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`norm(x, weight, bias)`."""
    apply = _liger("layer_norm", "LigerLayerNormFunction")
    return lambda x, weight, bias: _first(apply(x, weight, bias, eps))


def liger_gate(activation: str) -> Callable[[Tensor, Tensor], Tensor]:
    """`gated(first, gate)`."""
    apply = _liger(*{"gelu": ("geglu", "LigerGELUMulFunction"), "silu": ("swiglu", "LigerSiLUMulFunction")}[activation])
    return lambda first, gate: _first(apply(first, gate))


def liger_add_rms_norm(eps: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`norm(x, residual, weight)`, the norm alone."""
    apply = _liger("fused_add_rms_norm", "LigerFusedAddRMSNormFunction")
    return lambda x, residual, weight: _first(apply(x, residual, weight, eps))


def liger_embedding() -> Callable[[Tensor, Tensor], Tensor]:
    """`lookup(table, ids)`."""
    apply = _liger("experimental.embedding", "LigerEmbeddingFunction")
    return lambda table, ids: _first(apply(table, ids))


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


def of_loss(at: Setting, s: Shape) -> list[Rival]:
    """Fused losses over a vocabulary."""
    target = at.integers(s["V"], s["N"], key="target")

    def by(find: Callable[[], Loss]) -> Callable[[], Forward]:
        def make() -> Forward:
            loss = find()
            return lambda p, *x: loss(*x, target)

        return make

    note = "exact mode; a release without one: filter off, and no bias, which its errors show"
    return [
        ("Liger", by(lambda: liger_loss(None)), ""),
        ("Liger, fp32 sums", by(lambda: liger_loss(torch.float32)), ""),
        ("Cut Cross Entropy", by(lambda: cut_cross_entropy()[0]), note),
        ("torch chunked", by(torch_chunked_loss), ""),
    ]


def of_layer_norm(at: Setting, s: Shape) -> list[Rival]:
    """Dropout and the sum with the residual are eager."""

    def liger() -> Forward:
        norm = liger_layer_norm(EPS)
        return lambda p, x, residual, *weights: norm(functional.dropout(x, p) + residual, *weights)

    return [("Liger", liger, "its LayerNorm alone is fused; dropout and sum are eager")]


def of_residual_norm(at: Setting, s: Shape) -> list[Rival]:
    """RMS norms alone."""

    def liger() -> Forward:
        norm = liger_add_rms_norm(NORM_EPS)
        return lambda p, *x: norm(*x)

    return [("Liger", liger, "")] if s["norm"] == "RMS" else []


def of_glu(at: Setting, s: Shape) -> list[Rival]:
    """Its gate after torch's product."""

    def liger() -> Forward:
        gated = liger_gate(s["activation"])
        return lambda p, x, weight: gated(*functional.linear(x, weight).chunk(2, -1))

    return [("Liger", liger, "the tanh approximation of GELU" if s["activation"] == "gelu" else "")]


def of_embedding(at: Setting, s: Shape) -> list[Rival]:
    """Three look-ups and a LayerNorm."""
    ids = places(at, s)

    def liger() -> Forward:
        norm, lookup = liger_layer_norm(EPS), liger_embedding()

        def forward(p: float, word: Tensor, position: Tensor, segment: Tensor, *weights: Tensor) -> Tensor:
            rows = lookup(word, ids[0]) + lookup(position, ids[1]) + lookup(segment, ids[2])
            return functional.dropout(norm(rows, *weights), p)

        return forward

    return [("Liger", liger, "its three look-ups and its LayerNorm; dropout is eager")]


def of_attention(at: Setting, s: Shape) -> list[Rival]:
    """aten's flash attention of packed sequences; flex attention within a window."""

    def flash() -> Forward:
        sizes = torch.tensor(drawn_lengths(s), device=at.device)
        attend = flash_attention(functional.pad(sizes.cumsum(0), (1, 0)).to(torch.int32), s["longest"])
        return lambda p, qkv: attend(qkv, p)

    def flex() -> Forward:
        library: Any = import_module("torch.nn.attention.flex_attention")
        length, window = s["L"], s["rotary, window"]
        far = length if window == "all" else window
        blocks = library.create_block_mask(
            lambda b, h, q, k: (q - k).abs() <= far, None, None, length, length, device=at.device.type
        )
        return compiled(by_length(at, s, lambda *x: library.flex_attention(*x, block_mask=blocks)))

    return [("flex attention", flex, "")] if "L" in s else [("aten flash", flash, "packed")]


RIVALS: dict[str, Callable[[Setting, Shape], list[Rival]]] = {
    "linear_cross_entropy": of_loss,
    "dropout_residual_layer_norm": of_layer_norm,
    "residual_norm": of_residual_norm,
    "linear_glu": of_glu,
    "embedding_layer_norm": of_embedding,
    "packed_attention": of_attention,
}
"""By operation; `xlt_engine.engine.bench.kernels.RIVALS` takes them."""
