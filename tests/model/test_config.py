"""`config.json` of every layout: round trips, defaults, and what the encoder does not compute."""

import dataclasses

import pytest
import torch

from xlt_engine import ModelError
from xlt_engine.model import Encoder, EncoderConfig, PreNorm
from xlt_engine.model.config import LAYOUTS

from .conftest import CLASSES

SIZES = dict(vocab_size=97, num_hidden_layers=3, num_attention_heads=4, hidden_size=32, intermediate_size=64)
HF = {
    "bert": dict(
        SIZES,
        model_type="bert",
        max_position_embeddings=40,
        type_vocab_size=1,
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0,
        initializer_range=0.01,
        pad_token_id=3,
    ),
    "xlm-roberta": dict(
        SIZES,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        max_position_embeddings=42,
        model_type="xlm-roberta",
        pad_token_id=1,
    ),
    "distilbert": dict(vocab_size=97, dim=32, n_layers=3, n_heads=4, hidden_dim=64, model_type="distilbert"),
    "modernbert": dict(SIZES, pad_token_id=0, model_type="modernbert", mlp_bias=True),
    "eurobert": dict(SIZES, pad_token_id=0, model_type="eurobert", num_key_value_heads=2),
}


@pytest.mark.parametrize("kind", list(HF))
def test_configuration_round_trip(kind):
    config = EncoderConfig.from_hf(HF[kind])
    assert EncoderConfig.from_hf(config.to_hf()) == config
    assert HF[kind].items() <= config.to_hf().items()
    assert (config.num_segments, config.position_offset) == {"bert": (1, 0), "xlm-roberta": (1, 2)}.get(kind, (0, 0))


def test_each_field_is_read_from_its_key():
    expected = EncoderConfig(97, 32, 3, 4, 64, 40, 1, 1e-6, 0.2, 0, 0.01, 3)
    assert EncoderConfig.from_hf(HF["bert"]) == expected
    old = {k: v for k, v in HF["bert"].items() if k != "model_type"} | {"directionality": "bidi"}
    assert EncoderConfig.from_hf(old) == expected
    assert EncoderConfig.from_hf(EncoderConfig(10).to_hf()) == EncoderConfig(10)


