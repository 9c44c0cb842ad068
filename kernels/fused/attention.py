"""Packed bidirectional attention with dropout: softmax and log-sum-exp in fp32, online over blocks of keys.

Forward is one launch: a program has a block of queries of one sequence and head, and leaves at once where its sequence
has no such block. Backward makes the probabilities again from the saved log-sum-exp and the masks from their counters,
and writes [T, 3, heads, d] as the projection's gradient wants it. Where all sequences are short, a program for each
and head holds all of it: rowsum(dO * O) is then rowsum(P * dP), and `out` is not read. Longer ones take two launches:
rowsum(dO * O), then programs that own a block of keys beside programs that own a block of queries. No two programs add
to one number, so equal runs are equal to the bit. Probabilities and their gradients are rounded to the dtype of the
operands before a product.

Long sequences do not hold up short ones in the backward. Tiles of 128 leave a multiprocessor room for one program,
those of 64 for four: many sequences of up to 64 tokens have a launch of their own. Beside sequences too long to be held
they are held all the same, by one program of the same launch. Which launches there are follows from the longest length,
the tokens and the number of sequences, and so is the same whenever a captured step is replayed. By the estimate of
`benchmarks/attention_classes.py` a launch for every class of length would cost more than it saves, in the forward
always: its tiles have at most 64 queries, and each further launch starts all programs once more.

A mask's row is `(first row + token in the batch) * heads + head`, its column the key's place in its own sequence.

With rotary positions and windows the kernels are compiled for them (`attention_kernels.py`); without they are not.

Bytes moved, at least, with e bytes an element: forward 4 * e * T * heads * d, backward 7 * e * T * heads * d (8 with
`out`), and 4 * T * heads of log-sum-exp in each.
Measured: not yet on a GPU.
"""

from __future__ import annotations

from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from ..masks import dropped_levels, keep_scale
from .attention_backward_kernels import backward_kernel, backward_whole_kernel, delta_kernel
from .attention_kernels import forward_kernel
from .launch import cdiv, launch, next_power_of_2

_SMALLEST = 16  # tile of a matrix product
_DELTA_ELEMENTS = 4096
_SHORT = 64  # tokens
_AT_ONCE = 528  # programs of _SHORT rows on an H100: four on each of 132 multiprocessors


class Tile(NamedTuple):
    """`own` rows that a program has, `step` rows that it goes through at a time, and the launch's warps and stages."""

    own: int
    step: int
    warps: int
    stages: int


def _wide(size: int) -> int:
    return max(_SMALLEST, next_power_of_2(size))


def forward_tile(max_seqlen: int, size: int, bits: int) -> Tile:
    """The tile of the forward kernel: the longest sequence of the batch in tiles of at most 64.

    Larger ones would save reads of keys that come from the cache anyway, and a sentence shorter than its tile pays for
    all of it; so a sequence of at most half a tile is computed in a tile of that half. Compiled for compute capability
    9.0, four programs of 64 fit a multiprocessor without spilling. fp32 products use no matrix units and many
    registers: tiles of at most 32.
    """
    tile = min(64 if bits == 16 else 32, _wide(max_seqlen))
    warps = tile // 16 if bits == 16 else 4
    return Tile(tile, tile, warps * (2 if size > 64 and tile > 16 else 1), 2 if max_seqlen > tile else 1)


def longest_whole(size: int, bits: int) -> int:
    """Tokens of the longest sequence that a program of the backward kernels can hold in its registers."""
    return (128 if bits == 16 else 64) // cdiv(size, 64)


