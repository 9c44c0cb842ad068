from __future__ import annotations

import pytest

from xlt_engine import ModelError
from xlt_engine.model import EncoderConfig

HF = {
    "model_type": "bert",
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-6,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0,
    "initializer_range": 0.01,
    "pad_token_id": 3,
}


def test_round_trip():
    config = EncoderConfig.from_hf(HF)
    assert config == EncoderConfig(97, 32, 3, 4, 64, 40, 1, 1e-6, 0.2, 0, 0.01, 3)
    assert EncoderConfig.from_hf(config.to_hf()) == config
    assert HF.items() <= config.to_hf().items()


def test_defaults_are_those_of_transformers(transformers):
    theirs = transformers.BertConfig(vocab_size=10).to_dict()
    assert EncoderConfig.from_hf(theirs) == EncoderConfig(10)


def test_old_files_without_model_type_and_with_other_keys():
    assert EncoderConfig.from_hf({k: v for k, v in HF.items() if k != "model_type"} | {"directionality": "bidi"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"hidden_size": "32"}, "hidden_size is '32', expected a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"pad_token_id": 97}, "pad_token_id is 97"),
    ],
)
def test_what_the_encoder_does_not_compute(changes, message):
    with pytest.raises(ModelError, match=message) as caught:
        EncoderConfig.from_hf(HF | changes, file="some/config.json")
    assert str(caught.value).startswith("some/config.json: ")


def test_all_problems_at_once():
    values = HF | {"hidden_act": "relu", "vocab_size": -1, "model_type": "t5"}
    del values["num_hidden_layers"]
    with pytest.raises(ModelError) as caught:
        EncoderConfig.from_hf(values)
    for key in ("hidden_act", "vocab_size", "model_type", "num_hidden_layers is missing"):
        assert key in str(caught.value)


def test_direct_construction_is_checked_too():
    with pytest.raises(ModelError, match="hidden_size 30 is not a multiple of num_heads 4"):
        EncoderConfig(97, 30, 3, 4)
