"""The tensors of a folder against those of a model, by names and shapes alone: each is used, left out, or reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .config import EncoderConfig
from .headers import Stored
from .layout import POSITION_IDS, Layout

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor in a layout, without the prefix -> its shape."""


@dataclass(slots=True)
class Match:
    """What `match` found.

    Attributes:
        found: name in the model's layout -> the tensor of the file.
        copies: second copies of a tensor, with the name of the first; their values must be equal.
        problems: everything that does not fit, in sentences.
    """

    found: dict[str, Stored] = field(default_factory=dict)
    copies: list[tuple[Stored, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def match(
    layout: Layout, shapes: Shapes, tensors: Iterable[Stored], others: tuple[str, ...], *, tied: bool = False
) -> Match:
    """Compares headers with what a model needs; no weights are read.

    Args:
        shapes: what the model needs.
        others: how the names of known tensors begin that the model has no use for.
        tied: the model is a masked LM, whose decoder is the word embedding unless `shapes` has it.
    """
    result = Match()
    found, problems = result.found, result.problems
    for stored in tensors:
        name = layout.bare(stored.name)
        if name == POSITION_IDS or (name not in shapes and name.startswith(others)):
            continue
        second = name == layout.decoder and name not in shapes
        if tied and (second or (name == layout.decoder_bias and name in found)):
            name = layout.word_embedding if second else name
            result.copies.append((stored, name))
        elif name in found:
            problems.append(f"twice: {found[name]} and {stored}")
        elif name in shapes:
            found[name] = stored
        else:
            problems.append(f"unexpected: {stored}")
            continue
        problems += _misfit(stored, shapes[name])
    problems += [f"missing: {name} {list(shape)}" for name, shape in shapes.items() if name not in found]
    if problems and tied and not any(name.startswith(layout.heads["masked-lm"]) for name in found):
        problems.append(
            f"the folder has no masked-LM head; take the checkpoint that {layout.classes}ForMaskedLM was saved to"
        )
    return result


def shapes_of(config: EncoderConfig, part: str = "encoder") -> Shapes:
    """What a part of a model without a task head needs: "encoder", "masked-lm" (with its encoder) or "pooler"."""
    if config.pre_norm is not None:
        parts = pre_norm_tensors(config, masked_lm=part == "masked-lm")
        return {name: (n, *rest) for _, names, rows, rest in parts for name, n in zip(names, rows, strict=True)}
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {}

    def pair(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    if part == "pooler":
        pair("pooler.dense", hidden, hidden)
    else:
        rows = {"word": config.vocab_size, "position": config.max_positions, "token_type": config.num_segments}
        shapes |= {f"embeddings.{name}_embeddings.weight": (n, hidden) for name, n in rows.items() if n}
        pair("embeddings.LayerNorm", hidden)
        for layer in (f"encoder.layer.{i}." for i in range(config.num_layers)):
            for name in ("self.query", "self.key", "self.value", "output.dense"):
                pair(f"{layer}attention.{name}", hidden, hidden)
            pair(layer + "attention.output.LayerNorm", hidden)
            pair(layer + "intermediate.dense", inner, hidden)
            pair(layer + "output.dense", hidden, inner)
            pair(layer + "output.LayerNorm", hidden)
    if part == "masked-lm":
        pair("cls.predictions.transform.dense", hidden, hidden)
        pair("cls.predictions.transform.LayerNorm", hidden)
        shapes["cls.predictions.bias"] = (config.vocab_size,)
    return {config.layout.rename(name): shape for name, shape in shapes.items()}


PreNormTensor = tuple[str, tuple[str, ...], tuple[int, ...], tuple[int, ...]]
"""Name of a parameter in the encoder or masked LM, its names in a checkpoint, their rows, the sizes of a row."""


def pre_norm_tensors(config: EncoderConfig, *, masked_lm: bool) -> Iterator[PreNormTensor]:
    """The tensors of an encoder that normalises first, and of the masked-LM head."""
    parts, hidden, inner = config.pre_norm, config.hidden_size, config.intermediate_size
    assert parts is not None
    names, keys = config.layout.names, hidden // config.num_heads * parts.key_heads

    def pair(
        ours: str, rows: tuple[int, ...], rest: tuple[int, ...], bias: bool, layer: int = 0
    ) -> Iterator[PreNormTensor]:
        path = ours.replace("layers.", f"layers.{layer}.")
        for kind, sizes in (("weight", rest), ("bias", ())) if bias else (("weight", rest),):
            theirs = tuple(name.format(layer) for name in names[f"{ours}_{kind}"])
            yield f"{path}_{kind}", theirs, rows if len(theirs) == len(rows) else (sum(rows),), sizes

    yield "embeddings.word", names["embeddings.word"], (config.vocab_size,), (hidden,)
    if parts.embedding_norm:
        yield from pair("embeddings.norm", (hidden,), (), parts.norm_bias)
    for i in range(config.num_layers):
        if i or not parts.embedding_norm:
            yield from pair("layers.attention_norm", (hidden,), (), parts.norm_bias, i)
        yield from pair("layers.qkv", (hidden, keys, keys), (hidden,), parts.attention_bias, i)
        yield from pair("layers.output", (hidden,), (hidden,), parts.attention_bias, i)
        yield from pair("layers.mlp_norm", (hidden,), (), parts.norm_bias, i)
        yield from pair("layers.up", (inner, inner), (hidden,), parts.mlp_bias, i)
        yield from pair("layers.down", (hidden,), (inner,), parts.mlp_bias, i)
    yield from pair("final.norm", (hidden,), (), parts.norm_bias)
    if masked_lm and parts.transform:
        yield from pair("dense", (hidden,), (hidden,), parts.transform_bias)
        yield from pair("norm", (hidden,), (), parts.norm_bias)
    if masked_lm:
        decoder = pair("decoder", (config.vocab_size,), (hidden,), parts.decoder_bias)
        yield from (tensor for tensor in decoder if tensor[0] == "decoder_bias" or not parts.tied)


def _misfit(stored: Stored, shape: tuple[int, ...]) -> list[str]:
    if not stored.is_float:
        return [f"not a float: {stored} has dtype {stored.dtype}"]
    return [] if stored.shape == shape else [f"shape: {stored}, expected {list(shape)}"]
