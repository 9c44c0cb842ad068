"""Sum of word, position and segment embeddings, LayerNorm and dropout: the input layer of BERT."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .dropout import dropout
from .layer_norm import layer_norm


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

    Returns:
        [T, H] in the dtype of `word`; sum and statistics are fp32 for half-precision tables.

    Raises:
        IndexError: an index is outside its table (CPU; a device-side assertion on CUDA).
        ValueError: `p` is outside [0, 1).
    """
    total = functional.embedding(token_ids, word)
    dtype = total.dtype
    if dtype in (torch.bfloat16, torch.float16):
        total = total.float()
    total = total + functional.embedding(positions, position)
    total = total + functional.embedding(segments, segment)
    out = layer_norm(total, weight, bias, eps).to(dtype)
    return dropout(out, p, seed=seed, site=site)
