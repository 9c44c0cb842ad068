"""Which tensor of a Hugging Face checkpoint is which part of a parameter here.

The functions return views: writing into one fills the model, reading one gives what the file holds. A fused matrix
appears as its three thirds and a stack of voters as each voter without its padding. Names are BERT's here; `views`
gives them as the layout of the model spells them (`layouts.py`).
"""

from __future__ import annotations

from torch import Tensor

from .cloze import ClozeHead
from .encoder import Encoder, Layer
from .heads import Head, LinearHead, MlpHead, VoterHeads
from .tasks import MaskedLM, Pooler, TaskModel

WORD_EMBEDDING = "embeddings.word_embeddings.weight"  # in every layout

Views = dict[str, Tensor]


def views(model: Encoder | MaskedLM | TaskModel | Pooler) -> Views:
    """Every tensor of the model under its name in a checkpoint of its layout, without the prefix."""
    if isinstance(model, Pooler):
        found = _pooler(model)
    elif isinstance(model, Encoder):
        found = _encoder(model)
    elif isinstance(model, MaskedLM):
        found = {**_encoder(model.encoder), **_masked_lm(model)}
    else:
        found = {**_encoder(model.encoder), **_head(model.head)}
        if model.pooler is not None:
            found |= _pooler(model.pooler)
    return {model.config.layout.rename(name): value.detach() for name, value in found.items()}


def _pooler(pooler: Pooler) -> Views:
    return {"pooler.dense.weight": pooler.dense_weight, "pooler.dense.bias": pooler.dense_bias}


def _encoder(encoder: Encoder) -> Views:
    emb = encoder.embeddings
    found: Views = {WORD_EMBEDDING: emb.word, "embeddings.position_embeddings.weight": emb.position}
    if encoder.config.num_segments:
        found["embeddings.token_type_embeddings.weight"] = emb.segment
    found |= {"embeddings.LayerNorm.weight": emb.norm_weight, "embeddings.LayerNorm.bias": emb.norm_bias}
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


def _masked_lm(model: MaskedLM | ClozeHead) -> Views:
    return {
        "cls.predictions.transform.dense.weight": model.dense_weight,
        "cls.predictions.transform.dense.bias": model.dense_bias,
        "cls.predictions.transform.LayerNorm.weight": model.norm_weight,
        "cls.predictions.transform.LayerNorm.bias": model.norm_bias,
        "cls.predictions.bias": model.decoder_bias,
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
    if isinstance(head, ClozeHead):
        return _masked_lm(head)
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
