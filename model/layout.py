"""How one layout of encoders is written down: keys of `config.json`, names of tensors, classes of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..tasks import TASKS

POSITION_IDS = "embeddings.position_ids"  # a buffer that older versions of transformers saved
_OLD_SPELLINGS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))

SHARED_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
"""Of `EncoderConfig`, by what it is called in the `config.json` of BERT and of those that came after."""
_KEYS = {
    **SHARED_KEYS,
    "num_segments": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_ONLY = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_BODY = ("embeddings.", "encoder.", "pooler.")
TASK_HEADS = {"task": ("classifier.",), "voters": ("voters.",)}
"""How the names of the heads begin that layouts have alike."""


@dataclass(frozen=True, slots=True)
class PreNorm:
    """An encoder that normalises before each sub-layer, turns queries and keys by their position, and has gates.

    ModernBERT (arXiv 2412.13663), mmBERT (arXiv 2509.06888) and EuroBERT (arXiv 2503.05500) are such encoders.

    Attributes:
        bases: of each layer, what the wave lengths of its rotary positions grow to (RoPE's theta; arXiv 2104.09864).
        windows: of each layer, how far to both sides a token sees; None is the whole sequence.
        key_heads: of keys and values; each serves as many heads of queries.
        rms: whether norms divide by the root of the mean square alone (arXiv 1910.07467).
        activation: of the gate, "gelu" or "silu" (arXiv 2002.05202).
        embedding_norm: whether the embeddings are normalised, and the first layer's input then is not.
        transform: whether the masked-LM head has a layer before the last, and the heads of tasks a norm in theirs.
        tied: whether the masked-LM decoder is the word embedding.
        norm_bias, attention_bias, mlp_bias, transform_bias, decoder_bias: whether these have a bias.
    """

    bases: tuple[float, ...]
    windows: tuple[int | None, ...]
    key_heads: int
    rms: bool = False
    activation: str = "gelu"
    embedding_norm: bool = True
    transform: bool = True
    tied: bool = True
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    transform_bias: bool = False
    decoder_bias: bool = True


@dataclass(frozen=True, slots=True)
class Layout:
    """How one `model_type` is written down.

    Attributes:
        title: for people.
        model_type: of `config.json`.
        classes: what the names of its classes in transformers begin with.
        prefix: of the encoder's tensors in a checkpoint that has a head.
        keys: field of `EncoderConfig` -> key of `config.json`.
        constants: fields that `config.json` has no key for.
        defaults: fields that a `config.json` may leave out, where the default is not that of `EncoderConfig`.
        only: keys that change the arithmetic, and the only value of each that the encoder computes.
        read: for layouts of `PreNorm`: `config.json` and the number of layers to what it says of it, or a problem each.
        write: the other way.
        names: for layouts of `PreNorm`: parameter here, without the number of its layer -> its names in a checkpoint,
            `{}` for the number; several where the checkpoint has the parameter's rows in parts.
        positions_after_pad: whether the first token of a sequence has position `pad_token_id + 1`, not 0.
        renames: parts of names, BERT's and this layout's, replaced in this order.
        body: how the names begin that take the prefix.
        heads: kind of head -> how the names of its tensors begin.
        pooler_activation: "tanh" or "relu".
        tagger: head of transformers' ...ForTokenClassification.
        classifier: head and pooling of transformers' ...ForSequenceClassification, without `classifier_pooling`.
        poolings: what that may be: pooling -> its name there; empty where the classifier has the one alone.
        head_dropout: task -> key of the head's dropout, and its default; the encoder's dropout where that is None.
    """

    title: str
    model_type: str
    classes: str
    prefix: str
    keys: Mapping[str, str] = field(default_factory=lambda: _KEYS)
    constants: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=lambda: _ONLY)
    read: Callable[[Mapping[str, Any], int], PreNorm | list[str]] | None = None
    write: Callable[[PreNorm], dict[str, Any]] | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    positions_after_pad: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    body: tuple[str, ...] = _BODY
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pooler_activation: str = "tanh"
    tagger: str = "linear"
    classifier: tuple[str, str] = ("linear", "pooler")
    poolings: Mapping[str, str] = field(default_factory=dict)
    head_dropout: Mapping[str, tuple[str, float | None]] = field(
        default_factory=lambda: dict.fromkeys(TASKS, ("classifier_dropout", None))
    )

    def rename(self, name: str) -> str:
        """BERT's name of a tensor, without prefix, as this layout spells it."""
        for ours, theirs in self.renames:
            name = name.replace(ours, theirs)
        return name

    def bare(self, name: str) -> str:
        """The name of a tensor of a file in today's spelling and without the prefix."""
        name = name.removeprefix(self.prefix)
        for old, new in _OLD_SPELLINGS:
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return self.decoder_bias if name == self.rename("cls.predictions.decoder.bias") else name

    def file_name(self, bare: str) -> str:
        """The name under which a tensor is saved beside a head: encoder and pooler with the prefix."""
        return self.prefix + bare if bare.startswith(self.body) else bare

    @property
    def word_embedding(self) -> str:
        """The word embedding, [V, H]."""
        return self.rename("embeddings.word_embeddings.weight")

    @property
    def decoder(self) -> str:
        """The second copy of the word embedding that a checkpoint may hold."""
        return self.rename("cls.predictions.decoder.weight")

    @property
    def decoder_bias(self) -> str:
        """The bias of the masked-LM decoder."""
        return self.rename("cls.predictions.bias")

    def others(self, *wanted: str) -> tuple[str, ...]:
        """How the names of tensors begin that belong to no kind of head in `wanted`, and can be left out."""
        return tuple(start for kind, starts in self.heads.items() if kind not in wanted for start in starts)
