"""Sum of word, position and segment embeddings, LayerNorm and dropout: the input layer of BERT."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from .checks import misfit
from .dispatch import needs_gradient, use_triton
from .dropout import dropout
from .layer_norm import HALF, MAX_FUSED_COLUMNS, layer_norm
from .masks import seed_tensor


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

    Returns:
        [T, H] in the dtype of `word`; sum and statistics are fp32 for half-precision tables.

    Raises:
        IndexError: an index is outside its table (plain torch on a CPU; a device-side assertion on CUDA). In the
            Triton kernels such an index reads a row of zeros.
        ValueError: `p` is outside [0, 1), or shapes do not fit together.
    """
    ids, tables = (token_ids, positions, segments), (word, position, segment)
    rows = [t.shape[1:] for t in tables]
    if any(i.shape != token_ids.shape for i in ids) or any(r != weight.shape for r in (*rows, bias.shape)):
        numbers = {"token_ids": token_ids, "positions": positions, "segments": segments}
        raise misfit(**numbers, word=word, position=position, segment=segment, weight=weight, bias=bias)
    if use_triton(word) and weight.shape[0] <= MAX_FUSED_COLUMNS:
        from .fused.norms.embedding import embedding_layer_norm as fused

        save = needs_gradient(*tables, weight, bias)
        flat = [i.reshape(-1).contiguous() for i in ids]
        whole = [t.contiguous() for t in (*tables, weight, bias)]
        result: Tensor = fused(*flat, *whole, seed_tensor(p, seed, word.device), eps, p, site, save)[0]
        return result.view(*token_ids.shape, weight.shape[0])
    total = functional.embedding(token_ids, word)
    dtype = total.dtype
    if dtype in HALF:
        total = total.float()
    total = total + functional.embedding(positions, position)
    total = total + functional.embedding(segments, segment)
    out = layer_norm(total, weight, bias, eps).to(dtype)
    return dropout(out, p, seed=seed, site=site)
