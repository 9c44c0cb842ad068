"""Sum of word, position and segment embeddings, LayerNorm and dropout: the input layer of BERT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .checks import check_buffer, misfit
from .dispatch import needs_gradient, use_triton
from .dropout import dropout
from .layer_norm import HALF, MAX_FUSED_COLUMNS, layer_norm
from .masks import seed_tensor


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
        token_ids: [T] integers below V, P and G.
        positions: [T] integers below V, P and G.
        segments: [T] integers below V, P and G.
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
    rows = [t.shape[1:] for t in tables]
    if any(i.shape != token_ids.shape for i in ids) or any(r != weight.shape for r in (*rows, bias.shape)):
        numbers = {"token_ids": token_ids, "positions": positions, "segments": segments}
        raise misfit(**numbers, word=word, position=position, segment=segment, weight=weight, bias=bias)
    check_buffer("word_grad", word_grad, word)
    if use_triton(word) and weight.shape[0] <= MAX_FUSED_COLUMNS:
        from .fused.norms.embedding import embedding_layer_norm as fused

        save = needs_gradient(*tables, weight, bias)
        flat = [i.reshape(-1).contiguous() for i in ids]
        whole = [t.contiguous() for t in (*tables, weight, bias)]
        result: Tensor = fused(*flat, *whole, seed_tensor(p, seed, word.device), word_grad, eps, p, site, save)[0]
        return result.view(*token_ids.shape, weight.shape[0])
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
