"""Classification heads; each returns one row of logits per voter: [K, H] -> [M, K, C]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .. import ModelError
from ..kernels import dropout, residual_norm, voter_mlp
from ..kernels.gelu import gelu
from ..kernels.products import linear, linear_of_each
from .config import EncoderConfig
from .layers import Initialiser, Seed

HEAD_SITE = 1_000_000  # dropout sites of heads start here, those of the encoder stay below


class Head(nn.Module):
    """Base of the heads: `head(x[K, H], seed=None) -> [M, K, C]`; dropout is on when a seed is passed."""

    kind = ""

    def __init__(self, hidden_size: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        if num_classes < 1:
            raise ModelError(f"a head needs at least one class, got {num_classes}")
        self.hidden_size, self.num_classes, self.dropout = hidden_size, num_classes, dropout

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, seed: Seed = None) -> Tensor: ...

    @property
    def num_voters(self) -> int:
        """M, the first size of the result."""
        return 1


class LinearHead(Head):
    """Dropout and one linear layer, as in Hugging Face's BertForTokenClassification; M = 1."""

    kind = "linear"

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        dropout: float = 0.1,
        *,
        seed: int | None = 0,
        initializer_range: float = 0.02,
    ) -> None:
        super().__init__(hidden_size, num_classes, dropout)
        init = Initialiser(seed, initializer_range)
        self._add_layers(init)
        self.weight, self.bias = init.normal(num_classes, hidden_size), init.zeros(num_classes)

    def _add_layers(self, init: Initialiser) -> None:
        """What stands before the last layer."""

    def forward(self, x: Tensor, seed: Seed = None) -> Tensor:
        return linear(dropout(x, self.dropout, seed=seed, site=HEAD_SITE), self.weight, self.bias).unsqueeze(0)


class MlpHead(LinearHead):
    """Dropout, Linear(H, H), tanh, dropout, Linear(H, C); M = 1."""

    kind = "mlp"

    def _add_layers(self, init: Initialiser) -> None:
        self.dense_weight, self.dense_bias = (
            init.normal(self.hidden_size, self.hidden_size),
            init.zeros(self.hidden_size),
        )

    def forward(self, x: Tensor, seed: Seed = None) -> Tensor:
        x = dropout(x, self.dropout, seed=seed, site=HEAD_SITE)
        x = linear(x, self.dense_weight, self.dense_bias).tanh()
        x = dropout(x, self.dropout, seed=seed, site=HEAD_SITE + 1)
        return linear(x, self.weight, self.bias).unsqueeze(0)


class PredictionHead(Head):
    """ModernBERT's: Linear(H, H), GELU, LayerNorm, dropout, Linear(H, C); EuroBERT's has no norm; M = 1.

    Args:
        config: of an encoder that has such a head: it says which parts there are.
    """

    kind = "prediction"
    dense_bias: nn.Parameter | None
    norm_weight: nn.Parameter | None
    norm_bias: nn.Parameter | None

    def __init__(self, config: EncoderConfig, num_classes: int, dropout: float = 0.0, *, seed: int | None = 0) -> None:
        super().__init__(config.hidden_size, num_classes, dropout)
        hidden, parts, self.eps = config.hidden_size, config.pre_norm, config.layer_norm_eps
        if parts is None:
            raise ModelError(f"a {config.model_type} encoder has no prediction head; take 'linear' or 'mlp'")
        init = Initialiser(seed, config.initializer_range)
        self.dense_weight = init.normal(hidden, hidden)
        self.register_parameter("dense_bias", init.zeros(hidden) if parts.transform_bias else None)
        self.register_parameter("norm_weight", init.ones(hidden) if parts.transform else None)
        self.register_parameter("norm_bias", init.zeros(hidden) if parts.transform and parts.norm_bias else None)
        self.weight, self.bias = init.normal(num_classes, hidden), init.zeros(num_classes)

    def forward(self, x: Tensor, seed: Seed = None) -> Tensor:
        x = gelu(linear(x, self.dense_weight, self.dense_bias))
        if self.norm_weight is not None:
            x = residual_norm(x, None, self.norm_weight, self.norm_bias, eps=self.eps)[1]
        x = dropout(x, self.dropout, seed=seed, site=HEAD_SITE)
        return linear(x, self.weight, self.bias).unsqueeze(0)


def default_voter_widths(hidden_size: int, voters: int = 3) -> tuple[int, ...]:
    """Inner widths with minor differences, from 0.75 H to 0.9167 H: 576, 640 and 704 for three voters and H = 768.

    The paper gives no numbers (arXiv 2310.04726, "Voters Module"); these are ours.

    Raises:
        ModelError: `voters` is less than one.
    """
    if voters < 1:
        raise ModelError(f"the Voters Module needs at least one voter, got {voters}")
    step = 2 / (voters - 1) if voters > 1 else 0.0
    return tuple(max(1, round(hidden_size * (9 + step * i) / 12)) for i in range(voters))


class VoterHeads(Head):
    """The Voters Module: M independent encoders of slightly different widths, a softmax layer each.

    Voter i computes Linear(H, d_i), GELU, dropout, Linear(d_i, H) and then its own Linear(H, C)
    (arXiv 2310.04726, "Voters Module" and Eq. 4). The voters are stacked and padded with zeros to the largest width;
    the padding has no gradient and stays exactly zero.

    Args:
        widths: d_1 .. d_M; by default `default_voter_widths(hidden_size)`.
    """

    kind = "voters"

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        widths: Sequence[int] | None = None,
        dropout: float = 0.1,
        *,
        seed: int | None = 0,
        initializer_range: float = 0.02,
    ) -> None:
        super().__init__(hidden_size, num_classes, dropout)
        self.widths = tuple(default_voter_widths(hidden_size) if widths is None else widths)
        if not self.widths or min(self.widths) < 1:
            raise ModelError(f"voter widths must be positive, got {list(self.widths)}")
        count, largest = len(self.widths), max(self.widths)
        init = Initialiser(seed, initializer_range)
        self.in_weight, self.in_bias = init.zeros(count, largest, hidden_size), init.zeros(count, largest)
        self.out_weight, self.out_bias = init.zeros(count, hidden_size, largest), init.zeros(count, hidden_size)
        self.weight, self.bias = init.zeros(count, num_classes, hidden_size), init.zeros(count, num_classes)
        for i, width in enumerate(self.widths):
            self.in_weight.data[i, :width] = init.normal(width, hidden_size).data
            self.out_weight.data[i, :, :width] = init.normal(hidden_size, width).data
            self.weight.data[i] = init.normal(num_classes, hidden_size).data

    @property
    def num_voters(self) -> int:
        return len(self.widths)

    def forward(self, x: Tensor, seed: Seed = None) -> Tensor:
        voters = voter_mlp(
            x, self.in_weight, self.in_bias, self.out_weight, self.out_bias, p=self.dropout, seed=seed, site=HEAD_SITE
        )
        return linear_of_each(voters, self.weight, self.bias)
