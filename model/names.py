"""Which tensor of a Hugging Face checkpoint is which part of a parameter here.

The functions return views: writing into one fills the model, reading one gives what the file holds. A fused matrix
appears as its three thirds and a stack of voters as each voter without its padding. Names are BERT's here; `views`
gives them as the layout of the model spells them (`layouts.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .encoder import Encoder
from .headers import pre_norm_tensors
from .heads import Head, VoterHeads
from .layers import Embeddings, Layer
from .tasks import ClozeHead, MaskedLM, Pooler, TaskModel

_POOLER = {"pooler.dense": "dense"}
_LAYER = {
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "output_norm",
}
_TRANSFORM = {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.LayerNorm": "norm"}
_WORD, _DECODER_BIAS = "embeddings.word_embeddings.weight", "cls.predictions.bias"
_HEADS = {
    "linear": {"classifier": ""},
    "prediction": {"head.dense": "dense", "head.norm": "norm", "classifier": ""},
    "mlp": {"classifier.dense": "dense", "classifier.out_proj": ""},
}

Views = dict[str, Tensor]


def views(model: Encoder | MaskedLM | TaskModel | Pooler) -> Views:
    """Every tensor of the model under its name in a checkpoint of its layout, without the prefix."""
    if isinstance(model, Pooler):
        found = _pairs(model, _POOLER)
    elif isinstance(model, Encoder):
        found = _encoder(model)
    elif isinstance(model, MaskedLM):
        found = _masked_lm(model)
    else:
        found = {**_encoder(model.encoder), **_head(model.head)}
        if model.pooler is not None:
            found |= _pairs(model.pooler, _POOLER)
    return {model.config.layout.rename(name): value.detach() for name, value in found.items()}


def _pairs(module: nn.Module, names: Mapping[str, str]) -> Views:
    """Weight and bias of each part: name in a checkpoint -> how the module's two parameters begin."""
    kinds = ("weight", "bias")
    both = {
        f"{name}.{kind}": getattr(module, f"{part}_{kind}" if part else kind)
        for name, part in names.items()
        for kind in kinds
    }
    return {name: value for name, value in both.items() if value is not None}


def _pre_norm(model: Encoder | MaskedLM) -> Views:
    masked_lm = isinstance(model, MaskedLM)
    found: Views = {}
    for path, names, rows, _ in pre_norm_tensors(model.config, masked_lm=masked_lm):
        inside = "encoder." if masked_lm and path.startswith(("embeddings.", "layers.", "final.")) else ""
        found |= zip(names, torch.split(model.get_parameter(inside + path), list(rows)), strict=True)
    return found


def _masked_lm(model: MaskedLM) -> Views:
    if model.config.pre_norm is not None:
        return _pre_norm(model)
    assert model.decoder_bias is not None
    return {**_encoder(model.encoder), **_pairs(model, _TRANSFORM), _DECODER_BIAS: model.decoder_bias}


def _encoder(encoder: Encoder) -> Views:
    if encoder.config.pre_norm is not None:
        return _pre_norm(encoder)
    emb = encoder.embeddings
    assert isinstance(emb, Embeddings)
    found: Views = {_WORD: emb.word, "embeddings.position_embeddings.weight": emb.position}
    if encoder.config.num_segments:
        found["embeddings.token_type_embeddings.weight"] = emb.segment
    found |= _pairs(emb, {"embeddings.LayerNorm": "norm"})
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        thirds = zip(layer.qkv_weight.chunk(3), layer.qkv_bias.chunk(3), strict=True)
        own: Views = {}
        for name, (weight, bias) in zip(("query", "key", "value"), thirds, strict=True):
            own |= {f"attention.self.{name}.weight": weight, f"attention.self.{name}.bias": bias}
        own |= _pairs(layer, _LAYER)
        found |= {f"encoder.layer.{index}.{name}": value for name, value in own.items()}
    return found


def _head(head: Head) -> Views:
    if isinstance(head, ClozeHead):
        names = {"head.dense": "dense", "head.norm": "norm"} if head.config.pre_norm else _TRANSFORM
        bias = "decoder.bias" if head.config.pre_norm else _DECODER_BIAS
        return _pairs(head, names) | ({} if head.decoder_bias is None else {bias: head.decoder_bias})
    if not isinstance(head, VoterHeads):
        return _pairs(head, _HEADS[head.kind])
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
