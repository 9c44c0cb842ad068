"""Sum of word, position and segment embeddings, LayerNorm and dropout: the input layer of BERT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .dispatch import use_triton
from .dropout import dropout
from .layer_norm import HALF, MAX_FUSED_COLUMNS, layer_norm
from .masks import is_active, seed_tensor


class _RowsIntoBuffer(torch.autograd.Function):
    """Rows of a table, whose gradients backward adds to a buffer instead of returning them."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, buffer: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        # Not saved for backward: other nodes write to the buffer in between, as they should.
        ctx.buffer = buffer
        return functional.embedding(ids, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.buffer.index_add_(0, ids.reshape(-1), grad.reshape(-1, grad.shape[-1]).to(ctx.buffer.dtype))
        return None, None, None


def _check(ids: tuple[Tensor, ...], tables: tuple[Tensor, ...], vectors: tuple[Tensor, ...]) -> None:
    size = tables[0].shape[-1:]
    same_ids = all(i.shape == ids[0].shape for i in ids)
    if not same_ids or any(t.shape[1:] != size for t in tables) or any(v.shape != size for v in vectors):
        shapes = [[tuple(t.shape) for t in group] for group in (ids, tables, vectors)]
        raise ValueError("ids {}, tables {}, weight and bias {} do not fit together".format(*shapes))


def _check_buffer(word_grad: Tensor, word: Tensor) -> None:
    if word_grad.shape != word.shape or not word_grad.is_contiguous() or word_grad.device != word.device:
        raise ValueError(
            f"word_grad must be contiguous, {tuple(word.shape)} on {word.device}; got {tuple(word_grad.shape)} on "
            f"{word_grad.device} with strides {word_grad.stride()}"
        )
    if word_grad.dtype not in (torch.float32, word.dtype) or word_grad.requires_grad:
        raise ValueError(f"word_grad must be float32 or {word.dtype}, without gradient; got {word_grad.dtype}")


def embedding_layer_norm(
    token_ids: Tensor,
    positions: Tensor,
    segments: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    p: float = 0.0,
    seed: int | Tensor | None = None,
    site: int = 0,
    word_grad: Tensor | None = None,
) -> Tensor:
    """`dropout(LayerNorm(word[token_ids] + position[positions] + segment[segments]))`.

    A frozen table costs nothing in backward; when all three are frozen, neither does the gradient of their sum.

    Args:
        token_ids: [T] integers below V; likewise `positions` and `segments` for their tables.
        positions: [T].
        segments: [T].
        word: [V, H].
        position: [P, H].
        segment: [G, H].
        weight: [H], of the LayerNorm.
        bias: [H].
        eps: added to the variance.
        p: dropout probability; off when `seed` is None.
        seed: see `dropout`.
        site: see `dropout`.
        word_grad: [V, H], fp32 or in the dtype of `word`, contiguous. If `word` requires a gradient, backward adds it
            here in place, for the rows that were read alone, and `word` itself receives none. Meant for a decoder tied
            to `word`, whose gradient fills the same buffer.

    Returns:
        [T, H] in the dtype of `word`; sum and statistics are fp32 for half-precision tables.

    Raises:
        IndexError: an index is outside its table (plain torch on a CPU; a device-side assertion on CUDA). In the
            Triton kernels such an index reads a row of zeros.
        ValueError: `p` is outside [0, 1), shapes do not fit together, or `word_grad` cannot take a gradient of `word`.
    """
    ids, tables = (token_ids, positions, segments), (word, position, segment)
    _check(ids, tables, (weight, bias))
    if word_grad is not None:
        _check_buffer(word_grad, word)
    if use_triton(word) and weight.shape[0] <= MAX_FUSED_COLUMNS:
        from .fused.embedding import embedding_layer_norm as fused

        seeds = seed_tensor(seed, word.device) if is_active(p, seed) and seed is not None else None
        result: Tensor = fused(ids, tables, weight, bias, seeds, word_grad, eps, p, site)
        return result
    if word_grad is None:
        total = functional.embedding(token_ids, word)
    else:
        into_buffer: Callable[..., Tensor] = _RowsIntoBuffer.apply
        total = into_buffer(word, token_ids, word_grad)
    dtype = total.dtype
    if dtype in HALF:
        total = total.float()
    total = total + functional.embedding(positions, position)
    total = total + functional.embedding(segments, segment)
    out = layer_norm(total, weight, bias, eps).to(dtype)
    return dropout(out, p, seed=seed, site=site)
