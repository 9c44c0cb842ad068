"""A post-LayerNorm encoder of the BERT family on packed batches (arXiv 1810.04805)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .. import ConfigError, ModelError
from ..kernels import (
    attention_plan,
    dropout_residual_layer_norm,
    embedding_layer_norm,
    linear_gelu,
    packed_attention,
)
from ..kernels.masks import seed_from_row
from .config import EncoderConfig
from .init import Initialiser

if TYPE_CHECKING:
    from ..kernels import AttentionPlan

Seed = int | Tensor | None


class PackedInput(Protocol):
    """What the encoder reads of a batch: `S` sequences end to end, `T` tokens in all.

    `token_ids`, `positions` and `segments` are int64 [T]; `cu_seqlens` is [S + 1], the first token of each sequence
    and then T; `max_seqlen` is the length of the longest sequence; `item_index` is int64 [K], the token rows that a
    head reads. `first_token` and `first_item` number the first of either where this is a part of a larger batch.
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


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """`hidden`: the last layer's states, [T, H], or [len(rows), H] where rows were asked for."""

    hidden: Tensor


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
        qkv = functional.linear(hidden, self.qkv_weight, self.qkv_bias)
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
            functional.linear(context, self.output_weight, self.output_bias.detach()),
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
            functional.linear(inner, self.down_weight, self.down_bias.detach()),
            attended,
            self.output_norm_weight,
            self.output_norm_bias,
            eps=self.eps,
            p=self.dropout,
            seed=seeds[1],
            site=self.site + 3,
            x_bias=self.down_bias,
        )


class Encoder(nn.Module):
    """A BERT encoder; a fresh one is a function of `config` and `seed` alone.

    Parameters whose name ends in `bias` or contains `norm` are those that BERT trains without weight decay.

    Args:
        config: sizes and constants.
        seed: of the initialisation (BERT's: normal(0, initializer_range), biases 0, LayerNorm 1 and 0, pad row 0);
            None leaves the weights uninitialised.

    Attributes:
        recompute: keep only the input of each layer for the backward pass, and compute the layer again there. Dropout
            is a function of the seed, so that the gradients are the same to the bit.
    """

    def __init__(self, config: EncoderConfig, *, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        init = Initialiser(seed, config.initializer_range)
        self.embeddings = Embeddings(config, init)
        self.layers = nn.ModuleList([Layer(config, i, init) for i in range(config.num_layers)])
        self.recompute = False

    if TYPE_CHECKING:

        def __call__(self, batch: PackedInput, *, rows: Tensor | None = None, seed: Seed = None) -> EncoderOutput: ...

    @property
    def word_embedding(self) -> nn.Parameter:
        """The word embedding table, [V, H]; the decoder of a masked LM is this very parameter."""
        return self.embeddings.word

    def forward(self, batch: PackedInput, *, rows: Tensor | None = None, seed: Seed = None) -> EncoderOutput:
        """Encodes a packed batch.

        Args:
            rows: int64 [K]; the last layer then computes its output projection and feed-forward for these token rows
                only, and `hidden` is [K, H] in their order.
            seed: turns dropout on; the masks are a function of the seed, and of where the batch begins in its whole.

        Raises:
            ModelError: a sequence is longer than the position table, or (checked on the CPU only) an id lies outside
                its table.
        """
        for hidden in self._states(batch, rows, seed):
            last = hidden
        return EncoderOutput(last)

    def layer_states(self, batch: PackedInput) -> Iterator[Tensor]:
        """The states after the embeddings and after each layer, [T, H] each, without dropout; for looking inside.

        Raises:
            ModelError: as `forward`.
        """
        return self._states(batch, None, None)

    def _states(self, batch: PackedInput, rows: Tensor | None, seed: Seed) -> Iterator[Tensor]:
        self._check(batch)
        plan = attention_plan(batch.cu_seqlens)
        of_tokens = seed_from_row(seed, batch.first_token, self.word_embedding)
        of_rows = of_tokens if rows is None else seed_from_row(seed, batch.first_item, self.word_embedding)
        hidden: Tensor = self.embeddings(batch, of_tokens)
        yield hidden
        for index, layer in enumerate(self.layers, start=1):
            last = index == len(self.layers)
            inputs = hidden, batch, plan, rows if last else None, (of_tokens, of_rows if last else of_tokens)
            if self._recomputes(layer, hidden):
                hidden = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = layer(*inputs)
            yield hidden

    def _recomputes(self, layer: nn.Module, hidden: Tensor) -> bool:
        """Whether a layer is computed again; below the first one that trains nothing is kept anyway."""
        if not self.recompute or not torch.is_grad_enabled():
            return False
        return hidden.requires_grad or any(parameter.requires_grad for parameter in layer.parameters())

    def freeze(self, embeddings: bool, layers: int) -> None:
        """Trains everything but the embeddings (if `embeddings`) and the lowest `layers` layers.

        With the embeddings and the layers below frozen, no activation of that part is kept for the backward pass.

        Raises:
            ConfigError: `layers` is negative or more than the encoder has.
        """
        if not 0 <= layers <= len(self.layers):
            raise ConfigError(f"cannot freeze {layers} layers: the encoder has {len(self.layers)}")
        self.embeddings.requires_grad_(not embeddings)
        for index, layer in enumerate(self.layers):
            layer.requires_grad_(index >= layers)

    def frozen_parameters(self) -> dict[str, Tensor]:
        """The parameters that do not train, by name, in a fixed order (for hashing before and after training)."""
        return {name: value.detach() for name, value in self.named_parameters() if not value.requires_grad}

    def _check(self, batch: PackedInput) -> None:
        config = self.config
        if batch.max_seqlen > config.max_length:
            raise ModelError(
                f"a sequence has {batch.max_seqlen} tokens, the model has {config.max_length} positions; "
                "lower max_length"
            )
        if torch.compiler.is_exporting() or batch.token_ids.device.type != "cpu" or not batch.token_ids.numel():
            return  # a graph does not branch on values, and on a device the check would wait for the queue
        tables = (
            ("token id", batch.token_ids, config.vocab_size),
            ("position", batch.positions, config.max_length),
            ("segment", batch.segments, max(2, config.num_segments)),  # with fewer, the second is read as the first
        )
        for what, ids, size in tables:
            low, high = (int(v) for v in ids.aminmax())
            if low < 0 or high >= size:
                raise ModelError(
                    f"{what} {low if low < 0 else high} is outside the model's table of {size} rows; "
                    "use the tokenizer of this checkpoint"
                )