def whole_tiles(max_seqlen: int, size: int, bits: int, *, apart: bool) -> list[Tile]:
    """The tiles of the backward kernel that holds all of a batch's sequences, a launch each, the shorter ones first."""
    longest = _wide(max_seqlen)
    heights = [_SHORT, longest] if apart and longest > _SHORT else [longest]
    return [Tile(n, n, n // 16 if bits == 16 else 4 * cdiv(n, 32) * cdiv(size, 64), 1) for n in heights]


def _half(rows: int, above: int = 0) -> int:
    """The tile of sequences of at most half a tile; 0 where there are none, or no such tile."""
    return rows // 2 if rows // 2 >= _SMALLEST and rows // 2 > above else 0


def backward_tile(size: int, bits: int) -> Tile:
    """The tile of the backward kernel for batches with longer sequences: what does not spill."""
    if bits == 16:
        return Tile(64, 32, 4, 2) if size <= 64 else Tile(64, 32, 8, 2)
    return Tile(32, 32, 8, 1) if size <= 64 else Tile(32, 16, 8, 1)


class _Call:
    """What every kernel of a call is given: strides, sizes, dropout and constants."""

    def __init__(
        self,
        qkv: Tensor,
        max_seqlen: int,
        cu_seqlens: Tensor,
        seed: Tensor | None,
        site: int,
        p: float,
        rotary: Tensor | None,
        window: int | None,
    ):
        self.tokens, _, self.heads, self.size = qkv.shape
        self.bits = 8 * qkv.element_size()
        sequences = cu_seqlens.shape[0] - 1
        self.pairs = sequences * self.heads
        self.many_short = self.pairs > _AT_ONCE and self.tokens <= _SHORT * sequences
        self.empty = not (self.tokens and self.pairs and max_seqlen and self.size)
        self.sizes = *qkv.stride()[:3], self.tokens, self.heads
        self.dropout = site, dropped_levels(p), 1.0 if seed is None else keep_scale(p)
        self.factor = self.size**-0.5
        self.scale = self.factor / log(2)
        self.wide = _wide(self.size)
        precise = torch.get_float32_matmul_precision() == "highest"
        self.constants: dict[str, Any] = {
            "ROTARY": rotary is not None,
            "WINDOW": -1 if window is None else window,
            "HEAD": self.size,
            "WIDE": self.wide,
            "DROPOUT": seed is not None,
            "PRECISION": "ieee" if precise else "tf32",
        }
        # A loop ends with its sequence; interpreted, as older Tritons want a Python bound, with the longest.
        self.limit = 0 if isinstance(forward_kernel, JITFunction) else max_seqlen


@torch.library.custom_op("xlt::packed_attention", mutates_args=())
def packed_attention(
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    seed: Tensor | None,
    site: int,
    p: float,
    with_log_sum: bool,
    rotary: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`kernels.packed_attention` for `qkv` [T, 3, heads, d] with adjacent elements of a head, all on one device.

    Returns the output, and the base-2 log-sum-exp of the scores [heads, T] if `with_log_sum`, for the gradient.
    """
    out, log_sum = _outputs(qkv, with_log_sum)
    call = _Call(qkv, max_seqlen, cu_seqlens, seed, site, p, rotary, window)
    if call.empty:
        return out.zero_(), log_sum.zero_()
    tile = forward_tile(max_seqlen, call.size, call.bits)
    blocks = cdiv(max_seqlen, tile.own)
    launch(
        forward_kernel,
        (call.pairs * blocks,),
        (qkv, rotary, out, log_sum, cu_seqlens, seed),
        (*call.sizes, blocks, *call.dropout, call.scale),
        ROWS=tile.own,
        KEYS=tile.step,
        SHORT=max(_SMALLEST, tile.own // 2),
        LIMIT=tile.step if blocks == 1 else call.limit,
        WITH_LOG_SUM=with_log_sum,
        **call.constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out, log_sum


def _outputs(qkv: Tensor, with_log_sum: bool) -> tuple[Tensor, Tensor]:
    tokens, _, heads, size = qkv.shape
    shape = (heads, tokens) if with_log_sum else (0,)
    return qkv.new_empty(tokens, heads, size), qkv.new_empty(shape, dtype=torch.float32)


packed_attention.register_fake(lambda qkv, cu_seqlens, max_seqlen, seed, site, p, save, *_: _outputs(qkv, save))


@torch.library.custom_op("xlt::packed_attention_backward", mutates_args=())
def packed_attention_backward(
    grad: Tensor,
    qkv: Tensor,
    out: Tensor | None,
    log_sum: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    seed: Tensor | None,
    site: int,
    p: float,
    rotary: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """The gradient of `qkv`, contiguous; `grad` is contiguous, `out` given for sequences beyond `longest_whole`."""
    d_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    call = _Call(qkv, max_seqlen, cu_seqlens, seed, site, p, rotary, window)
    if call.empty:
        return d_qkv.zero_()
    if max_seqlen <= longest_whole(call.size, call.bits):
        above = 0
        for tile in whole_tiles(max_seqlen, call.size, call.bits, apart=call.many_short):
            launch(
                backward_whole_kernel,
                (call.pairs,),
                (qkv, rotary, d_qkv, grad, log_sum, cu_seqlens, seed),
                (*call.sizes, *call.dropout, call.scale, call.factor),
                ABOVE=above,
                ROWS=tile.own,
                SHORT=_half(tile.own, above),
                **call.constants,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )
            above = tile.own
        return d_qkv
    delta = torch.empty_like(log_sum)
    rows, height = call.tokens * call.heads, _DELTA_ELEMENTS // call.wide
    sizes = {"ROWS": height, "HEAD": call.size, "WIDE": call.wide}
    launch(delta_kernel, (cdiv(rows, height),), (out, grad, delta), (rows, call.tokens, call.heads), **sizes)
    tile = backward_tile(call.size, call.bits)
    blocks = cdiv(max_seqlen, tile.own)
    whole = tile.own if call.bits == 16 else 0  # in fp32 it would take the registers of two programs
    launch(
        backward_kernel,
        (call.pairs * blocks, 2),
        (qkv, rotary, d_qkv, grad, log_sum, delta, cu_seqlens, seed),
        (*call.sizes, blocks, *call.dropout, call.scale, call.factor),
        OWN=tile.own,
        STEP=tile.step,
        WHOLE=whole,
        SHORT=_half(whole),
        LIMIT=call.limit,
        **call.constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return d_qkv


packed_attention_backward.register_fake(
    lambda grad, qkv, *_: torch.empty_like(qkv, memory_format=torch.contiguous_format)
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, cu_seqlens, ctx.max_seqlen, seed, ctx.site, ctx.p, _, rotary, ctx.window = inputs
    out, log_sum = output
    whole = ctx.max_seqlen <= longest_whole(qkv.shape[3], 8 * qkv.element_size())
    ctx.save_for_backward(qkv, None if whole else out, log_sum, cu_seqlens, seed, rotary)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    d_qkv = None
    if grad is not None and ctx.needs_input_grad[0]:
        qkv, out, log_sum, cu_seqlens, seed, rotary = ctx.saved_tensors
        where = cu_seqlens, ctx.max_seqlen, seed, ctx.site, ctx.p, rotary, ctx.window
        d_qkv = packed_attention_backward(grad.contiguous(), qkv, out, log_sum, *where)
    return d_qkv, *(None,) * 8


packed_attention.register_autograd(_backward, setup_context=_setup_context)
