"""What a model folder holds, from the headers of its files alone, and what of it a model uses; torch is not loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .. import ModelError
from ..untrusted import clip, inside, listed, read_object
from .config import EncoderConfig
from .layout import POSITION_IDS, Layout

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
"""What a stage did not train, and what it did."""
AGAIN = "copy or download the file again"
_MOST_TENSORS, _MOST_AXES = 1 << 16, 8  # of a file, of a tensor
_TO_SAFETENSORS = (
    "pickle files are not opened because they can run code; convert it to safetensors where you trust it "
    "(transformers: model.save_pretrained(folder))"
)


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file, as its header describes it."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        """Whether the tensor can be a weight."""
        return self.dtype in ("F64", "F32", "F16", "BF16")

    def __str__(self) -> str:
        return f"{clip(self.name)} {list(self.shape)} in {self.file}"


def scan(folder: Path) -> list[Stored]:
    """The tensors of a model folder, from the headers only.

    Raises:
        ModelError: no safetensors file, a broken header or index, or a file outside the folder.
    """
    if (folder / SINGLE).exists() or (folder / SINGLE).is_symlink():
        return read_header(inside(folder, SINGLE))
    if (folder / INDEX).exists():
        return _scan_shards(folder)
    pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl") for p in folder.glob(pattern)]
    if pickles:
        raise ModelError(f"{folder}: holds {min(pickles)} but no {SINGLE}; {_TO_SAFETENSORS}")
    raise ModelError(f"{folder}: no {SINGLE} and no {INDEX}; is this a model folder?")


def read_header(file: Path) -> list[Stored]:
    """The tensors of one safetensors file; the library checks that they fill it exactly.

    Raises:
        ModelError: the file is truncated, or its header is not valid.
    """
    try:
        with safe_open(file, framework="np") as handle:
            names = list(handle.keys())
            if len(names) > _MOST_TENSORS:
                raise ModelError(f"{file}: {len(names):,} tensors, and {_MOST_TENSORS:,} are read at most; {AGAIN}")
            parts = {name: handle.get_slice(name) for name in names}
            stored = [Stored(file, n, str(part.get_dtype()), tuple(part.get_shape())) for n, part in parts.items()]
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: cannot be read ({clip(str(error))}); {AGAIN}") from error
    if deep := [tensor.name for tensor in stored if len(tensor.shape) > _MOST_AXES]:
        raise ModelError(f"{file}: {clip(deep[0])} has more than {_MOST_AXES} axes; {AGAIN}")
    return stored


def _scan_shards(folder: Path) -> list[Stored]:
    index, mapping = folder / INDEX, read_object(folder, INDEX).get("weight_map")
    if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
        raise ModelError(f"{index}: 'weight_map' is not a table of names and files; {AGAIN}")
    tensors = [stored for shard in sorted(set(mapping.values())) for stored in read_header(inside(folder, shard))]
    stored = {(t.name, t.file.name) for t in tensors}
    named = {(name, Path(shard).name) for name, shard in mapping.items()}
    problems = [f"{clip(name)} is not in {shard}" for name, shard in sorted(named - stored)]
    problems += [f"{clip(name)} of {shard} is not in the index" for name, shard in sorted(stored - named)]
    if problems:
        raise ModelError(f"{index}: does not fit its files: {listed(problems, sign='; ')}; {AGAIN}")
    return tensors


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
