"""Where the layouts of the BERT family differ: keys of `config.json`, names of tensors, classes of transformers.

The arithmetic is one (`encoder.py`), and the names used here are those of BERT's checkpoints; a layout says how its own
differ. Another model of the family is one more entry of `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

POSITION_IDS = "embeddings.position_ids"  # a buffer that older versions of transformers saved
_OLD_SPELLINGS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))

_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
_ONLY = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_BODY = ("embeddings.", "encoder.", "pooler.")


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
        positions_after_pad: whether the first token of a sequence has position `pad_token_id + 1`, not 0.
        renames: parts of names, BERT's and this layout's, replaced in this order.
        body: how the names begin that take the prefix.
        heads: kind of head -> how the names of its tensors begin.
        pooler_activation: "tanh" or "relu".
        classifier: head and pooling of transformers' ...ForSequenceClassification.
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
    positions_after_pad: bool = False
    renames: tuple[tuple[str, str], ...] = ()
    body: tuple[str, ...] = _BODY
    heads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pooler_activation: str = "tanh"
    classifier: tuple[str, str] = ("linear", "pooler")
    head_dropout: Mapping[str, tuple[str, float | None]] = field(
        default_factory=lambda: dict.fromkeys(("ner", "classification"), ("classifier_dropout", None))
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


_TASK_HEADS = {"task": ("classifier.",), "voters": ("voters.",)}

BERT = Layout(
    title="BERT",
    model_type="bert",
    classes="Bert",
    prefix="bert.",
    heads={
        "pooler": ("pooler.",),
        "next-sentence": ("cls.seq_relationship.",),
        "masked-lm": ("cls.predictions.",),
        **_TASK_HEADS,
    },
)

XLM_ROBERTA = Layout(
    title="XLM-RoBERTa",
    model_type="xlm-roberta",
    classes="XLMRoberta",
    prefix="roberta.",
    defaults={"pad_token_id": 1},
    positions_after_pad=True,
    renames=(
        ("cls.predictions.transform.LayerNorm.", "lm_head.layer_norm."),
        ("cls.predictions.transform.", "lm_head."),
        ("cls.predictions.", "lm_head."),
    ),
    heads={"pooler": ("pooler.",), "masked-lm": ("lm_head.",), **_TASK_HEADS},
    classifier=("mlp", "cls"),
)

DISTILBERT = Layout(
    title="DistilBERT",
    model_type="distilbert",
    classes="DistilBert",
    prefix="distilbert.",
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_positions": "max_position_embeddings",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "initializer_range",
        "pad_token_id": "pad_token_id",
    },
    constants={"num_segments": 0, "layer_norm_eps": 1e-12},
    only={"activation": "gelu", "sinusoidal_pos_embds": False, "tie_word_embeddings": True},
    renames=(
        ("encoder.layer.", "transformer.layer."),
        ("attention.self.query.", "attention.q_lin."),
        ("attention.self.key.", "attention.k_lin."),
        ("attention.self.value.", "attention.v_lin."),
        ("attention.output.dense.", "attention.out_lin."),
        ("attention.output.LayerNorm.", "sa_layer_norm."),
        ("intermediate.dense.", "ffn.lin1."),
        ("output.dense.", "ffn.lin2."),
        ("output.LayerNorm.", "output_layer_norm."),
        ("pooler.dense.", "pre_classifier."),
        ("cls.predictions.transform.dense.", "vocab_transform."),
        ("cls.predictions.transform.LayerNorm.", "vocab_layer_norm."),
        ("cls.predictions.decoder.", "vocab_projector."),
        ("cls.predictions.", "vocab_projector."),
    ),
    body=("embeddings.", "transformer."),
    heads={
        "pooler": ("pre_classifier.",),
        "masked-lm": ("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
        **_TASK_HEADS,
    },
    pooler_activation="relu",
    head_dropout={"classification": ("seq_classif_dropout", 0.2)},
)

LAYOUTS = {layout.model_type: layout for layout in (BERT, XLM_ROBERTA, DISTILBERT)}
