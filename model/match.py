"""The tensors of a folder against those of a model, by names and shapes alone: each is used, left out, or reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .config import EncoderConfig
from .headers import Stored
from .layouts import POSITION_IDS, Layout

WORD_EMBEDDING = "embeddings.word_embeddings.weight"  # in every layout
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
        tied: the model is a masked LM, whose decoder is the word embedding.
    """
    result = Match()
    found, problems = result.found, result.problems
    for stored in tensors:
        name = layout.bare(stored.name)
        if name == POSITION_IDS or (name not in shapes and name.startswith(others)):
            continue
        if tied and (name == layout.decoder or (name == layout.decoder_bias and name in found)):
            name = WORD_EMBEDDING if name == layout.decoder else name
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


def _misfit(stored: Stored, shape: tuple[int, ...]) -> list[str]:
    if not stored.is_float:
        return [f"not a float: {stored} has dtype {stored.dtype}"]
    return [] if stored.shape == shape else [f"shape: {stored}, expected {list(shape)}"]
