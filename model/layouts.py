"""The layouts of encoders: the BERT family, and those that normalise first; another one is one more entry of `LAYOUTS`.

Names of tensors are those of BERT's checkpoints, and a layout says how its own differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tasks import TASKS
from ..untrusted import quoted
from .layout import SHARED_KEYS, TASK_HEADS, Layout, PreNorm

_KEYS = {**SHARED_KEYS, "attention_dropout": "attention_dropout"}
_ACTIVATIONS = ("gelu", "silu")
_LARGEST = 1e12
"""Of a rotary base; what is beyond is a damaged file."""


def _flags(values: Mapping[str, Any], keys: Mapping[str, tuple[str, bool]], problems: list[str]) -> dict[str, bool]:
    """Field -> value of the key that has it, or its default."""
    flags = {name: values.get(key, default) for name, (key, default) in keys.items()}
    problems += [f"{keys[n][0]} is {quoted(v)}, expected true or false" for n, v in flags.items() if v not in (0, 1)]
    return {name: bool(value) for name, value in flags.items()}


def _base(where: str, values: Any, default: Any, problems: list[str]) -> float:
    """The theta of one table of `rope_parameters`."""
    values = {} if values is None else values
    plain = isinstance(values, Mapping) and values.get("rope_type", "default") == "default"
    if not plain or not {"rope_type", "rope_theta"} >= set(values):
        problems.append(f"{where} is {quoted(values)}, this encoder computes rope_type 'default' with rope_theta only")
        return 1.0
    base = values.get("rope_theta", default)
    if type(base) not in (int, float) or not 1 <= base <= _LARGEST:
        problems.append(f"{where}: rope_theta is {quoted(base)}, expected a number from 1 to {_LARGEST:g}")
        return 1.0
    return float(base)


def _activation(values: Mapping[str, Any], key: str, default: str, problems: list[str]) -> str:
    activation = values.get(key, default)
    if activation not in _ACTIVATIONS:
        names = " or ".join(map(repr, _ACTIVATIONS))
        problems.append(f"{key} is {quoted(activation)}, this encoder computes {names} only")
    return str(activation)


_MODERN_FLAGS = {
    "norm_bias": ("norm_bias", False),
    "attention_bias": ("attention_bias", False),
    "mlp_bias": ("mlp_bias", False),
    "transform_bias": ("classifier_bias", False),
    "decoder_bias": ("decoder_bias", True),
    "tied": ("tie_word_embeddings", True),
}
_FULL, _SLIDING = "full_attention", "sliding_attention"


def _read_modern(values: Mapping[str, Any], layers: int) -> PreNorm | list[str]:
    problems: list[str] = []
    flags = _flags(values, _MODERN_FLAGS, problems)
    activation = _activation(values, "hidden_activation", "gelu", problems)
    every = values.get("global_attn_every_n_layers", 3)
    if type(every) is not int or every < 1:
        problems.append(f"global_attn_every_n_layers is {quoted(every)}, expected a positive integer")
        every = 1
    kinds = values.get("layer_types")
    kinds = [_SLIDING if i % every else _FULL for i in range(layers)] if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != layers or not {_FULL, _SLIDING} >= set(map(str, kinds)):
        problems.append(f"layer_types is {quoted(kinds)}, expected {layers} of {_FULL!r} and {_SLIDING!r}")
        kinds = []
    local = values.get("local_attention", 128)
    if type(local) is not int or local < 2:
        problems.append(f"local_attention is {quoted(local)}, expected an integer of at least 2")
        local = 2
    tables = values.get("rope_parameters")
    tables = tables if isinstance(tables, Mapping) else {}
    whole = values.get("global_rope_theta", 160_000.0)
    near = values.get("local_rope_theta", 10_000.0)
    defaults = {_FULL: whole, _SLIDING: whole if near is None else near}
    bases = {k: _base(f"rope_parameters.{k}", tables.get(k), base, problems) for k, base in defaults.items()}
    if problems:
        return problems
    windows = tuple(None if kind == _FULL else local // 2 for kind in kinds)
    heads = values["num_attention_heads"]
    return PreNorm(tuple(bases[k] for k in kinds), windows, heads, activation=activation, **flags)


def _write_modern(parts: PreNorm) -> dict[str, Any]:
    kinds = [_FULL if window is None else _SLIDING for window in parts.windows]
    window = next((w for w in parts.windows if w is not None), 64)
    bases = {_FULL: 160_000.0, _SLIDING: 10_000.0} | dict(zip(kinds, parts.bases, strict=True))
    return {
        "hidden_activation": parts.activation,
        "layer_types": kinds,
        "local_attention": 2 * window,
        "rope_parameters": {kind: {"rope_theta": base, "rope_type": "default"} for kind, base in bases.items()},
        **{key: getattr(parts, name) for name, (key, _) in _MODERN_FLAGS.items()},
        # What versions of transformers before 5 read instead; the first layer of every so many sees all.
        "global_attn_every_n_layers": next((n for n, kind in enumerate(kinds) if n and kind == _FULL), len(kinds)),
        "global_rope_theta": bases[_FULL],
        "local_rope_theta": bases[_SLIDING],
    }


def _pairs(names: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Weight and bias of each: how our name of the two begins -> how theirs do."""
    kinds = ("weight", "bias")
    return {
        f"{ours}_{kind}": tuple(f"{one}.{kind}" for one in theirs) for ours, theirs in names.items() for kind in kinds
    }


