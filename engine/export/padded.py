"""A task model on padded text, in plain torch: what is written down as a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...model import TaskModel
from ...model.encoder import Embeddings, Layer
from .write import plain_head, plain_tensors


class PaddedModel(nn.Module):
    """The encoder's weights, read row by row, and the head of `modeling_xlt.py`."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, plain_head(model, plain_tensors(model))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the voters' mean and of each voter, [B, L, C] and [M, B, L, C], of texts without L.

        Args:
            input_ids: int64 [B, L], as are the others.
            attention_mask: 1 where there is text, which begins each row.
            token_type_ids: for layouts with a table of segments.
        """
        hidden = _embed(self.encoder.embeddings, input_ids, token_type_ids)
        hidden_keys = (1.0 - attention_mask[:, None, None].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
        for layer in self.encoder.layers:
            assert isinstance(layer, Layer)
            hidden = _layer(layer, hidden, hidden_keys)
        votes = self.head.votes(hidden, attention_mask)
        return self.head.mean(votes), votes


def _embed(tables: Embeddings, ids: Tensor, segments: Tensor | None) -> Tensor:
    positions = torch.arange(ids.shape[1], device=ids.device) + tables.offset
    total = functional.embedding(ids, tables.word) + functional.embedding(positions, tables.position)
    total = total + (tables.segment[0] if segments is None else functional.embedding(segments, tables.segment))
    return functional.layer_norm(total, total.shape[-1:], tables.norm_weight, tables.norm_bias, tables.eps)


def _layer(layer: Layer, hidden: Tensor, hidden_keys: Tensor) -> Tensor:
    rows, length, size = hidden.shape
    qkv = functional.linear(hidden, layer.qkv_weight, layer.qkv_bias)
    q, k, v = qkv.view(rows, length, 3, layer.heads, size // layer.heads).permute(2, 0, 3, 1, 4).unbind(0)
    context = functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden_keys)
    context = context.transpose(1, 2).reshape(rows, length, size)
    attended = hidden + functional.linear(context, layer.output_weight, layer.output_bias)
    norm = layer.attention_norm_weight, layer.attention_norm_bias, layer.eps
    attended = functional.layer_norm(attended, (size,), *norm)
    inner = functional.gelu(functional.linear(attended, layer.up_weight, layer.up_bias))
    out = attended + functional.linear(inner, layer.down_weight, layer.down_bias)
    return functional.layer_norm(out, (size,), layer.output_norm_weight, layer.output_norm_bias, layer.eps)
