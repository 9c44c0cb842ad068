"""`kernels.votes` in one pass over the logits, and one more small launch each for the sweep and for the index.

Pass 1 holds a block of items in registers: M softmaxes, the voters' choices, the smallest confidence and the mean
probability. The sweep is counted there too: a bisection of the ascending thresholds gives how many of them an item's
confidence exceeds, and one integer atomic counts the item in a histogram over (class, bucket). The histogram has up to
256 copies, of which a block uses one, since confident items all fall into the same few buckets; integers are order
independent, so the counts are the same in every run. A second launch adds the copies and sums the buckets from the top.
With `alpha`, pass 1 counts the kept items per 4,096, and a second launch puts their indices behind those of the blocks
before: ascending, without waiting for the host.

Any number of items and voters; up to 1,024 classes, which lie in one tile: above, the reference runs. Up to 64 classes
that are no power of two, a thread holds an item; else some of its lanes share one (see `votes_kernels`).

Bytes moved, the floor: `M K C` logits read; `4 K C` mean probability, `8 K` labels, `4 K` confidence and `K` agreement
written; with `gold` its size read; with `alpha` `5 K` read and `8 K` index written.

Measured: not yet on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import cdiv, next_power_of_2, on_device
from .votes_kernels import compact_kernel, suffix_kernel, votes_kernel

# By reasoning and from the code compiled for sm_90 (registers, shuffles): 128 items of up to 64 classes give a thread
# of 4 warps one each; a tile of rows as they lie gives it 8 values.
_STAGED_ITEMS = 128
_STAGED_COLUMNS = 64
_TILE = 1024
_WARPS = 4
_COMPACT_ITEMS = 4096
_COMPACT_BLOCKS = 1024
_BUCKETS = 128
_WARP = 32
_SUFFIX_TILE = 4096
_COPIES = 256
_HISTOGRAM_SLOTS = 1 << 20

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("xlt::votes", mutates_args=())
def votes(logits: Tensor, thresholds: Tensor | None, gold: Tensor | None, alpha: Tensor | None) -> Outputs:
    """`kernels.votes` for contiguous tensors: `logits` [M, K, C], `thresholds` [A] fp32 without a NaN, `gold` [K].

    `alpha` is [1] fp32. `counts` is [1, A, C], the kept items, or [2, A, C], the correct ones too. What is not asked
    for is empty.
    """
    items, classes = logits.shape[1:]
    outputs = _outputs(logits, thresholds, gold, alpha)
    label, agree, confidence, mean, counts, index, count = outputs
    groups = 0 if thresholds is None else counts.shape[0]
    size = 0 if thresholds is None else counts.shape[1]
    copies = max(1, min(_COPIES, cdiv(items, _STAGED_ITEMS), _HISTOGRAM_SLOTS // (2 * classes * (size + 1))))
    blocks = 0 if alpha is None else cdiv(items, _COMPACT_ITEMS)
    slots = groups * copies * classes * (size + 1)
    begin = 4 * cdiv(slots, 4)  # 16 bytes: Triton compiles anew for a pointer of another alignment
    zeros = torch.zeros(begin + blocks, dtype=torch.int32, device=logits.device)
    histogram, kept = zeros[:slots], zeros[begin:]
    ordered, order = (None, None) if thresholds is None else thresholds.sort()
    with on_device(logits):
        if items:
            written = (label, agree, confidence, mean, histogram, kept)
            _launch(logits, gold, ordered, alpha, written, size, copies)
        if size:
            buckets = min(max(next_power_of_2(size + 1), _WARP), _BUCKETS)
            suffix_kernel[(classes, groups)](
                histogram, order, counts, size, copies, classes, COPIES=_SUFFIX_TILE // buckets, BUCKETS=buckets
            )
        if alpha is not None:
            compact_kernel[(max(1, blocks),)](
                *(agree, confidence, alpha, kept, index, count, items, blocks),
                ITEMS=_COMPACT_ITEMS,
                BLOCKS=_COMPACT_BLOCKS,
                num_warps=2 * _WARPS,
            )
    return outputs


def _launch(
    logits: Tensor,
    gold: Tensor | None,
    ordered: Tensor | None,
    alpha: Tensor | None,
    written: tuple[Tensor, ...],
    size: int,
    copies: int,
) -> None:
    """Pass 1."""
    voters, items, classes = logits.shape
    columns = next_power_of_2(classes)
    staged = columns != classes and columns <= _STAGED_COLUMNS
    block = _STAGED_ITEMS if staged else max(1, _TILE // columns)
    votes_kernel[(cdiv(items, block),)](
        *(logits, gold, ordered, alpha, *written, items, size, copies),
        VOTERS=voters,
        CLASSES=classes,
        COLUMNS=columns,
        ITEMS=block,
        STAGED=staged,
        STEPS=size.bit_length(),
        COMPACT_ITEMS=_COMPACT_ITEMS,
        num_warps=_WARPS,
        # A product that is not rounded before it is added would break ties between the classes' mean probabilities.
        enable_fp_fusion=False,
    )


def _outputs(logits: Tensor, thresholds: Tensor | None, gold: Tensor | None, alpha: Tensor | None) -> Outputs:
    items, classes = logits.shape[1:]
    long = logits.new_empty((0,), dtype=torch.int64)
    return (
        long.new_empty((items,)),
        long.new_empty((items,), dtype=torch.bool),
        long.new_empty((items,), dtype=torch.float32),
        long.new_empty((items, classes), dtype=torch.float32),
        long.new_empty((0,) if thresholds is None else (1 if gold is None else 2, thresholds.shape[0], classes)),
        long.new_empty((0,) if alpha is None else (items,)),
        long.new_empty((0,) if alpha is None else (1,)),
    )


votes.register_fake(_outputs)
