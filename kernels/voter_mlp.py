"""M two-layer networks of slightly different width as one batched computation (arXiv 2310.04726, section 3.2)."""

from __future__ import annotations

from torch import Tensor

from .checks import misfit
from .gelu import linear_gelu_dropout
from .products import linear_of_each


def voter_mlp(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    p: float = 0.0,
    seed: int | Tensor | None = None,
    site: int = 0,
) -> Tensor:
    """`w2[m] @ dropout(gelu(w1[m] @ x + b1[m])) + b2[m]` for every voter m.

    Narrower voters are padded with zeros to the common width D in `w1` (rows), `b1` and `w2` (columns). Padding
    contributes nothing and receives exactly zero gradient.

    Args:
        x: [K, H].
        w1: [M, D, H].
        b1: [M, D].
        w2: [M, H, D].
        b2: [M, H].
        p: dropout probability of the hidden layer; off when `seed` is None.
        seed: see `dropout`.
        site: see `dropout`.

    Returns:
        [M, K, H].

    Raises:
        ValueError: shapes do not fit together, or `p` is outside [0, 1).
    """
    voters, width, size = w1.shape
    if (
        x.shape[-1] != size
        or b1.shape != (voters, width)
        or w2.shape[::2] != (voters, width)
        or (b2.shape != w2.shape[:2])
    ):
        raise misfit(x=x, w1=w1, b1=b1, w2=w2, b2=b2)
    hidden = linear_gelu_dropout(x, w1.reshape(voters * width, size), b1.reshape(-1), p, seed, site)
    per_voter = hidden.view(x.shape[0], voters, width).transpose(0, 1)
    return linear_of_each(per_voter, w2, b2)
