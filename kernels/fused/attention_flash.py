"""torch's own flash attention on packed batches, as operators: for comparison, and where it is measured to be faster.

It runs on CUDA tensors of 16 bits with heads of a multiple of 8, at most 256. Its dropout masks come from torch's CUDA
generator, which `torch.manual_seed` sets, and not from (seed, site) counters: they equal no other implementation's.
Backward adds up with atomics, in no fixed order. `packed_attention` refuses it under
`torch.use_deterministic_algorithms`.

torch calls these functions by a private name. Their first arguments have kept names and order, and only those are given
by position; the schema is read once, and where it is another, `obstacle` says so.

Launches: one forward (and a copy of `cu_seqlens` if it is not int32), three or four backward, and one that stacks the
three gradients. Bytes moved: those of `attention.py`, 12 * T * heads * d of fp32 sums in backward, and the stacking.
Measured: not yet on a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

# First arguments, a keyword, and the number of results.
_SHARED = ("cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal")
_EXPECTED = {
    "forward": (("query", "key", "value", *_SHARED, "return_debug_mask"), "scale", 5),
    "backward": (("grad_out", "query", "key", "value", "out", "logsumexp", *_SHARED), "scale", 3),
}
_HEAD_MULTIPLE = 8
_WIDEST_HEAD = 256


@cache
def _mismatch() -> str | None:
    """Why torch's functions cannot be called as this file calls them; None when they can."""
    for name, (first, keyword, results) in _EXPECTED.items():
        packet = getattr(torch.ops.aten, f"_flash_attention_{name}", None)
        if packet is None:
            return f"torch {torch.__version__} has no _flash_attention_{name}"
        schema = packet.default._schema
        names = tuple(argument.name for argument in schema.arguments)
        if names[: len(first)] != first or keyword not in names or len(schema.returns) != results:
            return f"torch {torch.__version__} has another _flash_attention_{name}: {schema}"
    return None


def obstacle(qkv: Tensor) -> str | None:
    """Why flash attention cannot run on `qkv` [T, 3, heads, d]; None when it can."""
    if qkv.device.type != "cuda":
        return f"flash attention needs a CUDA device, not {qkv.device.type}"
    if qkv.dtype not in (torch.float16, torch.bfloat16):
        return f"flash attention needs 16 bits, not {str(qkv.dtype).removeprefix('torch.')}"
    if qkv.shape[3] % _HEAD_MULTIPLE or qkv.shape[3] > _WIDEST_HEAD:
        return f"flash attention needs heads of a multiple of {_HEAD_MULTIPLE} up to {_WIDEST_HEAD}, not {qkv.shape[3]}"
    return _mismatch()


def _forward(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, p: float) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = qkv.unbind(1)
    out, log_sum, state, _, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, p, False, False, scale=qkv.shape[3] ** -0.5
    )
    return out.contiguous(), log_sum, state.view(torch.int64)


def _empty(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    tokens, _, heads, size = qkv.shape
    return (
        qkv.new_empty(tokens, heads, size),
        qkv.new_empty(heads, tokens, dtype=torch.float32),
        qkv.new_empty(2, dtype=torch.int64),
    )


@torch.library.custom_op(
    "xlt::flash_attention",
    mutates_args=(),
    device_types="cuda",
    schema="(Tensor qkv, Tensor cu_seqlens, SymInt max_seqlen, float p) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.nondeterministic_seeded,),
)
def flash_attention(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """The output [T, heads, d], the log-sum-exp [heads, T] and the generator's state, both for the gradient.

    `cu_seqlens` is int32 and contiguous.
    """
    if qkv.shape[0] == 0 or max_seqlen == 0:
        return _empty(qkv)
    return _forward(qkv, cu_seqlens, max_seqlen, p)


@flash_attention.register_fake
def _(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, p: float) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(qkv)


@torch.library.custom_op(
    "xlt::flash_attention_backward",
    mutates_args=(),
    device_types="cuda",
    schema="(Tensor grad, Tensor qkv, Tensor out, Tensor log_sum, Tensor state, Tensor cu_seqlens, SymInt max_seqlen, "
    "float p) -> Tensor",
)
def flash_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    out: Tensor,
    log_sum: Tensor,
    state: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    p: float,
) -> Tensor:
    """The gradient of `qkv`, contiguous; `grad` is contiguous."""
    if qkv.shape[0] == 0 or max_seqlen == 0:
        return torch.empty_like(qkv, memory_format=torch.contiguous_format)
    return _backward_of(grad, qkv, out, log_sum, state, cu_seqlens, max_seqlen, p)


def _backward_of(
    grad: Tensor,
    qkv: Tensor,
    out: Tensor,
    log_sum: Tensor,
    state: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    p: float,
) -> Tensor:
    q, k, v = qkv.unbind(1)
    lengths = cu_seqlens, cu_seqlens, max_seqlen, max_seqlen
    state = state.view(torch.uint64)
    # The two arguments after `is_causal` have changed names: the generator's state, and one that is not read.
    gradients = torch.ops.aten._flash_attention_backward(
        grad, q, k, v, out, log_sum, *lengths, p, False, state, state, scale=qkv.shape[3] ** -0.5
    )
    return torch.stack(gradients, 1)


@flash_attention_backward.register_fake
def _(
    grad: Tensor,
    qkv: Tensor,
    out: Tensor,
    log_sum: Tensor,
    state: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    p: float,
) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    qkv, cu_seqlens, ctx.max_seqlen, ctx.p = inputs
    out, log_sum, state = output
    ctx.save_for_backward(qkv, out, log_sum, state, cu_seqlens)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: None, __: None) -> tuple[Tensor | None, None, None, None]:
    d_qkv = None
    if grad is not None:
        d_qkv = flash_attention_backward(grad.contiguous(), *ctx.saved_tensors, ctx.max_seqlen, ctx.p)
    return d_qkv, None, None, None


flash_attention.register_autograd(_backward, setup_context=_setup_context)
