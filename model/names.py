"""Which tensor of a Hugging Face checkpoint is which part of a parameter here.

The functions return views: writing into one fills the model, reading one gives what the file holds. A fused matrix
appears as its three thirds and a stack of voters as each voter without its padding.
"""

from __future__ import annotations

from torch import Tensor

from .encoder import Encoder, Layer
from .heads import Head, LinearHead, MlpHead, VoterHeads
from .tasks import MaskedLM, Pooler, TaskModel

PREFIX = "bert."  # names of the encoder inside a checkpoint that has a head
TIED_DECODER = "cls.predictions.decoder.weight"
WORD_EMBEDDING = "embeddings.word_embeddings.weight"
POSITION_IDS = "embeddings.position_ids"
DECODER_BIAS = "cls.predictions.bias"

# tensors that a checkpoint may hold for a use that the wanted model does not have
POOLER, NEXT_SENTENCE = "pooler.", "cls.seq_relationship."
HEADS = ("cls.predictions.", "classifier.", "voters.")

Views = dict[str, Tensor]


def canonical(name: str) -> str:
    """The name in today's spelling and without the prefix: `bert.x.LayerNorm.gamma` -> `x.LayerNorm.weight`."""
    name = name.removeprefix(PREFIX)
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return DECODER_BIAS if name == "cls.predictions.decoder.bias" else name


def file_name(name: str) -> str:
    """The name under which a model with a head is saved: encoder and pooler with the prefix."""
    return PREFIX + name if name.startswith(("embeddings.", "encoder.", POOLER)) else name


def views(model: Encoder | MaskedLM | TaskModel | Pooler) -> Views:
    """Every tensor of the model under its canonical checkpoint name."""
    if isinstance(model, Pooler):
        found: Views = {"pooler.dense.weight": model.dense_weight, "pooler.dense.bias": model.dense_bias}
    elif isinstance(model, Encoder):
        found = _encoder(model)
    elif isinstance(model, MaskedLM):
        found = {**_encoder(model.encoder), **_masked_lm(model)}
    else:
        found = {**_encoder(model.encoder), **_head(model.head)}
        if model.pooler is not None:
            found |= views(model.pooler)
    return {name: value.detach() for name, value in found.items()}


def _encoder(encoder: Encoder) -> Views:
    emb = encoder.embeddings
    found: Views = {
        WORD_EMBEDDING: emb.word,
        "embeddings.position_embeddings.weight": emb.position,
        "embeddings.token_type_embeddings.weight": emb.segment,
        "embeddings.LayerNorm.weight": emb.norm_weight,
        "embeddings.LayerNorm.bias": emb.norm_bias,
    }
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        found |= {f"encoder.layer.{index}.{name}": value for name, value in _layer(layer).items()}
    return found


def _layer(layer: Layer) -> Views:
    found: Views = {}
    for name, weight, bias in zip(
        ("query", "key", "value"), layer.qkv_weight.chunk(3), layer.qkv_bias.chunk(3), strict=True
    ):
        found[f"attention.self.{name}.weight"] = weight
        found[f"attention.self.{name}.bias"] = bias
    return found | {
        "attention.output.dense.weight": layer.output_weight,
        "attention.output.dense.bias": layer.output_bias,
        "attention.output.LayerNorm.weight": layer.attention_norm_weight,
        "attention.output.LayerNorm.bias": layer.attention_norm_bias,
        "intermediate.dense.weight": layer.up_weight,
        "intermediate.dense.bias": layer.up_bias,
        "output.dense.weight": layer.down_weight,
        "output.dense.bias": layer.down_bias,
        "output.LayerNorm.weight": layer.output_norm_weight,
        "output.LayerNorm.bias": layer.output_norm_bias,
    }


def _masked_lm(model: MaskedLM) -> Views:
    return {
        "cls.predictions.transform.dense.weight": model.dense_weight,
        "cls.predictions.transform.dense.bias": model.dense_bias,
        "cls.predictions.transform.LayerNorm.weight": model.norm_weight,
        "cls.predictions.transform.LayerNorm.bias": model.norm_bias,
        DECODER_BIAS: model.decoder_bias,
    }


def _head(head: Head) -> Views:
    if isinstance(head, LinearHead):
        return {"classifier.weight": head.weight, "classifier.bias": head.bias}
    if isinstance(head, MlpHead):
        return {
            "classifier.dense.weight": head.dense_weight,
            "classifier.dense.bias": head.dense_bias,
            "classifier.out_proj.weight": head.weight,
            "classifier.out_proj.bias": head.bias,
        }
    assert isinstance(head, VoterHeads)
    found: Views = {}
    for i, width in enumerate(head.widths):
        found |= {
            f"voters.{i}.dense_in.weight": head.in_weight[i, :width],
            f"voters.{i}.dense_in.bias": head.in_bias[i, :width],
            f"voters.{i}.dense_out.weight": head.out_weight[i, :, :width],
            f"voters.{i}.dense_out.bias": head.out_bias[i],
            f"voters.{i}.classifier.weight": head.weight[i],
            f"voters.{i}.classifier.bias": head.bias[i],
        }
    return found
