"""The layers of encoders: BERT's (arXiv 1810.04805), and those that normalise before each sub-layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..kernels import (
    dropout,
    dropout_residual_layer_norm,
    embedding_layer_norm,
    linear_gelu,
    linear_glu,
    packed_attention,
    residual_norm,
)
from ..kernels.products import linear
from .config import EncoderConfig
from .layout import PreNorm

if TYPE_CHECKING:
    from ..kernels import AttentionPlan

Seed = int | Tensor | None


class Initialiser:
    """Creates parameters as BERT does: weights normal(0, `std`), biases 0, LayerNorm 1 and 0.

    The values are a function of the seed and of the order of the calls. With `seed=None` the weights are left
    uninitialised, for a model that is filled from a file at once.
    """

    def __init__(self, seed: int | None, std: float) -> None:
        self._std = std
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> nn.Parameter:
        """A parameter drawn from normal(0, std)."""
        value = torch.empty(shape)
        if self._generator is not None:
            value.normal_(0.0, self._std, generator=self._generator)
        return nn.Parameter(value)

    def zeros(self, *shape: int) -> nn.Parameter:
        """A bias, or a LayerNorm's shift."""
        return nn.Parameter(torch.zeros(shape))

    def ones(self, *shape: int) -> nn.Parameter:
        """A LayerNorm's scale."""
        return nn.Parameter(torch.ones(shape))


class PackedInput(Protocol):
    """What the encoder reads of a batch: `S` sequences end to end, `T` tokens in all.

    `token_ids`, `positions` and `segments` are int64 [T]; `cu_seqlens` is [S + 1], the first token of each sequence
    and then T; `max_seqlen` is the length of the longest sequence; `item_index` is int64 [K], the token rows that a
    head reads. `first_token` and `first_item` number the first of either where this is a part of a larger batch.
    A batch on a device may have `starts`, the numbers in `cu_seqlens`: plain torch then does not wait for them.
    """

    @property
    def token_ids(self) -> Tensor: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def segments(self) -> Tensor: ...
    @property
    def cu_seqlens(self) -> Tensor: ...
    @property
    def max_seqlen(self) -> int: ...
    @property
    def item_index(self) -> Tensor: ...
    @property
    def first_token(self) -> int | Tensor: ...
    @property
    def first_item(self) -> int | Tensor: ...