MODERNBERT = Layout(
    title="ModernBERT",
    model_type="modernbert",
    classes="ModernBert",
    prefix="model.",
    keys={
        **_KEYS,
        "layer_norm_eps": "norm_eps",
        "dropout": "mlp_dropout",
    },
    constants={"num_segments": 0},
    defaults={
        "vocab_size": 50_368,
        "num_layers": 22,
        "num_heads": 12,
        "hidden_size": 768,
        "intermediate_size": 1152,
        "max_positions": 8192,
        "layer_norm_eps": 1e-5,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "pad_token_id": 50_283,
    },
    only={"embedding_dropout": 0.0, "classifier_activation": "gelu"},
    read=_read_modern,
    write=_write_modern,
    names={
        "embeddings.word": ("embeddings.tok_embeddings.weight",),
        **_pairs(
            {
                "embeddings.norm": ("embeddings.norm",),
                "layers.attention_norm": ("layers.{}.attn_norm",),
                "layers.qkv": ("layers.{}.attn.Wqkv",),
                "layers.output": ("layers.{}.attn.Wo",),
                "layers.mlp_norm": ("layers.{}.mlp_norm",),
                "layers.up": ("layers.{}.mlp.Wi",),
                "layers.down": ("layers.{}.mlp.Wo",),
                "final.norm": ("final_norm",),
                "dense": ("head.dense",),
                "norm": ("head.norm",),
                "decoder": ("decoder",),
            }
        ),
    },
    renames=(
        ("embeddings.word_embeddings.", "embeddings.tok_embeddings."),
        ("cls.predictions.decoder.", "decoder."),
        ("cls.predictions.", "decoder."),
    ),
    body=("embeddings.", "layers.", "final_norm."),
    heads={"masked-lm": ("decoder.", "head."), **TASK_HEADS},
    tagger="prediction",
    classifier=("prediction", "cls"),
    poolings={"cls": "cls", "mean": "mean"},
    head_dropout=dict.fromkeys(TASKS, ("classifier_dropout", 0.0)),
)

_EURO_FLAGS = {
    "attention_bias": ("attention_bias", False),
    "mlp_bias": ("mlp_bias", False),
    "decoder_bias": ("mlp_bias", False),
    "tied": ("tie_word_embeddings", False),
}


