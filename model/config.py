"""The shape of an encoder of the BERT family, from and to the Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .. import ModelError
from ..untrusted import quoted
from .layout import Layout, PreNorm
from .layouts import BERT, LAYOUTS

_REQUIRED = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
_KNOWN = f"use a checkpoint of the BERT family (model_type {', '.join(map(repr, LAYOUTS))})"
LIMITS = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 16,
    "num_layers": 1024,
    "num_heads": 1 << 16,
    "intermediate_size": 1 << 18,
    "max_positions": 1 << 20,
    "num_segments": 1 << 10,
}
"""Largest sizes of an encoder; what is beyond them is no encoder of the BERT family, but a damaged file."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes and constants of an encoder; the defaults are those of Hugging Face's `BertConfig`.

    Attributes:
        max_positions: rows of the position table, or the most tokens without one; `max_length` is how many tokens of a
            sequence they serve.
        num_segments: rows of the segment table; 0 where there is none, and with fewer than two all tokens are alike.
        model_type: layout of the checkpoint, a key of `layouts.LAYOUTS`.
        position_offset: position of the first token.
        pre_norm: what else there is to say of a layout that normalises first; None for BERT and its like.

    Raises:
        ModelError: a size is not positive, a probability is outside [0, 1), `hidden_size` is not a multiple of
            `num_heads`, or a value is none that the layout can hold. All problems are listed.
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
    model_type: str = "bert"
    position_offset: int = 0
    pre_norm: PreNorm | None = None

    def __post_init__(self) -> None:
        if self.model_type not in LAYOUTS:
            raise ModelError(f"encoder configuration: model_type is {self.model_type!r}; {_KNOWN}")
        own = ("model_type", "position_offset", "pre_norm")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in own}
        problems = _problems(self.layout, values, lambda name: name)
        for name, value in ({} if problems else _implied(self.layout, values)).items():
            if getattr(self, name) != value:
                problems.append(f"{name} is {getattr(self, name)!r}, a {self.model_type} model has {value!r}")
        if (self.layout.read is None) != (self.pre_norm is None):
            problems.append(f"pre_norm is {self.pre_norm!r}, which no {self.model_type} model has")
        if self.pre_norm is not None and {len(self.pre_norm.bases), len(self.pre_norm.windows)} != {self.num_layers}:
            problems.append(f"pre_norm has not one base and one window for each of {self.num_layers} layers")
        if self.pre_norm is not None and not problems and self.hidden_size // self.num_heads % 2:
            problems.append(f"heads of {self.hidden_size // self.num_heads} values cannot be turned in pairs")
        if problems:
            raise ModelError("encoder configuration: " + "; ".join(problems))

    @property
    def layout(self) -> Layout:
        """How checkpoints of this model are written down."""
        return LAYOUTS[self.model_type]

    @property
    def max_length(self) -> int:
        """The most tokens that a sequence can have."""
        return self.max_positions - self.position_offset

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
        model_type = values.get("model_type", BERT.model_type)  # old files of BERT have no such key
        if not isinstance(model_type, str) or model_type not in LAYOUTS:
            problems.append(
                f"model_type is {quoted(model_type)}, this encoder computes {', '.join(map(repr, LAYOUTS))} only"
            )
            model_type = BERT.model_type
        layout = LAYOUTS[model_type]
        for key, only in layout.only.items():
            if key in values and values[key] != only:
                problems.append(f"{key} is {quoted(values[key])}, this encoder computes {only!r} only")
        if values.get("pruned_heads"):
            problems.append("pruned_heads is not empty, this encoder has no pruned heads")
        known = {**layout.defaults, **{name: values[key] for name, key in layout.keys.items() if key in values}}
        problems += [f"{layout.keys[name]} is missing" for name in _REQUIRED if name not in known]
        problems += _problems(layout, known, layout.keys.__getitem__)
        parts: PreNorm | list[str] | None = None
        if layout.read is not None and not problems:
            parts = layout.read({**values, **{layout.keys[n]: v for n, v in known.items()}}, known["num_layers"])
            problems += parts if isinstance(parts, list) else []
        if problems or isinstance(parts, list):
            raise ModelError(f"{file}: " + "; ".join(problems) + f"; {_KNOWN}")
        return cls(**known, **_implied(layout, known), model_type=model_type, pre_norm=parts)

    def to_hf(self) -> dict[str, Any]:
        """The keys of `config.json` that describe this encoder."""
        values = {key: getattr(self, name) for name, key in self.layout.keys.items()}
        parts = {} if self.pre_norm is None or self.layout.write is None else self.layout.write(self.pre_norm)
        return {**values, **parts, **self.layout.only, "model_type": self.model_type}


def _implied(layout: Layout, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a layout decides."""
    return {**layout.constants, "position_offset": values["pad_token_id"] + 1 if layout.positions_after_pad else 0}


def _expected(name: str, value: Any, vocab_size: Any) -> str:
    """What a field has to be; empty where it is."""
    whole, number = type(value) is int, type(value) in (int, float)
    if name == "pad_token_id":
        inside = whole and type(vocab_size) is int and 0 <= value < vocab_size
        return "" if value is None or inside else "null or a row of the vocabulary"
    if name in LIMITS:
        limit = LIMITS[name]
        return "" if whole and 0 < value <= limit else f"a positive integer of at most {limit:,}"
    if name in ("dropout", "attention_dropout"):
        return "" if number and 0 <= value < 1 else "a probability in [0, 1)"
    return "" if number and 0 < value < 1 else "a number between 0 and 1"


def _problems(layout: Layout, values: Mapping[str, Any], label: Callable[[str], str]) -> list[str]:
    checked = {name: value for name, value in values.items() if name not in layout.constants}
    expected = {name: _expected(name, value, values.get("vocab_size")) for name, value in checked.items()}
    problems = [f"{label(n)} is {quoted(checked[n])}, expected {kind}" for n, kind in expected.items() if kind]
    if problems:
        return problems
    hidden, heads, pad = (values.get(name) for name in ("hidden_size", "num_heads", "pad_token_id"))
    if hidden and heads and hidden % heads:
        problems.append(f"{label('hidden_size')} {hidden} is not a multiple of {label('num_heads')} {heads}")
    if layout.positions_after_pad and (pad is None or pad + 1 >= values.get("max_positions", pad + 2)):
        problems.append(f"{label('pad_token_id')} is {pad!r}, but positions begin after it; none is left")
    return problems