class Embeddings(nn.Module):
    """Word + position + segment embedding, LayerNorm, dropout (site 0).

    A model without a second segment reads all tokens as of the first, whatever the batch says, and one without a
    segment table adds zeros.
    """

    def __init__(self, config: EncoderConfig, init: Initialiser) -> None:
        super().__init__()
        self.eps, self.dropout = config.layer_norm_eps, config.dropout
        self.word = init.normal(config.vocab_size, config.hidden_size)
        self.position = init.normal(config.max_positions, config.hidden_size)
        self.offset, self.several_segments = config.position_offset, config.num_segments > 1
        self.segment: Tensor
        if config.num_segments:
            self.segment = init.normal(config.num_segments, config.hidden_size)
        else:  # a row of zeros adds nothing; it is neither trained nor saved
            self.register_buffer("segment", torch.zeros(1, config.hidden_size), persistent=False)
        if config.pad_token_id is not None:
            self.word.data[config.pad_token_id] = 0.0
        self.norm_weight = init.ones(config.hidden_size)
        self.norm_bias = init.zeros(config.hidden_size)

    def forward(self, batch: PackedInput, seed: Seed) -> Tensor:
        return embedding_layer_norm(
            batch.token_ids,
            batch.positions + self.offset if self.offset else batch.positions,
            batch.segments if self.several_segments else torch.zeros_like(batch.segments),
            self.word,
            self.position,
            self.segment,
            self.norm_weight,
            self.norm_bias,
            eps=self.eps,
            p=self.dropout,
            seed=seed,
            site=0,
        )


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by dropout, residual and LayerNorm."""

    def __init__(self, config: EncoderConfig, index: int, init: Initialiser) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.heads, self.site = config.num_heads, 3 * index
        self.eps, self.dropout, self.attention_dropout = config.layer_norm_eps, config.dropout, config.attention_dropout
        self.qkv_weight, self.qkv_bias = init.normal(3 * hidden, hidden), init.zeros(3 * hidden)
        self.output_weight, self.output_bias = init.normal(hidden, hidden), init.zeros(hidden)
        self.attention_norm_weight, self.attention_norm_bias = init.ones(hidden), init.zeros(hidden)
        self.up_weight, self.up_bias = init.normal(inner, hidden), init.zeros(inner)
        self.down_weight, self.down_bias = init.normal(hidden, inner), init.zeros(hidden)
        self.output_norm_weight, self.output_norm_bias = init.ones(hidden), init.zeros(hidden)

    def forward(
        self, hidden: Tensor, batch: PackedInput, plan: AttentionPlan, rows: Tensor | None, seeds: tuple[Seed, Seed]
    ) -> Tensor:
        """The states after this layer, of all tokens or of `rows` only (keys and values stay whole).

        `seeds` are of the attention, which counts tokens, and of what follows it, which counts what is left of them.
        """
        tokens, size = hidden.shape
        qkv = linear(hidden, self.qkv_weight, self.qkv_bias)
        context = packed_attention(
            qkv.view(tokens, 3, self.heads, size // self.heads),
            batch.cu_seqlens,
            batch.max_seqlen,
            p=self.attention_dropout,
            seed=seeds[0],
            site=self.site + 1,
            plan=plan,
        ).reshape(tokens, size)
        if rows is not None:
            context, hidden = context.index_select(0, rows), hidden.index_select(0, rows)
        attended = dropout_residual_layer_norm(
            linear(context, self.output_weight, self.output_bias.detach()),
            hidden,
            self.attention_norm_weight,
            self.attention_norm_bias,
            eps=self.eps,
            p=self.dropout,
            seed=seeds[1],
            site=self.site + 2,
            x_bias=self.output_bias,
        )
        inner = linear_gelu(attended, self.up_weight, self.up_bias)
        return dropout_residual_layer_norm(
            linear(inner, self.down_weight, self.down_bias.detach()),
            attended,
            self.output_norm_weight,
            self.output_norm_bias,
            eps=self.eps,
            p=self.dropout,
            seed=seeds[1],
            site=self.site + 3,
            x_bias=self.down_bias,
        )


class _PreNormPart(nn.Module):
    """What embeddings, layers and the end of an encoder that normalises first have alike."""

    def __init__(self, config: EncoderConfig, parts: PreNorm) -> None:
        super().__init__()
        self.eps, self.rms, self.parts, self.size = config.layer_norm_eps, parts.rms, parts, config.hidden_size

    def _add_norm(self, name: str, init: Initialiser) -> None:
        self.register_parameter(f"{name}_weight", init.ones(self.size))
        self.register_parameter(f"{name}_bias", init.zeros(self.size) if self.parts.norm_bias else None)

    def _add_linear(self, name: str, init: Initialiser, rows: int, columns: int, bias: bool) -> None:
        self.register_parameter(f"{name}_weight", init.normal(rows, columns))
        self.register_parameter(f"{name}_bias", init.zeros(rows) if bias else None)

    def _norm(self, name: str, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`x + residual`, and that normalised."""
        weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
        return residual_norm(x, residual, weight, bias, eps=self.eps, rms=self.rms)


class PreNormEmbeddings(_PreNormPart):
    """Word embedding, normalised where the layout says so."""

    def __init__(self, config: EncoderConfig, parts: PreNorm, init: Initialiser) -> None:
        super().__init__(config, parts)
        self.word = init.normal(config.vocab_size, config.hidden_size)
        if config.pad_token_id is not None:
            self.word.data[config.pad_token_id] = 0.0
        if parts.embedding_norm:
            self._add_norm("norm", init)

    def forward(self, batch: PackedInput, seed: Seed) -> Tensor:
        """[T, H]; `seed` is for embeddings with dropout, which these have not."""
        words = functional.embedding(batch.token_ids, self.word)
        return self._norm("norm", words)[1] if self.parts.embedding_norm else words