@pytest.mark.parametrize("kind", list(CLASSES))
def test_defaults_are_those_of_transformers(transformers, kind):
    theirs = getattr(transformers, CLASSES[kind] + "Config")().to_dict()
    sizes = [LAYOUTS[kind].keys[field] for field in ("vocab_size", "hidden_size", "num_layers", "num_heads")]
    inner = LAYOUTS[kind].keys["intermediate_size"]
    few = {key: theirs[key] for key in (*sizes, inner)} | {"model_type": kind}
    assert EncoderConfig.from_hf(few) == EncoderConfig.from_hf(theirs)
    assert kind != "bert" or EncoderConfig.from_hf(theirs) == EncoderConfig(theirs["vocab_size"])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("bert", {"model_type": "roberta"}, "model_type is 'roberta'"),
        ("bert", {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder"),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("bert", {"hidden_size": "32"}, "hidden_size is '32', expected a positive integer"),
        ("bert", {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ("bert", {"vocab_size": True}, "vocab_size is True"),
        ("bert", {"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ("bert", {"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0"),
        ("bert", {"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ("bert", {"pad_token_id": 97}, "pad_token_id is 97"),
        (
            "bert",
            {"hidden_act": "relu", "vocab_size": -1, "num_hidden_layers": 0},
            r"(?s)(?=.*hidden_act)(?=.*vocab_size)(?=.*num_hidden_layers)",
        ),
        ("xlm-roberta", {"pad_token_id": None}, "pad_token_id is None, but positions begin after it"),
        ("xlm-roberta", {"pad_token_id": 41}, "pad_token_id is 41, but positions begin after it; none is left"),
        ("xlm-roberta", {"type_vocab_size": 0}, "type_vocab_size is 0"),
        ("bert", {"type_vocab_size": 0}, "type_vocab_size is 0"),
        ("distilbert", {"sinusoidal_pos_embds": True}, "sinusoidal_pos_embds is True"),
        ("distilbert", {"activation": "relu", "dim": 0}, "activation is 'relu'.*dim is 0"),
        ("distilbert", {"model_type": "roberta"}, "'roberta'.*num_hidden_layers is missing.*'xlm-roberta'"),
        ("bert", {"model_type": ["bert"]}, "model_type is"),
        (
            "modernbert",
            {"hidden_activation": "relu"},
            "hidden_activation is 'relu', this encoder computes 'gelu' or 's",
        ),
        ("modernbert", {"embedding_dropout": 0.1}, "embedding_dropout is 0.1, this encoder computes 0.0 only"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types is .*, expected 3 of 'full_attention' and"),
        ("modernbert", {"local_attention": 1}, "local_attention is 1, expected an integer of at least 2"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0, expected a positive"),
        ("modernbert", {"norm_bias": "no"}, "norm_bias is 'no', expected true or false"),
        ("modernbert", {"hidden_size": 36}, "heads of 9 values cannot be turned in pairs"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}},
            "rope_parameters.full_attention is .*yarn.*, this encoder computes rope_type 'default' with",
        ),
        ("eurobert", {"rope_theta": 0}, "rope_theta is 0, expected a number from 1"),
        ("eurobert", {"num_key_value_heads": 3}, "num_key_value_heads is 3, expected a divisor of .* 4"),
        ("eurobert", {"head_dim": 16}, "head_dim is 16, this encoder computes 8 only"),
        ("eurobert", {"rope_scaling": {"factor": 2}}, "rope_scaling is .*, this encoder computes none"),
    ],
)
def test_what_the_encoder_does_not_compute(kind, changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        EncoderConfig.from_hf(HF[kind] | changes, file="some/config.json")
    assert kind != "bert" or str(caught.value).startswith("some/config.json: ")


def test_direct_construction_keeps_to_the_layout():
    with pytest.raises(ModelError, match="hidden_size 30 is not a multiple of num_heads 4"):
        EncoderConfig(97, 30, 3, 4)
    with pytest.raises(ModelError, match="model_type is 'electra'"):
        EncoderConfig(97, model_type="electra")
    with pytest.raises(ModelError, match="position_offset is 0, a xlm-roberta model has 2"):
        EncoderConfig(97, pad_token_id=1, model_type="xlm-roberta")
    with pytest.raises(ModelError, match="num_segments is 2, a distilbert model has 0"):
        EncoderConfig(97, model_type="distilbert")
    with pytest.raises(ModelError, match="num_segments is 0"):
        EncoderConfig(97, num_segments=0)
    modern = EncoderConfig.from_hf(HF["modernbert"])
    with pytest.raises(ModelError, match="pre_norm is None, which no modernbert model has"):
        dataclasses.replace(modern, pre_norm=None)
    with pytest.raises(ModelError, match="not one base and one window for each of 3 layers"):
        dataclasses.replace(modern, pre_norm=PreNorm((1e4,), (None,), 4))


def test_keys_of_older_versions():
    """What ModernBERT's and mmBERT's published config.json have: thetas beside each other, and every so many layers."""
    old = {"global_rope_theta": 160_000.0, "local_rope_theta": 5000.0, "global_attn_every_n_layers": 2}
    parts = EncoderConfig.from_hf(HF["modernbert"] | old | {"local_attention": 10}).pre_norm
    assert (parts.bases, parts.windows) == ((160_000.0, 5000.0, 160_000.0), (None, 5, None))
    parts = EncoderConfig.from_hf(HF["modernbert"] | old | {"local_rope_theta": None}).pre_norm
    assert set(parts.bases) == {160_000.0}
    again = EncoderConfig.from_hf(HF["modernbert"] | old).to_hf()
    assert old.items() <= again.items()


def test_published_sizes():
    """XLM-R base 278.0 M with its pooler, LaBSE 470.9 M with its pooler, DistilBERT-multilingual 134.7 M.

    ModernBERT base 149.0 M, mmBERT base 306.9 M, EuroBERT-210m 211.8 M (without their masked-LM heads).
    """
    xlmr = EncoderConfig(
        250_002, max_positions=514, num_segments=1, pad_token_id=1, model_type="xlm-roberta", position_offset=2
    )
    distil = EncoderConfig(119_547, num_layers=6, num_segments=0, model_type="distilbert")
    modern, euro = ({"model_type": kind} for kind in ("modernbert", "eurobert"))
    for config, pooler, millions in (
        (xlmr, 1, 278.0),
        (EncoderConfig(501_153), 1, 470.9),
        (distil, 0, 134.7),
        (EncoderConfig.from_hf(modern), 0, 149.0),
        (EncoderConfig.from_hf(modern | {"vocab_size": 256_000}), 0, 306.9),
        (EncoderConfig.from_hf(euro), 0, 211.8),
    ):
        with torch.device("meta"):
            encoder = Encoder(config, seed=None)
        assert round((sum(p.numel() for p in encoder.parameters()) + pooler * (768 * 769)) / 1e6, 1) == millions
    assert xlmr.max_length == 512
