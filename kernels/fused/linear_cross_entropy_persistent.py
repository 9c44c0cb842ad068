"""The exponentials of `linear_cross_entropy` by programs that stay and tensor descriptors (TMA): capability 9.0 only.

Why, estimated for an H100 at N 614, V 119,547, H 768: 2,335 tiles of 128 x 256 over 132 multiprocessors, each 8.4 us of
products at 790 TFLOP/s, 3 us of epilogue and 1 us in which a new program waits for its first blocks: 220 us. Here the
loop over tiles and the one over features are one, so that the next tile's blocks arrive during the epilogue (-18 us),
and E leaves shared memory while the next tile is multiplied. Two programs a multiprocessor hide the epilogue as well,
in smaller tiles, which read a third more from L2. 17.7 waves lose 2 % at their end: there is nothing to win in order.

The tiles, and the order of sums in them, are those of `exponentials_kernel`, which still does the repair. A row tile
without a counted row is multiplied like any other here. Never run on a GPU: `choose_tile` does not take it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .launch import cdiv, launch, multiprocessors
from .linear_cross_entropy_tiles import column_shift, exponentials_of_tile

ALIGNMENT = 16
"""Bytes that the address and the rows of a tensor with a descriptor must be multiples of."""


def has_descriptors(*tensors: Tensor) -> bool:
    """Whether the kernel may read these contiguous matrices: on capability 9.0, or by compiler or interpreter alone."""
    device = tensors[0].device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) != (9, 0):
        return False
    return all(t.data_ptr() % ALIGNMENT == 0 and t.stride(0) * t.itemsize % ALIGNMENT == 0 for t in tensors)


def persistent_exponentials(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    reference: Tensor,
    kept: Tensor,
    largest: Tensor,
    sums: Tensor,
    ignore_index: int,
    programs: int,
    **constants: Any,
) -> None:
    """Launches at most `programs` a multiprocessor; tensors and constants as for `exponentials_kernel`."""
    (rows, size), column_tiles = hidden.shape, largest.shape[0]
    n, v, h = (constants[f"BLOCK_{axis}"] for axis in "NVH")
    blocks = (TensorDescriptor.from_tensor(t, [block, h]) for t, block in ((hidden, n), (weight, v)))
    out = TensorDescriptor.from_tensor(kept, [n, v]) if constants["STORE"] else None
    launch(
        persistent_exponentials_kernel, (min(cdiv(rows, n) * column_tiles, programs * multiprocessors(hidden)),),
        (target, *blocks, bias, reference, out, largest, sums),
        (rows, weight.shape[0], column_tiles, ignore_index),
        SIZE=size, HAS_BIAS=bias is not None, **constants,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "vocabulary", "column_tiles", "ignore_index"])
def persistent_exponentials_kernel(
    target_ptr,  # (N,) int64
    hidden,  # descriptor of (N, H): zeros beyond the end
    weight,  # descriptor of (V, H)
    bias_ptr,  # (V,)
    reference_ptr,  # (N,) fp32
    out,  # descriptor of (N, stride), where STORE: nothing is written beyond the end
    max_ptr,  # (column tiles, N) fp32, out
    sum_ptr,  # (column tiles, N) fp32, out
    rows,
    vocabulary,
    column_tiles,
    ignore_index,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STORE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row_tiles = tl.cdiv(rows, BLOCK_N)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, tl.num_programs(0), flatten=True):
        first_row = tile % row_tiles * BLOCK_N
        column_tile = tile // row_tiles
        first_column = column_tile * BLOCK_V
        logits = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
        for start in range(0, SIZE, BLOCK_H):
            x = hidden.load([first_row, start])
            w = weight.load([first_column, start])
            logits = tl.dot(x, w.T, logits, input_precision=PRECISION)
        logits += column_shift(bias_ptr, first_column, vocabulary, BLOCK_V, HAS_BIAS)[None, :]
        present = first_row + tl.arange(0, BLOCK_N) < rows
        value = exponentials_of_tile(
            logits, target_ptr, reference_ptr, max_ptr, sum_ptr, first_row, column_tile, present,
            rows, ignore_index, BLOCK_N, BLOCK_V, STORE,
        )  # fmt: skip
        if STORE:
            out.store([first_row, first_column], value.to(out.dtype))
