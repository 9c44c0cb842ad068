"""`kernels.votes` in one launch and one pass over the logits.

A block of items is held in registers: M softmaxes, the voters' choices, the smallest confidence and the mean
probability.

Any number of items and voters; up to 1,024 classes, which lie in one tile: above, the reference runs. Up to 64 classes
that are no power of two, a thread holds an item; else some of its lanes share one (see `votes_kernels`).

Bytes moved, the floor: `M K C` logits read; `4 K C` mean probability, `8 K` labels, `4 K` confidence and `K` agreement
written.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .launch import cdiv, launch, next_power_of_2
from .votes_kernels import votes_kernel

# By reasoning and from the code compiled for sm_90 (registers, shuffles): 128 items of up to 64 classes give a thread
# of 4 warps one each; a tile of rows as they lie gives it 8 values.
_WARPS = 4
_STAGED_COLUMNS = 64
_VALUES = 8


def launch_options(classes: int, voters: int) -> dict[str, Any]:
    """The sizes that are compiled into the kernels over voters."""
    columns = next_power_of_2(classes)
    staged = columns != classes and columns <= _STAGED_COLUMNS
    items = 32 * _WARPS if staged else max(1, 32 * _WARPS * _VALUES // columns)
    sizes = {"VOTERS": voters, "CLASSES": classes, "COLUMNS": columns, "ITEMS": items}
    return sizes | {"STAGED": staged, "num_warps": _WARPS}


@torch.library.custom_op("xlt::votes", mutates_args=())
def votes(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`kernels.votes` for contiguous `logits` [M, K, C]."""
    voters, items, classes = logits.shape
    outputs = _outputs(logits)
    options = launch_options(classes, voters)
    launch(
        votes_kernel,
        (cdiv(items, options["ITEMS"]),),
        (logits, *outputs),
        (items,),
        **options,
        # A product that is not rounded before it is added would break ties between the classes' mean probabilities.
        enable_fp_fusion=False,
    )
    return outputs


@votes.register_fake
def _outputs(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    items, classes = logits.shape[1:]
    return (
        logits.new_empty(items, dtype=torch.int64),
        logits.new_empty(items, dtype=torch.bool),
        logits.new_empty(items, dtype=torch.float32),
        logits.new_empty((items, classes), dtype=torch.float32),
    )
