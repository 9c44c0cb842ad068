"""`adamw_step` and `gradient_norm` on a GPU: one launch over all tensors each, and one for what is a number a tensor.

All tensors are cut into chunks, a program each, that find their tensor in tables on the device. What stays from step to
step, sizes and the addresses of weights, moments and copies, is put there once and kept as long as the process, since
CUDA graphs read it; what it holds is its key, so that a table is never out of date. Gradients have other addresses in
each graph: those go to the device as arguments of launches, of which a graph keeps its own.

The norm is summed in fp32 by chunk and then over the chunks, in a fixed order. The scale, whether to skip, rates and
steps are read on the device; nothing is atomic, and nothing waits.

Bytes a weight in 16 bits: the gradient written in backward 2, read for the norm 2; read gradient 2, weight 4, moments
8; written weight 4, moments 8, copy 2: in all 32, where passes of their own for fp32 gradients, norm, clipping, AdamW
and copy move 54. In fp32 (no copy) 36 instead of 44.

Measured: not yet on a GPU.
"""

from __future__ import annotations

from functools import cache

import torch
import triton.language as tl
from torch import Tensor

from ..launch import cdiv, launch
from .adamw_kernels import adamw_kernel, norm_kernel, settle_kernel

# By reasoning: eight elements a thread and round, 112 bytes under way; eight rounds, so that what a program looks up
# first is a hundredth of what it moves.
CHUNK, BLOCK = 8192, 1024
_SETTLE, _WARPS = 128, 4
_HALVES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@torch.library.custom_op("xlt::gradient_norm", mutates_args=())
def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """`kernels.gradient_norm` of contiguous tensors on one device, fp32 or of one 16-bit type."""
    owner, layout = _chunks(gradients)
    partials = torch.empty(owner.shape[0], dtype=torch.float32, device=owner.device)
    launch(
        norm_kernel,
        (owner.shape[0],),
        (owner, layout, _addresses(gradients), partials),
        (len(gradients),),
        HALF=_half(gradients),
        CHUNK=CHUNK,
        BLOCK=BLOCK,
        ALIGNED=_aligned(gradients),
        num_warps=_WARPS,
    )
    return partials.sum().sqrt()


gradient_norm.register_fake(lambda gradients: gradients[0].new_empty((), dtype=torch.float32))


@torch.library.custom_op("xlt::adamw_step", mutates_args=("weights", "first", "second", "steps", "copies"))
def adamw_step(
    weights: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    steps: list[Tensor],
    copies: list[Tensor],
    has_copy: list[bool],
    gradients: list[Tensor],
    rates: Tensor,
    decays: list[float],
    groups: list[int],
    beta1: float,
    beta2: float,
    eps: float,
    scale: Tensor | None,
    skip: Tensor | None,
) -> None:
    """`kernels.adamw_step`; `copies` are those of the weights that have one, `rates` and `decays` those of groups."""
    owner, layout = _chunks(gradients)
    device, tensors = owner.device, len(weights)
    rest = iter(copies)
    copied = [next(rest).data_ptr() if one else 0 for one in has_copy]
    state = _numbers(
        device, *(tuple(t.data_ptr() for t in several) for several in (weights, first, second, steps)),
        tuple(copied), tuple(groups),
    )  # fmt: skip
    coefficients = torch.empty((3, tensors), dtype=torch.float32, device=device)
    launch(
        settle_kernel,
        (cdiv(tensors, _SETTLE),),
        (state, rates, _decays(device, tuple(decays)), skip, coefficients),
        (tensors,),
        BETA1=beta1,
        BETA2=beta2,
        HAS_SKIP=skip is not None,
        BLOCK=_SETTLE,
        num_warps=_WARPS,
    )
    launch(
        adamw_kernel,
        (owner.shape[0],),
        (owner, layout, _addresses(gradients), state, coefficients, scale, skip),
        (tensors, 1.0 - beta1, 1.0 - beta2, eps),
        HAS_SCALE=scale is not None,
        HAS_SKIP=skip is not None,
        HALF=_half([*gradients, *copies]),
        CHUNK=CHUNK,
        BLOCK=BLOCK,
        ALIGNED=_aligned([*weights, *first, *second, *copies, *gradients]),
        num_warps=_WARPS,
    )


adamw_step.register_fake(lambda *inputs: None)


def _chunks(gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Which tensor each chunk is of, and the table of the tensors' sizes."""
    sizes = tuple(g.numel() for g in gradients)
    return _layout(gradients[0].device, sizes, tuple(g.dtype != torch.float32 for g in gradients))


@cache
def _layout(device: torch.device, sizes: tuple[int, ...], half: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    counts = torch.tensor([cdiv(size, CHUNK) for size in sizes])
    first = counts.cumsum(0) - counts
    owner = torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), counts)
    return owner.to(device), torch.stack([first, torch.tensor(sizes), torch.tensor(half).long()]).to(device)


@cache
def _numbers(device: torch.device, *rows: tuple[int, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=device)


@cache
def _decays(device: torch.device, decays: tuple[float, ...]) -> Tensor:
    return torch.tensor(decays, dtype=torch.float32, device=device)


def _addresses(gradients: list[Tensor]) -> Tensor:
    """Where the gradients lie, without a copy from the host, which a capture refuses."""
    table = torch.zeros(len(gradients), dtype=torch.int64, device=gradients[0].device)
    torch._foreach_add_(list(table.unbind()), [g.data_ptr() for g in gradients])
    return table


def _half(tensors: list[Tensor]) -> tl.dtype:
    """Triton's name of the 16-bit type among them; any where there is none."""
    return next((_HALVES[t.dtype] for t in tensors if t.dtype in _HALVES), tl.float16)


def _aligned(tensors: list[Tensor]) -> bool:
    return all(t.data_ptr() % 16 == 0 for t in tensors)
