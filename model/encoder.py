"""An encoder of the BERT family on packed batches (arXiv 1810.04805; of ModernBERT's kind, arXiv 2412.13663)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .. import ConfigError, ModelError
from ..kernels import attention_plan, rotary_table
from ..kernels.attention_plan import MULTIPLE_IN_16_BITS
from ..kernels.masks import seed_from_row
from ..kernels.products import products_in_16_bits
from .config import EncoderConfig
from .layers import Embeddings, FinalNorm, Initialiser, Layer, PackedInput, PreNormEmbeddings, PreNormLayer, Seed


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """`hidden`: the last layer's states, [T, H], or [len(rows), H] where rows were asked for."""

    hidden: Tensor


class Encoder(nn.Module):
    """An encoder; a fresh one is a function of `config` and `seed` alone.

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
        self.embeddings: Embeddings | PreNormEmbeddings
        self.final: FinalNorm | None = None
        parts, indices = config.pre_norm, range(config.num_layers)
        if parts is None:
            self.embeddings = Embeddings(config, init)
            self.layers = nn.ModuleList([Layer(config, i, init) for i in indices])
        else:
            self.embeddings = PreNormEmbeddings(config, parts, init)
            self.layers = nn.ModuleList([PreNormLayer(config, parts, i, init) for i in indices])
            self.final = FinalNorm(config, parts, init)
        self.recompute = False

    if TYPE_CHECKING:

        def __call__(
            self,
            batch: PackedInput,
            *,
            rows: Tensor | None = None,
            seed: Seed = None,
        ) -> EncoderOutput: ...

    @property
    def word_embedding(self) -> nn.Parameter:
        """The word embedding table, [V, H]; the decoder of a masked LM is this very parameter."""
        return self.embeddings.word

    def forward(
        self,
        batch: PackedInput,
        *,
        rows: Tensor | None = None,
        seed: Seed = None,
    ) -> EncoderOutput:
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
        few_lengths = torch.is_grad_enabled() and products_in_16_bits(self.word_embedding)
        starts: Sequence[int] | None = getattr(batch, "starts", None)
        plan = attention_plan(batch.cu_seqlens, multiple=MULTIPLE_IN_16_BITS if few_lengths else 1, starts=starts)
        of_tokens = seed_from_row(seed, batch.first_token, self.word_embedding)
        of_rows = of_tokens if rows is None else seed_from_row(seed, batch.first_item, self.word_embedding)
        rotary = self._rotary_tables(batch)
        hidden: Tensor = self.embeddings(batch, of_tokens)
        yield hidden
        for index, layer in enumerate(self.layers, start=1):
            last = index == len(self.layers)
            seeds = of_tokens, of_rows if last else of_tokens
            inputs = hidden, batch, plan, rows if last else None, seeds, *rotary[index - 1]
            if self._recomputes(layer, hidden):
                hidden = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = layer(*inputs)
            yield hidden if self.final is None or not last else self.final(hidden)

    def _rotary_tables(self, batch: PackedInput) -> list[tuple[Tensor, ...]]:
        """What each layer reads of the batch's positions: nothing in BERT, else a table, made once for each base."""
        parts, size = self.config.pre_norm, self.config.hidden_size // self.config.num_heads
        if parts is None:
            return [()] * len(self.layers)
        tables = {base: rotary_table(batch.positions, size, base) for base in dict.fromkeys(parts.bases)}
        return [(tables[base],) for base in parts.bases]

    def _recomputes(self, layer: nn.Module, hidden: Tensor) -> bool:
        """Whether a layer is computed again; below the first one that trains nothing is kept anyway."""
        if not self.recompute or not torch.is_grad_enabled():
            return False
        return hidden.requires_grad or any(parameter.requires_grad for parameter in layer.parameters())

    def set_dropout(self, p: float) -> None:
        """Trains with another probability of dropout, also that of attention; `config`, which is saved, stays."""
        for module in (self.embeddings, *self.layers):
            for name in ("dropout", "attention_dropout"):
                if hasattr(module, name):
                    setattr(module, name, p)

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