def _read_euro(values: Mapping[str, Any], layers: int) -> PreNorm | list[str]:
    problems: list[str] = []
    flags = _flags(values, _EURO_FLAGS, problems)
    activation = _activation(values, "hidden_act", "silu", problems)
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    keys = values.get("num_key_value_heads")
    keys = heads if keys is None else keys
    if type(keys) is not int or keys < 1 or heads % keys:
        problems.append(f"num_key_value_heads is {quoted(keys)}, expected a divisor of num_attention_heads {heads}")
    if values.get("head_dim") not in (None, hidden // heads):
        problems.append(f"head_dim is {quoted(values['head_dim'])}, this encoder computes {hidden // heads} only")
    if values.get("rope_scaling") is not None:
        problems.append(f"rope_scaling is {quoted(values['rope_scaling'])}, this encoder computes none")
    base = _base("rope_parameters", values.get("rope_parameters"), values.get("rope_theta", 10_000.0), problems)
    if problems:
        return problems
    return PreNorm(
        (base,) * layers,
        (None,) * layers,
        keys,
        rms=True,
        activation=activation,
        embedding_norm=False,
        transform=False,
        transform_bias=True,
        **flags,
    )


def _write_euro(parts: PreNorm) -> dict[str, Any]:
    return {
        "hidden_act": parts.activation,
        "num_key_value_heads": parts.key_heads,
        "rope_parameters": {"rope_theta": parts.bases[0], "rope_type": "default"},
        "rope_theta": parts.bases[0],
        "attention_bias": parts.attention_bias,
        "mlp_bias": parts.mlp_bias,
        "tie_word_embeddings": parts.tied,
    }


EUROBERT = Layout(
    title="EuroBERT",
    model_type="eurobert",
    classes="EuroBert",
    prefix="model.",
    keys={**_KEYS, "layer_norm_eps": "rms_norm_eps"},
    constants={"num_segments": 0, "dropout": 0.0},
    defaults={
        "vocab_size": 128_256,
        "hidden_size": 768,
        "num_layers": 12,
        "num_heads": 12,
        "intermediate_size": 3072,
        "max_positions": 8192,
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "pad_token_id": 128_001,
    },
    only={},
    read=_read_euro,
    write=_write_euro,
    names={
        "embeddings.word": ("embed_tokens.weight",),
        **_pairs(
            {
                "layers.attention_norm": ("layers.{}.input_layernorm",),
                "layers.qkv": tuple(f"layers.{{}}.self_attn.{part}_proj" for part in "qkv"),
                "layers.output": ("layers.{}.self_attn.o_proj",),
                "layers.mlp_norm": ("layers.{}.post_attention_layernorm",),
                "layers.up": ("layers.{}.mlp.gate_proj", "layers.{}.mlp.up_proj"),
                "layers.down": ("layers.{}.mlp.down_proj",),
                "final.norm": ("norm",),
                "decoder": ("lm_head",),
            }
        ),
    },
    renames=(
        ("embeddings.word_embeddings.", "embed_tokens."),
        ("cls.predictions.decoder.", "lm_head."),
        ("cls.predictions.", "lm_head."),
        ("head.dense.", "dense."),
    ),
    body=("embed_tokens.", "layers.", "norm."),
    heads={"masked-lm": ("lm_head.",), **TASK_HEADS, "task": ("classifier.", "dense.")},
    classifier=("prediction", "late"),
    poolings={"late": "late", "cls": "bos", "mean": "mean"},
    head_dropout={},
)

BERT = Layout(
    title="BERT",
    model_type="bert",
    classes="Bert",
    prefix="bert.",
    heads={
        "pooler": ("pooler.",),
        "next-sentence": ("cls.seq_relationship.",),
        "masked-lm": ("cls.predictions.",),
        **TASK_HEADS,
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
    heads={"pooler": ("pooler.",), "masked-lm": ("lm_head.",), **TASK_HEADS},
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
        **TASK_HEADS,
    },
    pooler_activation="relu",
    head_dropout={"classification": ("seq_classif_dropout", 0.2)},
)

LAYOUTS = {layout.model_type: layout for layout in (BERT, XLM_ROBERTA, DISTILBERT, MODERNBERT, EUROBERT)}
