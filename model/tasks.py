"""An encoder with what a task needs on top: the masked-LM transform, or a pooling and a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import ModelError
from ..kernels import dropout_residual_layer_norm, linear_gelu, residual_norm
from ..kernels.gelu import gelu
from ..kernels.masks import seed_from_row
from ..kernels.products import linear
from ..tasks import TASKS, per_word
from .config import EncoderConfig
from .encoder import Encoder
from .heads import Head
from .info import POOLINGS
from .layers import Initialiser, PackedInput, Seed


class Transform(nn.Module):
    """What a masked LM has after its encoder: a layer with a norm where the layout has it, and the decoder's bias."""

    dense_weight: nn.Parameter
    dense_bias: nn.Parameter | None
    norm_weight: nn.Parameter
    norm_bias: nn.Parameter | None
    decoder_bias: nn.Parameter | None

    def add_transform(self, config: EncoderConfig, init: Initialiser) -> None:
        """Adds the parameters that the layout has."""
        hidden, parts = config.hidden_size, config.pre_norm
        self.eps, self.post_norm = config.layer_norm_eps, parts is None
        self.transforms = parts is None or parts.transform
        if self.transforms:
            biases = (parts is None or parts.transform_bias, parts is None or parts.norm_bias)
            self.dense_weight = init.normal(hidden, hidden)
            self.register_parameter("dense_bias", init.zeros(hidden) if biases[0] else None)
            self.norm_weight = init.ones(hidden)
            self.register_parameter("norm_bias", init.zeros(hidden) if biases[1] else None)
        has_bias = parts is None or parts.decoder_bias
        self.register_parameter("decoder_bias", init.zeros(config.vocab_size) if has_bias else None)

    def transformed(self, hidden: Tensor) -> Tensor:
        """What the decoder reads of the encoder's states [K, H]."""
        if not self.transforms:
            return hidden
        if self.post_norm:
            assert self.dense_bias is not None
            assert self.norm_bias is not None
            inner = linear_gelu(hidden, self.dense_weight, self.dense_bias)
            return dropout_residual_layer_norm(inner, None, self.norm_weight, self.norm_bias, eps=self.eps)
        inner = gelu(linear(hidden, self.dense_weight, self.dense_bias))
        return residual_norm(inner, None, self.norm_weight, self.norm_bias, eps=self.eps)[1]


class MaskedLM(Transform):
    """An encoder with its masked-LM transform; the decoder is the word embedding, with a bias of its own.

    Args:
        seed: of the transform's initialisation; None leaves it uninitialised.
    """

    def __init__(self, encoder: Encoder, *, seed: int | None = 0) -> None:
        super().__init__()
        config = encoder.config
        init = Initialiser(seed, config.initializer_range)
        self.encoder = encoder
        self.add_transform(config, init)
        untied = config.pre_norm is not None and not config.pre_norm.tied
        self.decoder = init.normal(config.vocab_size, config.hidden_size) if untied else None

    if TYPE_CHECKING:

        def __call__(self, batch: PackedInput, seed: Seed = None) -> Tensor: ...

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration."""
        return self.encoder.config

    @property
    def decoder_weight(self) -> nn.Parameter:
        """[V, H]; but for layouts with one of its own the word embedding itself, frozen when that is."""
        return self.encoder.word_embedding if self.decoder is None else self.decoder

    def transform(self, batch: PackedInput, seed: Seed = None) -> Tensor:
        """What the decoder reads at the batch's items (the masked tokens), [K, H]."""
        return self._transform(batch, batch.item_index, seed)

    forward = transform

    def logits(self, batch: PackedInput, rows: Tensor | None = None) -> Tensor:
        """Vocabulary logits, [len(rows), V], or [T, V]; for checks, since training never needs the whole matrix."""
        return linear(self._transform(batch, rows, None), self.decoder_weight, self.decoder_bias)

    def _transform(self, batch: PackedInput, rows: Tensor | None, seed: Seed) -> Tensor:
        return self.transformed(self.encoder(batch, rows=rows, seed=seed).hidden)


class Pooler(nn.Module):
    """BERT's pooler: tanh(Linear(H, H)) of the [CLS] state; in DistilBERT's classifier with ReLU."""

    def __init__(self, config: EncoderConfig, *, seed: int | None = 0) -> None:
        super().__init__()
        self.config = config
        init = Initialiser(seed, config.initializer_range)
        self.dense_weight = init.normal(config.hidden_size, config.hidden_size)
        self.dense_bias = init.zeros(config.hidden_size)

    if TYPE_CHECKING:

        def __call__(self, hidden: Tensor) -> Tensor: ...

    def forward(self, hidden: Tensor) -> Tensor:
        pooled = linear(hidden, self.dense_weight, self.dense_bias)
        return pooled.relu() if self.config.layout.pooler_activation == "relu" else pooled.tanh()


