"""The heads of this engine in plain torch on padded text; `modeling_xlt.py` of an exported folder has this source."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class XltHead(nn.Module):
    """Log-probabilities of the voters' mean, from hidden states [B, L, H]: [B, L, C] for words, [B, C] for texts.

    Args:
        pooling: what is read of a text: "cls", "pooler" (with `activation`), "mean", or "late", which is the mean
            of the tokens' logits; "words" for a tagger.
        kind: "voters" with their `widths`, or one "linear" or "mlp" layer.
    """

    def __init__(
        self, pooling: str, kind: str, hidden_size: int, num_classes: int, widths: list[int], activation: str
    ) -> None:
        super().__init__()
        self.pooling, self.activation = pooling, activation
        self.pooler = nn.Linear(hidden_size, hidden_size) if pooling == "pooler" else None
        if kind == "voters":
            voters = [
                nn.Sequential(
                    nn.Linear(hidden_size, width),
                    nn.GELU(),
                    nn.Linear(width, hidden_size),
                    nn.Linear(hidden_size, num_classes),
                )
                for width in widths
            ]
        else:
            before = [nn.Linear(hidden_size, hidden_size), nn.Tanh()] if kind == "mlp" else []
            voters = [nn.Sequential(*before, nn.Linear(hidden_size, num_classes))]
        self.voters = nn.ModuleList(voters)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`mask` [B, L] is 1 where there is text."""
        return self.mean(self.votes(hidden, mask))

    def votes(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The log-probabilities of each of M voters, [M, B, L, C] or [M, B, C]."""
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        if self.pooling == "mean":
            hidden = (hidden * weights).sum(1) / weights.sum(1)
        elif self.pooling not in ("words", "late"):
            hidden = hidden[:, 0]
        if self.pooler is not None:
            hidden = getattr(torch, self.activation)(self.pooler(hidden))
        logits = [voter(hidden) for voter in self.voters]
        if self.pooling == "late":
            logits = [(one * weights).sum(1) / weights.sum(1) for one in logits]
        return torch.stack([one.log_softmax(-1) for one in logits])

    def mean(self, votes: Tensor) -> Tensor:
        """The logarithm of the mean probability, from those of the voters."""
        return votes.logsumexp(0) - math.log(len(self.voters))
