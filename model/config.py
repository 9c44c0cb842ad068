"""The shape of a BERT encoder, from and to the Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .. import ModelError

# field of EncoderConfig -> key of config.json
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
_REQUIRED = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
_SIZES = (*_REQUIRED, "max_positions", "num_segments")

# keys that change the arithmetic, and the only value of each that this encoder computes
_ONLY = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes and constants of a post-LayerNorm BERT encoder; the defaults are those of Hugging Face's `BertConfig`.

    Raises:
        ModelError: a size is not positive, a probability is outside [0, 1), or `hidden_size` is not a multiple of
            `num_heads`. All problems are listed.
    """

    vocab_size: int
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    def __post_init__(self) -> None:
        problems = _problems({f.name: getattr(self, f.name) for f in fields(self)}, lambda name: name)
        if problems:
            raise ModelError("encoder configuration: " + "; ".join(problems))

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], *, file: str = "config.json") -> EncoderConfig:
        """The configuration that the parsed `config.json` describes.

        Args:
            values: the parsed file; keys that do not change the arithmetic are ignored.
            file: named in errors.

        Raises:
            ModelError: a key is missing, has a wrong type or value, or asks for arithmetic that the encoder does not
                have (another activation, relative positions, a decoder); all problems are listed.
        """
        problems = []
        for key, only in _ONLY.items():
            if key in values and values[key] != only:
                problems.append(f"{key} is {values[key]!r}, this encoder computes {only!r} only")
        if values.get("pruned_heads"):
            problems.append("pruned_heads is not empty, this encoder has no pruned heads")
        known = {name: values[key] for name, key in _KEYS.items() if key in values}
        problems += [f"{_KEYS[name]} is missing" for name in _REQUIRED if name not in known]
        problems += _problems(known, _KEYS.__getitem__)
        if problems:
            raise ModelError(f"{file}: " + "; ".join(problems) + "; use a BERT checkpoint (model_type 'bert')")
        return cls(**known)

    def to_hf(self) -> dict[str, Any]:
        """The keys of `config.json` that describe this encoder."""
        values = {key: getattr(self, name) for name, key in _KEYS.items()}
        return {**values, **_ONLY}


def _problems(values: Mapping[str, Any], label: Any) -> list[str]:
    found = []
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name == "pad_token_id":
            vocab = values.get("vocab_size")
            inside = isinstance(vocab, int) and isinstance(value, int) and 0 <= value < vocab
            if value is not None and not (inside and not isinstance(value, bool)):
                found.append(f"{label(name)} is {value!r}, expected null or a row of the vocabulary")
        elif name in _SIZES:
            if not (isinstance(value, int) and number and value > 0):
                found.append(f"{label(name)} is {value!r}, expected a positive integer")
        elif name in ("dropout", "attention_dropout"):
            if not (number and 0 <= value < 1):
                found.append(f"{label(name)} is {value!r}, expected a probability in [0, 1)")
        elif not (number and 0 < value < 1):
            found.append(f"{label(name)} is {value!r}, expected a number between 0 and 1")
    hidden, heads = values.get("hidden_size"), values.get("num_heads")
    if not found and hidden and heads and hidden % heads:
        found.append(f"{label('hidden_size')} {hidden} is not a multiple of {label('num_heads')} {heads}")
    return found