class PreNormLayer(_PreNormPart):
    """`x + attention(norm(x))`, then the same with a gated feed-forward layer (arXiv 2412.13663, section 2.1).

    Attributes:
        base: of its rotary positions.
        window: how far to both sides a token sees; None is the whole sequence.
    """

    qkv_weight: nn.Parameter
    qkv_bias: nn.Parameter | None
    output_weight: nn.Parameter
    output_bias: nn.Parameter | None
    up_weight: nn.Parameter
    up_bias: nn.Parameter | None
    down_weight: nn.Parameter
    down_bias: nn.Parameter | None

    def __init__(self, config: EncoderConfig, parts: PreNorm, index: int, init: Initialiser) -> None:
        super().__init__(config, parts)
        hidden, inner, self.heads = config.hidden_size, config.intermediate_size, config.num_heads
        self.site, self.base, self.window = 3 * index, parts.bases[index], parts.windows[index]
        self.dropout, self.attention_dropout = config.dropout, config.attention_dropout
        self.normalised = index == 0 and parts.embedding_norm  # what comes in is the embeddings, normalised already
        if not self.normalised:
            self._add_norm("attention_norm", init)
        values = hidden // self.heads * (self.heads + 2 * parts.key_heads)
        self._add_linear("qkv", init, values, hidden, parts.attention_bias)
        self._add_linear("output", init, hidden, hidden, parts.attention_bias)
        self._add_norm("mlp_norm", init)
        self._add_linear("up", init, 2 * inner, hidden, parts.mlp_bias)
        self._add_linear("down", init, hidden, inner, parts.mlp_bias)

    def forward(
        self,
        hidden: Tensor,
        batch: PackedInput,
        plan: AttentionPlan,
        rows: Tensor | None,
        seeds: tuple[Seed, Seed],
        rotary: Tensor,
    ) -> Tensor:
        """As `Layer.forward`; `rotary` is the `rotary_table` of the batch's positions for `base`."""
        tokens, size = hidden.shape
        normed = hidden if self.normalised else self._norm("attention_norm", hidden)[1]
        context = packed_attention(
            self._heads(linear(normed, self.qkv_weight, self.qkv_bias)),
            batch.cu_seqlens,
            batch.max_seqlen,
            p=self.attention_dropout,
            seed=seeds[0],
            site=self.site + 1,
            plan=plan,
            rotary=rotary,
            window=self.window,
        ).reshape(tokens, size)
        if rows is not None:
            context, hidden = context.index_select(0, rows), hidden.index_select(0, rows)
        attended = linear(context, self.output_weight, self.output_bias)
        attended = dropout(attended, self.attention_dropout, seed=seeds[1], site=self.site + 2)
        hidden, normed = self._norm("mlp_norm", attended, hidden)
        inner = linear_glu(normed, self.up_weight, self.up_bias, self.parts.activation)
        inner = dropout(inner, self.dropout, seed=seeds[1], site=self.site + 3)
        return linear(inner, self.down_weight, self.down_bias).add_(hidden)

    def _heads(self, qkv: Tensor) -> Tensor:
        """[T, 3, heads, d]; heads of keys and values that several of queries share are repeated."""
        tokens, keys = qkv.shape[0], self.parts.key_heads
        if keys == self.heads:
            return qkv.view(tokens, 3, self.heads, -1)
        q, k, v = torch.split(qkv.view(tokens, self.heads + 2 * keys, -1), [self.heads, keys, keys], 1)
        k, v = (x.repeat_interleave(self.heads // keys, 1) for x in (k, v))
        return torch.stack((q, k, v), 1)


class FinalNorm(_PreNormPart):
    """The norm after the last layer."""

    def __init__(self, config: EncoderConfig, parts: PreNorm, init: Initialiser) -> None:
        super().__init__(config, parts)
        self._add_norm("norm", init)

    def forward(self, hidden: Tensor) -> Tensor:
        """[K, H], normalised."""
        return self._norm("norm", hidden)[1]
