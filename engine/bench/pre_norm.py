"""Benchmark cases of what encoders of ModernBERT's and EuroBERT's kind need besides the operations of BERT."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels import attention_plan, linear_glu, packed_attention, residual_norm, rotary_table
from ...kernels.rotary import rotate
from . import peers as peers
from .case import Call, Case, Problem, Setting, Sizes, Variant, call, compare, compiled
from .encoder import HEAD_SIZE

EPS = 1e-5
WINDOWS = {"full": (8, 1024, 64), "reduced": (2, 512, 64), "tiny": (2, 12, 3)}
"""Sequences, tokens of each, and the window."""


def windowed_attention_cases(sizes: Sizes) -> list[Case]:
    count, length, window = WINDOWS[sizes.name]
    shape: dict[str, int | str] = {"S": count, "L": length, "heads": sizes.heads, "d": HEAD_SIZE}
    build = partial(_windowed_attention, count, length, sizes.heads)
    return [
        Case("packed_attention", shape | {"rotary, window": w or "all"}, i, partial(build, w))
        for i, w in enumerate((window, None))
    ]


def _windowed_attention(count: int, length: int, heads: int, window: int | None, at: Setting) -> Problem:
    """Sequences of one length, which the others need no padding for."""
    qkv = at.normal(count * length, 3, heads, HEAD_SIZE, key="qkv", grad=True)
    upstream = at.normal(count * length, heads, HEAD_SIZE, key="upstream")
    bounds = torch.arange(count + 1, dtype=torch.int32, device=at.device) * length
    place = torch.arange(length, device=at.device)
    table, plan = rotary_table(place, HEAD_SIZE, 10_000.0), attention_plan(bounds)
    rows = table.repeat(count, 1)
    hidden = (place - place[:, None]).abs() > (length if window is None else window)

    def ours(p: float) -> Tensor:
        return packed_attention(qkv, bounds, length, plan=plan, rotary=rows, window=window)

    def parts(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.view(count, length, 3, heads, HEAD_SIZE).permute(2, 0, 3, 1, 4)
        return rotate(q, table), rotate(k, table), v

    def joined(out: Tensor) -> Tensor:
        return out.transpose(1, 2).reshape(count * length, heads, HEAD_SIZE)

    def plain(p: float, qkv: Tensor) -> Tensor:
        q, k, v = parts(qkv)
        scores = (q @ k.transpose(-1, -2) * HEAD_SIZE**-0.5).masked_fill(hidden, float("-inf"))
        return joined(scores.softmax(-1) @ v)

    def sdpa() -> Call:
        attend = partial(functional.scaled_dot_product_attention, attn_mask=None if window is None else ~hidden)
        return call(lambda p: joined(attend(*parts(qkv))), {"qkv": qkv}, upstream=upstream)

    def flex() -> Call:
        library: Any = import_module("torch.nn.attention.flex_attention")
        far = length if window is None else window
        blocks = library.create_block_mask(
            lambda b, h, q, k: (q - k).abs() <= far, None, None, length, length, device=at.device.type
        )

        def attend(qkv: Tensor) -> Tensor:
            return joined(library.flex_attention(*parts(qkv), block_mask=blocks))

        attend = compiled(attend)
        return call(lambda p: attend(qkv), {"qkv": qkv}, upstream=upstream)

    others = (Variant("SDPA, mask", sdpa, plain=True), Variant("flex attention", flex))
    seen = int((~hidden).sum()) * count
    moved = 12.0 * upstream.numel() * upstream.element_size() + 8.0 * rows.numel()
    flops = 14.0 * heads * HEAD_SIZE * seen
    return compare(ours, plain, {"qkv": qkv}, upstream=upstream, others=others, flops=flops, moved=moved)


def glu_cases(sizes: Sizes) -> list[Case]:
    size, inner = sizes.hidden, sizes.inner * 3 // 8  # ModernBERT's 1,152 for 768
    return [
        Case(
            "linear_glu",
            {"T": t, "H": size, "F": inner, "activation": activation},
            min(i, 2) + (activation == "silu"),
            partial(_glu, t, size, inner, activation),
        )
        for i, t in enumerate(sizes.tokens)
        for activation in ("gelu", "silu")
    ]


def _glu(tokens: int, size: int, inner: int, activation: str, at: Setting) -> Problem:
    inputs = {
        "x": at.normal(tokens, size, key="x", grad=True),
        "weight": at.normal(2 * inner, size, key="up", std=0.02, grad=True),
    }
    x, weight = inputs.values()
    upstream = at.normal(tokens, inner, key="upstream")

    def plain(p: float, x: Tensor, weight: Tensor) -> Tensor:
        first, gate = functional.linear(x, weight).chunk(2, -1)
        return (functional.gelu(first) if activation == "gelu" else functional.silu(first)) * gate

    def liger() -> Call:
        gated = peers.liger_gate(activation)
        return call(lambda p: gated(*functional.linear(x, weight).chunk(2, -1)), inputs, upstream=upstream)

    note = "the tanh approximation of GELU" if activation == "gelu" else ""
    return compare(
        lambda p: linear_glu(x, weight, None, activation),
        plain,
        inputs,
        upstream=upstream,
        others=(Variant("Liger", liger, note=note),),
        flops=12.0 * tokens * size * inner,
        moved=3.0 * x.element_size() * (x.numel() + weight.numel() + upstream.numel()),
    )


def residual_norm_cases(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "residual_norm",
            {"T": t, "H": sizes.hidden, "norm": "RMS" if rms else "LayerNorm"},
            min(i, 2) + rms,
            partial(_residual_norm, t, sizes.hidden, rms),
        )
        for i, t in enumerate(sizes.tokens)
        for rms in (False, True)
    ]


def _residual_norm(tokens: int, size: int, rms: bool, at: Setting) -> Problem:
    """The gradient of the norm alone; that of the sum is one more tensor to read."""
    inputs = {
        "x": at.normal(tokens, size, key="x", grad=True),
        "residual": at.normal(tokens, size, key="residual", grad=True),
        "weight": at.normal(size, key="weight", grad=True),
    }
    x, residual, weight = inputs.values()
    upstream = at.normal(tokens, size, key="upstream")

    def plain(p: float, x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        total = x + residual
        if rms:
            return functional.rms_norm(total, (size,), weight, EPS)
        return functional.layer_norm(total, (size,), weight, None, EPS)

    def liger() -> Call:
        norm = peers.liger_add_rms_norm(EPS)
        return call(lambda p: norm(x, residual, weight), inputs, upstream=upstream)

    return compare(
        lambda p: residual_norm(x, residual, weight, None, eps=EPS, rms=rms)[1],
        plain,
        inputs,
        upstream=upstream,
        others=(Variant("Liger", liger),) if rms else (),
        moved=7.0 * x.numel() * x.element_size(),
    )
