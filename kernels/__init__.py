"""Operations on plain tensors: a file for each family, with public functions, autograd and plain-torch references.

Every operation runs on any device and in fp32, bf16, fp16 or fp64; softmax, loss and layer-norm statistics are computed
in fp32 (fp64 for fp64 input). Gradients are first order only. Dropout is keyed by `(seed, site)`: equal keys and shapes
give equal masks on one device type; `seed=None` switches it off.
"""

from __future__ import annotations

from .attention import AttentionPlan, attention_plan, packed_attention, rotary_table
from .dropout import dropout
from .embedding import embedding_layer_norm
from .gelu import linear_gelu, voter_mlp
from .glu import linear_glu
from .layer_norm import dropout_residual_layer_norm, residual_norm
from .linear_cross_entropy import linear_cross_entropy
from .optimizer.adamw import adamw_step, gradient_norm
from .soft_label_loss import soft_label_loss, supervised_contrastive, voter_cross_entropy
from .votes import Votes, votes

__all__ = [
    "AttentionPlan",
    "Votes",
    "adamw_step",
    "attention_plan",
    "dropout",
    "dropout_residual_layer_norm",
    "embedding_layer_norm",
    "gradient_norm",
    "linear_cross_entropy",
    "linear_gelu",
    "linear_glu",
    "packed_attention",
    "residual_norm",
    "rotary_table",
    "soft_label_loss",
    "supervised_contrastive",
    "voter_cross_entropy",
    "voter_mlp",
    "votes",
]