class TaskModel(nn.Module):
    """An encoder and a head for one task: `model(batch, seed=None) -> [M, K, C]`.

    Args:
        task: 'ner' or 'tag' (one item per word) or 'classification' (one item, the [CLS] row, per sequence).
        labels: the C class names, in the order of the logits.
        pooling: classification only: what the head reads of a sequence. 'cls', its [CLS] state; 'pooler', the same
            through the checkpoint's pooler; 'mean', the mean over its tokens; 'late', each of its tokens, and the mean
            is taken of the logits (a prediction head only).
        pooler: the pooler, with pooling 'pooler' and only then.

    Raises:
        ModelError: the parts do not fit together.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        task: str,
        labels: Sequence[str],
        *,
        pooling: str = "cls",
        pooler: Pooler | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.pooler = encoder, head, pooler
        self.task, self.labels, self.pooling = task, tuple(labels), pooling
        if task not in TASKS:
            raise ModelError(f"unknown task {task!r}, expected one of {', '.join(TASKS)}")
        if pooling not in POOLINGS:
            raise ModelError(f"unknown pooling {pooling!r}, expected one of {', '.join(POOLINGS)}")
        if per_word(task) and pooling != "cls":
            raise ModelError(f"pooling {pooling!r} is for classification; a tagger reads the words' own states")
        if pooling == "late" and head.kind != "prediction":
            raise ModelError(f"pooling 'late' is for a prediction head, not for {head.kind!r}")
        if (pooling == "pooler") != (pooler is not None):
            raise ModelError("pooling 'pooler' needs the checkpoint's pooler (load_pooler), other poolings have none")
        if len(self.labels) != head.num_classes or len(set(self.labels)) != len(self.labels):
            raise ModelError(f"the head has {head.num_classes} classes, the labels are {list(self.labels)}")
        if head.hidden_size != encoder.config.hidden_size:
            raise ModelError(f"the head reads {head.hidden_size} values, the encoder has {encoder.config.hidden_size}")

    if TYPE_CHECKING:

        def __call__(self, batch: PackedInput, seed: Seed = None) -> Tensor: ...

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration."""
        return self.encoder.config

    def forward(self, batch: PackedInput, seed: Seed = None) -> Tensor:
        """The logits of the batch's items, [M, K, C]; dropout is on when a seed is passed."""
        return self.read(self.features(batch, seed), batch, seed)

    def read(self, features: Tensor, batch: PackedInput, seed: Seed = None) -> Tensor:
        """The head's logits, [M, K, C], of the batch's `features`."""
        logits = self.head(features, seed_from_row(seed, batch.first_item, features))
        return _mean(logits[0], batch).unsqueeze(0) if self.pooling == "late" else logits

    def features(self, batch: PackedInput, seed: Seed = None) -> Tensor:
        """What the head reads, [K, H]; with pooling 'late' the states of all tokens, [T, H]."""
        if self.pooling in ("mean", "late"):
            states = self.encoder(batch, seed=seed).hidden
            return states if self.pooling == "late" else _mean(states, batch)
        hidden = self.encoder(batch, rows=batch.item_index, seed=seed).hidden
        return hidden if self.pooler is None else self.pooler(hidden)


def _mean(hidden: Tensor, batch: PackedInput) -> Tensor:
    """The mean over the tokens of the sequence that each item lies in."""
    offsets = batch.cu_seqlens.to(torch.int64)
    # It adds up in the dtype of its input; sums in 16 bits would lose the last tokens.
    wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    if torch.compiler.is_exporting():  # neither operation below exists outside of torch
        tokens, rows = (torch.arange(n, device=wide.device) for n in (wide.shape[0], offsets.shape[0]))
        inside = ((tokens[:, None] >= offsets).sum(1) - 1 == rows[:, None]).to(wide.dtype)
        means = inside @ wide / inside.sum(1, keepdim=True).clamp(min=1)  # one row more than sequences, of zeros
        sequence = (batch.item_index[:, None] >= offsets).sum(1) - 1
    else:
        means = torch.segment_reduce(wide, "mean", offsets=offsets, axis=0)
        sequence = torch.searchsorted(offsets, batch.item_index, right=True) - 1
    return means.to(hidden.dtype).index_select(0, sequence)
